"""Classify chunks on one mesh and commit the predictions; the class Ray Data makes an actor of."""

import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import RayError

from jobs.pipeline.attempts import Quarantine
from jobs.pipeline.cache import with_pixels
from jobs.pipeline.chunk import Chunk
from jobs.pipeline.commit import Predictions
from jobs.pipeline.event_log import EventLog
from jobs.pipeline.ledger import tell_ledger
from jobs.pipeline.mesh_checks import MeshChecks
from jobs.pipeline.mesh_metrics import MeshMetrics
from jobs.pipeline.schema import ANSWERS
from jobs.storage.failure import patiently
from vit_actor.actor import DeviceThread, Part
from vit_actor.device import NO_CLASS, Device
from vit_actor.errors import DeviceError, UserError
from vit_actor.self_check import CheckFailed

NO_ANSWER = "the model's answer is not a finite number"
NO_ANSWER_TO_ANY = f"{NO_ANSWER}, nor is any in its batch: suspect the device, or a model that overflows at its precision"
TELL_SECONDS = 1.0  # Between two messages to the ledger of how many images have an answer
CLOCK_SECONDS = 1.0  # By less, a clock was not set
RELEASE_SECONDS = 5.0  # Limit for telling the ledger that an actor ends
HOLD_SECONDS = 60.0  # A mesh that stays out keeps a chunk so long, lest it be given one after the other
_LOSING = threading.Lock()


class Classifier:
    """A Ray actor's body: pins a device once, then classifies and commits chunks from concurrent calls.

    Committing here, not in a task of its own, halves what a chunk costs the driver; while one call waits for storage, the
    others keep the device busy.

    open_device: called on the thread that will own the device.
    predictions: where to.
    identity: run_id, attempt and versions, repeated in every file's footer.
    ledger: handle of the run's ledger actor.
    limit_seconds: after which a silent device is taken to hang.
    calls: how many calls run at once.
    check_seconds: between two checks of the mesh's chips, in the long run.
    """

    def __init__(
        self,
        open_device: Callable[[], Device],
        predictions: Predictions,
        identity: dict[str, Any],
        ledger: Any,
        limit_seconds: float,
        calls: int,
        check_seconds: float,
    ) -> None:
        # The device's thread must not wait 5 ms, half a batch, whenever another thread has the interpreter.
        sys.setswitchinterval(0.5e-3)
        self._calls = _Calls(calls, ledger)
        more_coming = self._calls.more_coming  # not this object's method: its thread would keep it alive
        self._device_thread = partial(DeviceThread, open_device, limit_seconds=limit_seconds, more_coming=more_coming)
        self._predictions = predictions
        self._ledger = ledger
        tell_ledger(ledger)
        self._host = socket.gethostname()
        self._check_seconds = check_seconds
        actor = ray.get_runtime_context().get_actor_id()
        self._mesh = mesh_name(self._host, ray.get(ledger.place.remote(self._host, actor)))
        self._log = EventLog(run_id=identity["run_id"], mesh=self._mesh)
        self._identity = {**identity, "mesh": self._mesh}
        self._clock, self._boot = _clock(), Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._opening = threading.Lock()
        self._lose = partial(lose, ledger, self._mesh, self._log)
        while (start := ray.get(ledger.start.remote(self._mesh))) == "wait":
            self._end_if_none_is_left()
            time.sleep(1)
        self._out = start == "out"
        if start == "open":  # later: at the end of a run Ray starts actors on boards that others have released, for no chunk
            self._open()

    def _open(self) -> None:
        with self._opening:
            if hasattr(self, "_metrics"):
                return
            ray.get(self._ledger.opening.remote(self._mesh))
            try:
                self._device = patiently(self._start_device, "the checkpoint", "read")
            except CheckFailed as error:
                self._lose(error)
            except Exception as error:
                self._log.warning("mesh did not open", error=str(error))
                ray.get(self._ledger.note.remote("device", self._mesh, str(error)))
                raise
            opened_at = time.time()
            checked_at = opened_at if self._device.chips else None
            ray.get(self._ledger.arrive.remote(self._mesh, ray.get_runtime_context().get_node_id(), checked_at))
            self._identity |= {
                "description": self._device.description,
                "batch_size": self._device.batch_size,
                "compile_seconds": self._device.compile_seconds,
                "start": self._device.start,
                "opened_at": opened_at,
            }
            threading.Thread(target=_tell_images, args=(self._device, self._ledger), daemon=True).start()
            self._metrics = MeshMetrics(self._device, run_id=self._identity["run_id"], mesh=self._mesh)
            self._checks = MeshChecks(self._device, self._ledger, self._mesh, self._lose)
            self._checks.keep_on(self._check_seconds)
            again = ray.get_runtime_context().was_current_actor_reconstructed
            self._log.info("mesh opened", restart=again, description=self._device.description)
            self._checks.leave_when_drained(self._calls.going("alone"), self._log)

    def _start_device(self) -> DeviceThread:
        try:
            return self._device_thread()
        except ImportError as error:  # no error of storage
            raise DeviceError(str(error)) from error

    def __del__(self) -> None:
        """Release the boards when the run has no more chunks: Ray Data then releases this object, before the actor exits."""
        if hasattr(self, "_metrics"):  # else it never opened
            with suppress(RayError):  # the driver may be gone
                try:
                    self._checks.attempt(last=True)
                except DeviceError as error:
                    tell_loss(self._ledger, self._mesh, self._log, error)
                ray.get(self._ledger.released.remote(self._mesh), timeout=RELEASE_SECONDS)
            self._device.close()
            self._log.info("mesh closed")

    def __call__(self, table: pa.Table) -> pa.Table:
        """A row of Chunk.to_table -> a row (chunk, images, errors), once its predictions are there to stay.

        When the run is draining, chunks that are not on the device yet are left alone: decoded ones may be minutes of work.
        """
        if self._out:
            return self._hand_back(table["chunk"][0].as_py())
        self._open()
        chunk = with_pixels(Chunk.from_table(table))
        with self._calls.going("arriving"):  # first, so that the chunk is always counted, here or as coming by the ledger
            quarantine = ray.get(self._ledger.begin.remote(chunk.name, len(chunk.pixels), self._device.batch_size, self._mesh))
        began = self._clock + time.monotonic()
        if quarantine == "stop":
            return committed_row(chunk.name)
        try:
            if quarantine is None:
                with self._calls.going("shared"):
                    parts, begun = self._device.classify(chunk.pixels), self._checks.begun
            else:
                self._log.warning("chunk tried in pieces", chunk=chunk.name, pieces=quarantine.pieces)
                with self._calls.going("alone"):
                    (chunk, parts), begun = self._classify_in_quarantine(chunk, quarantine), self._checks.begun
        except DeviceError as error:
            self._lose(error)
        clock = _clock()
        parts = [steady(part, began, self._clock, clock) for part in parts]
        rows = prediction_rows(chunk, parts, host=self._host, mesh=self._mesh, run_id=self._identity["run_id"])
        footer = {
            **self._identity,
            "chunk": chunk.name,
            "read_host": chunk.host,
            "read_cpu_seconds": chunk.cpu_seconds,
            "clock": clock,
            "boot": self._boot,
            "checks": begun,
            "shared_batches": {part.number: [part.first, part.images] for part in parts if len(part.classes) < part.images},
        }
        try:
            self._predictions.commit(chunk.name, rows, footer)
        except UserError as error:
            self._log.warning("chunk not committed", chunk=chunk.name, error=str(error))
            raise
        more_is_coming = self._ledger.done.remote(chunk.name, self._mesh, begun)
        if begun is not None and not ray.get(more_is_coming):  # Ray Data may end this actor after it
            self._checks.check()
        failed = rows.num_rows - rows["error"].null_count
        self._metrics.committed(rows.num_rows, failed, [part.seconds for part in parts if part.first == 0])
        return committed_row(chunk.name, rows.num_rows, failed)

    def _hand_back(self, chunk: str) -> pa.Table:
        """Leave a chunk to other meshes: this one stays out."""
        ray.get(self._ledger.hand_back.remote(chunk))
        until = time.monotonic() + HOLD_SECONDS
        while time.monotonic() < until and ray.get(self._ledger.others_have_work.remote()):
            self._end_if_none_is_left()
            time.sleep(1)
        self._end_if_none_is_left()
        return committed_row(chunk)

    def _end_if_none_is_left(self) -> None:
        if why := ray.get(self._ledger.none_left.remote()):
            raise DeviceError(why)

    def _classify_in_quarantine(self, chunk: Chunk, quarantine: Quarantine) -> tuple[Chunk, list[Part]]:
        """Piece by piece, each announced first, so that the ledger knows which one an actor died of."""
        parts: list[Part] = []
        for start, end in quarantine.pieces:
            ray.get(self._ledger.trying.remote(chunk.name, (start, end)))
            parts += self._device.classify(chunk.pixels[start:end])
        ray.get(self._ledger.trying.remote(chunk.name, None))
        return chunk.without(quarantine.given_up, "the device fails on this image"), parts


def committed_row(chunk: str, images: int = 0, errors: int = 0) -> pa.Table:
    """What the stages yield of a chunk; of no images where it was not classified."""
    return pa.table({"chunk": [chunk], "images": [images], "errors": [errors]})


def tell_loss(ledger: Any, mesh: str, log: EventLog, error: DeviceError) -> None:
    """Write down that a device is lost; raises RayError where the driver is gone."""
    log.warning("device lost", error=str(error))
    if isinstance(error, CheckFailed):
        ray.get(ledger.failed.remote(mesh, error.chips, str(error)))
    ray.get(ledger.note.remote("device", mesh, str(error)))


def lose(ledger: Any, mesh: str, log: EventLog, error: DeviceError) -> NoReturn:
    """End this process, since only a fresh one gets a lost device back: Ray starts one and gives it the same chunks again."""
    _LOSING.acquire()  # never released: one thread tells of the loss, the others end with the process
    with suppress(RayError):  # the driver may be gone
        tell_loss(ledger, mesh, log, error)
    os._exit(1)


def _tell_images(device: DeviceThread, ledger: Any) -> None:
    """Tell the ledger how many more images have an answer, while this process lives: a chunk takes a slow device minutes."""
    told = 0
    while True:
        time.sleep(TELL_SECONDS)
        if more := device.images - told:
            ledger.classified.remote(more)
            told += more


def _clock() -> float:
    """What the host's wall clock is ahead of its monotonic one, in seconds: the same until somebody sets it."""
    return time.time() - time.monotonic()


def steady(part: Part, began: float, first: float, now: float) -> Part:
    """A part with the time at which it was taken by the clock as it was `first`, where it is set to `now` since.

    began: when the call of the part began, by the first clock.
    """
    if abs(now - first) < CLOCK_SECONDS or began - CLOCK_SECONDS < part.started_at < first + time.monotonic() + CLOCK_SECONDS:
        return part
    return replace(part, started_at=part.started_at - (now - first))


class _Calls:
    """Many ordinary calls at once, or one call in quarantine alone: only then does a crash tell which image caused it.

    most: how many Ray starts at once.
    """

    def __init__(self, most: int, ledger: Any) -> None:
        self._changed = threading.Condition()
        self._most, self._ledger = most, ledger
        self._going: Counter[str] = Counter()

    def more_coming(self) -> bool:
        """Whether images that do not fill a batch may wait for others."""
        if self._going["alone"] or self._going["shared"] >= self._most:  # no other call can come before one has returned
            return False
        try:
            coming: bool = ray.get(self._ledger.more_is_coming.remote())
        except RayError:  # the driver may be gone
            return False
        return coming or self._going["arriving"] > 0

    @contextmanager
    def going(self, how: Literal["arriving", "shared", "alone"]) -> Iterator[None]:
        """Around a call: `arriving`, before it goes to the device; `shared`, on it with others; `alone`, on it by itself."""
        with self._changed:
            if how != "arriving":
                self._changed.wait_for(lambda: not self._going["alone"])
            self._going[how] += 1
            if how == "alone":
                self._changed.wait_for(lambda: not self._going["shared"])
        try:
            yield
        finally:
            with self._changed:
                self._going[how] -= 1
                self._changed.notify_all()


def mesh_name(host: str, number: int) -> str:
    """host/boards, such as loudbox-1/0-3, from the boards Ray gave this worker; without boards host/cpu-<number>."""
    boards = ray.get_runtime_context().get_accelerator_ids().get("TTNPU", [])
    if not boards:
        return f"{host}/cpu-{number}"
    return f"{host}/{boards[0]}-{boards[-1]}" if len(boards) > 1 else f"{host}/{boards[0]}"


def prediction_rows(chunk: Chunk, parts: list[Part], *, host: str, mesh: str, run_id: str) -> pa.Table:
    """One row an image of the chunk (schema ANSWERS), in its order; images that have an error get no prediction."""
    answers = _answers(parts) if parts else ANSWERS.empty_table()
    decoded = np.array([error is None for error in chunk.errors], bool)
    # Where each image's answer is; Arrow's take makes a row of nulls of a null index.
    rows = answers.take(pa.array(np.cumsum(decoded) - 1, pa.int64(), mask=~decoded))
    labels = pa.array(chunk.labels, pa.int32())
    ours = {
        "image_id": pa.array(chunk.image_ids, pa.string()),
        "label": labels,
        "correct": pc.if_else(pc.is_valid(labels), pc.fill_null(pc.equal(rows["prediction"], labels), False), None),
        "error": pc.coalesce(pa.array(chunk.errors, pa.string()), rows["error"]),
        "host": pa.repeat(host, len(labels)),
        "mesh": pa.repeat(mesh, len(labels)),
        "run_id": pa.repeat(run_id, len(labels)),
    }
    return pa.Table.from_arrays([ours[name] if name in ours else rows[name] for name in ANSWERS.names], schema=ANSWERS)


def _answers(parts: list[Part]) -> pa.Table:
    """A row a decoded image, of the columns that answers make: nulls and an error where there is none (NO_CLASS)."""
    sizes = [len(part.classes) for part in parts]
    classes, probabilities = (np.concatenate([getattr(part, name) for part in parts]) for name in ("classes", "probabilities"))
    held = np.concatenate([np.full(len(part.classes), NO_CLASS) if part.held is None else part.held for part in parts])
    lost = classes[:, 0] == NO_CLASS
    all_lost = np.repeat([len(part.classes) > 1 and (part.classes[:, 0] == NO_CLASS).all() for part in parts], sizes)

    def column(values: Any, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=lost)

    def lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        offsets = pa.array(np.arange(0, values.size + 1, values.shape[1], dtype=np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1), kind), mask=pa.array(lost))

    started_at = [round(part.started_at * 1e6) for part in parts]
    return pa.table(
        {
            "prediction": column(classes[:, 0], pa.int32()),
            "top5": lists(classes, pa.int32()),
            "top5_probability": lists(probabilities, pa.float32()),
            "held_prediction": pa.array(held, pa.int32(), mask=lost | (held == NO_CLASS)),
            "batch": column(np.repeat([part.number for part in parts], sizes), pa.int64()),
            "started_at": column(np.repeat(started_at, sizes), pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            "batch_seconds": column(np.repeat([part.seconds for part in parts], sizes), pa.float64()),
            "error": pa.array([NO_ANSWER, NO_ANSWER_TO_ANY]).take(pa.array(all_lost.astype(np.int8), mask=~lost)),
        }
    )
