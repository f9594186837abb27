"""What a mesh does while it runs, at Ray's Prometheus endpoint: images, errors, batch seconds, queue depth, busy share."""

import threading
import time
from collections.abc import Sequence

from ray.util.metrics import Counter, Gauge, Histogram

from vit_actor.actor import DeviceThread

BATCH_SECONDS = [round(0.001 * 1.5**step, 5) for step in range(24)]
"""Upper bounds of the histogram's buckets, 1 ms to 11 s: a T3000's batch takes some 6 ms and a CPU's seconds."""
SAMPLE_SECONDS = 5.0
"""Between two looks at a device. Prometheus asks every 10 s, and each look covers all that happened since the last."""


class MeshMetrics:
    """One actor's metrics, tagged run_id and mesh; Ray adds the prefix `ray_`, and `_total` to counters.

    Counters and the histogram grow by the chunk. The gauges are sampled by a thread, since a mesh that gets nothing to do
    would otherwise go on showing how busy it was.

    device: whose queue and busy time are sampled.
    """

    def __init__(self, device: DeviceThread, *, run_id: str, mesh: str) -> None:
        tags = {"run_id": run_id, "mesh": mesh}
        keys = tuple(tags)
        self._images = Counter("loudbox_images", "Images with a committed row, errors among them", keys)
        self._errors = Counter("loudbox_errors", "Images whose committed row is an error", keys)
        self._batch_seconds = Histogram("loudbox_batch_seconds", "Seconds a batch kept its device", BATCH_SECONDS, keys)
        self._queue = Gauge("loudbox_queue_batches", "Batches that wait for the device", keys)
        self._busy = Gauge("loudbox_device_busy_share", f"Share of the last {SAMPLE_SECONDS:g} s the device was busy", keys)
        for metric in (self._images, self._errors, self._batch_seconds, self._queue, self._busy):
            metric.set_default_tags(tags)
        self._device = device
        threading.Thread(target=self._sample, name="metrics", daemon=True).start()

    def committed(self, images: int, errors: int, batch_seconds: Sequence[float]) -> None:
        """A chunk is there to stay: so many images, errors among them, classified in batches that took so long."""
        self._images.inc(images)
        if errors:  # a counter takes no zero
            self._errors.inc(errors)
        for seconds in batch_seconds:
            self._batch_seconds.observe(seconds)

    def _sample(self) -> None:
        looked, counted = time.monotonic(), self._device.busy_seconds
        self._busy.set(0.0)
        while True:
            self._queue.set(self._device.waiting)
            time.sleep(SAMPLE_SECONDS)
            now = time.monotonic()
            # A long batch counts when it ends; what exceeds this span belongs to the next, so that the average is right.
            busy = min(self._device.busy_seconds - counted, now - looked)
            self._busy.set(busy / (now - looked))
            looked, counted = now, counted + busy
