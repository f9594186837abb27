"""The report's tables: what counts mean, as Arrow tables whose fields say what they hold."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import pyarrow as pa

from jobs.columns import described, schema_of
from jobs.manifest import Manifest
from jobs.metrics import CALIBRATION_BINS, CERTAIN, WINDOWS, Counts, Work, bucket_bounds, quantile, wilson_interval
from jobs.pipeline.storage import shown

MOST_FREQUENT_ERRORS = 50


@dataclass(frozen=True)
class Summary:
    """A run in one row: summary.parquet's columns and what they mean; None where there is nothing to say."""

    run_id: Annotated[str, "the run that wrote the predictions"]
    job: Annotated[str | None, "the job that ran"]
    data: Annotated[str | None, "the data set's URI"]
    model: Annotated[str | None, "the checkpoint as the user named it"]
    model_digest: Annotated[str | None, "SHA-256 over the checkpoint's files"]
    planned: Annotated[int | None, "images the run was to classify; null where that was not known"]
    images: Annotated[int, "prediction rows: one per input image, errors included"]
    errors: Annotated[int, "images that could not be classified"]
    labelled: Annotated[int, "images with a label, errors included: what accuracy is over"]
    correct: Annotated[int, "labelled images whose best class is the label"]
    top5_correct: Annotated[int, "labelled images whose label is among the five best classes"]
    top1: Annotated[float | None, "correct / labelled: an image with an error counts as wrong; null if unlabelled"]
    top1_low: Annotated[float | None, "lower end of the 95% Wilson interval of top1"]
    top1_high: Annotated[float | None, "upper end of the 95% Wilson interval of top1"]
    top5: Annotated[float | None, "top5_correct / labelled; null if unlabelled"]
    top5_low: Annotated[float | None, "lower end of the 95% Wilson interval of top5"]
    top5_high: Annotated[float | None, "upper end of the 95% Wilson interval of top5"]
    ece: Annotated[
        float | None,
        "expected calibration error: mean gap between confidence and accuracy over the bins of calibration.parquet, weighted by "
        "their images; null without labelled images that were classified",
    ]
    attempts: Annotated[int, "starts of the run that classified images: 1, and one for each resume"]
    killed_attempts: Annotated[
        int, "of all starts, those whose driver was killed: what they met in their last ten seconds is not counted"
    ]
    restarts: Annotated[int, "actors that were replaced on their mesh"]
    retries: Annotated[int, "chunks that were read or classified once more for a process that died"]
    images_again: Annotated[int, "images of chunks that went to a device once more: at most what retries cost; each has one row"]
    given_up: Annotated[int, "images that took their device down each time and became errors"]
    lost_hosts: Annotated[list[str], "hosts with a device that were lost; one that was lost twice is here twice"]
    meshes: Annotated[int, "devices that classified images, in the attempt that had most"]
    devices: Annotated[list[str], "the distinct descriptions of the devices"]
    simulated: Annotated[bool, "whether any device was simulated: then times are a model's and answers are not real"]
    active_seconds: Annotated[float, "first batch's start to last batch's end, summed over attempts: no pauses between"]
    system_fps: Annotated[
        float | None,
        "classified images / active_seconds, all meshes together: includes reading, decoding, waiting; not start-up or compile",
    ]
    device_fps: Annotated[
        float | None,
        "classified images / seconds their batches kept the devices: one mesh alone, as if it never waited; mean over busy time",
    ]
    device_busy: Annotated[float | None, "share of the time between its first and last batch that a mesh was busy, 0 to 1"]
    batches: Annotated[int, "batches the devices ran"]
    full_batches: Annotated[int, "batches of batch_size images: what inference time is over"]
    batch_size: Annotated[int | None, "images in a full batch; null where devices differ"]
    inference_ms: Annotated[float | None, "mean milliseconds a full batch kept the device; null without one"]
    inference_p50_ms: Annotated[float | None, "median of the same, within 0.5%"]
    inference_p99_ms: Annotated[float | None, "99th percentile of the same, within 0.5%"]
    compile_seconds: Annotated[float | None, "initial compile: weights, programs and trace; the slowest mesh's"]
    config: Annotated[str, "the run's settings, JSON"]
    versions: Annotated[str, "versions of what ran, JSON"]

    @property
    def faults(self) -> str:
        """What the run survived and what it cost, in one line; empty where nothing happened."""
        met = [
            ("drivers killed", self.killed_attempts),
            ("hosts lost", len(self.lost_hosts)),
            ("actors restarted", self.restarts),
            ("chunks tried again", self.retries),
            ("images classified again", self.images_again),
            ("images given up", self.given_up),
        ]
        return ", ".join(f"{what}: {number:,}" for what, number in met if number)


PER_CLASS = described(
    {
        "class": (pa.int32(), "class in the checkpoint's order"),
        "name": (pa.string(), "its name"),
        "images": (pa.int64(), "images with this label, errors included"),
        "correct": (pa.int64(), "of those, classified as this class"),
        "top5_correct": (pa.int64(), "of those, with this class among the five best"),
        "errors": (pa.int64(), "of those, not classified for an error"),
        "predicted": (pa.int64(), "images classified as this class, whatever their label, unlabelled ones too"),
        "accuracy": (pa.float64(), "correct / images; null without images"),
        "accuracy_low": (pa.float64(), "lower end of its 95% Wilson interval"),
        "accuracy_high": (pa.float64(), "upper end of its 95% Wilson interval"),
        "confused_with": (pa.int32(), "wrong class most often predicted for this label (the lower of equals); null if none"),
        "confused_with_name": (pa.string(), "its name"),
        "confused_images": (pa.int64(), "how often"),
    }
)

CONFUSION = described(
    {
        "label": (pa.int32(), "true class"),
        "label_name": (pa.string(), "its name"),
        "prediction": (pa.int32(), "best class; equal to label on the diagonal, which is included"),
        "prediction_name": (pa.string(), "its name"),
        "count": (pa.int64(), "classified images with that label and prediction; most first, pairs without any left out"),
        "example": (pa.string(), "of those, the image_id of the one whose answer was the surest; null on the diagonal"),
        "example_probability": (pa.float64(), "the probability of that answer"),
    }
)

CALIBRATION = described(
    {
        "confidence_from": (pa.float64(), "the bin's confidences are above this (the first bin's: from it)"),
        "confidence_to": (pa.float64(), "up to and including this; confidence is the top-1 probability"),
        "images": (pa.int64(), "labelled, classified images with such a confidence"),
        "correct": (pa.int64(), "of those, the ones whose best class is the label"),
        "mean_confidence": (pa.float64(), "their mean confidence; null without images"),
        "accuracy": (pa.float64(), "correct / images; a calibrated model's equals mean_confidence; null without images"),
        "accuracy_low": (pa.float64(), "lower end of its 95% Wilson interval"),
        "accuracy_high": (pa.float64(), "upper end of its 95% Wilson interval"),
    }
)

MESHES = described(
    {
        "attempt": (pa.int32(), "start of the run: 1, and one more for each resume"),
        "mesh": (pa.string(), "the device"),
        "images": (pa.int64(), "images it classified"),
        "batches": (pa.int64(), "batches it ran"),
        "compile_seconds": (pa.float64(), "from opening it to its first batch; the longest start if it started more than once"),
        "busy_seconds": (pa.float64(), "seconds its batches kept it: upload, compute and read-back, which overlap"),
        "idle_seconds": (pa.float64(), "seconds between its first and last batch in which it had none: it waited for images"),
        "decode_cpu_seconds": (pa.float64(), "CPU time of reading and decoding its images, meanwhile, on any host's cores"),
    }
)

THROUGHPUT = described(
    {
        "attempt": (pa.int32(), "start of the run: 1, and one more for each resume"),
        "window_start": (pa.timestamp("us", tz="UTC"), "start of the time window"),
        "window_seconds": (pa.float64(), "its length, within the attempt's first batch start and last batch end"),
        "mesh": (pa.string(), "the device; one without work in a window has no row there"),
        "images": (pa.int64(), "images it classified in the window; a batch across windows is shared out by time"),
        "batches": (pa.int64(), "batches it began in the window"),
        "busy_seconds": (pa.float64(), "seconds of the window its batches kept it"),
        "fps": (pa.float64(), "images / window_seconds: includes waiting; images / busy_seconds is the device alone"),
        "compile_seconds": (pa.float64(), "initial compile of the mesh, the longest if it started more than once"),
    }
)

BATCH_TIMES = described(
    {
        "from_ms": (pa.float64(), "shortest batch time of the bucket, milliseconds"),
        "to_ms": (pa.float64(), "longest"),
        "batches": (pa.int64(), "full batches in it"),
    }
)

FAULTS = described(
    {
        "attempt": (pa.int32(), "start of the run: 1, and one more for each resume"),
        "at": (pa.timestamp("us", tz="UTC"), "when it was noticed; null for a lost host and a killed driver"),
        "kind": (pa.string(), "restart, retry, device, image, host or driver"),
        "where": (pa.string(), "the mesh, chunk or host"),
        "what": (pa.string(), "what happened, in one line; the first 1,000 of an attempt"),
    }
)

ERRORS = described(
    {
        "reason": (pa.string(), "why images could not be classified; numbers read N, long or too various texts are cut"),
        "images": (pa.int64(), f"images lost to it; the {MOST_FREQUENT_ERRORS} most frequent reasons"),
        "example": (pa.string(), "of those, the first by image_id"),
    }
)


def summarise(counts: Counts, manifest: Manifest | None) -> Summary:
    """The run's one row, from its counts and, where it has one, its manifest."""
    labelled = counts.confusion.total() + counts.label_errors.total()
    correct = sum(images for (label, prediction), images in counts.confusion.items() if label == prediction)
    top1, top5 = _share(correct, labelled), _share(counts.top5.total(), labelled)
    classified = counts.images - counts.errors
    attempts = _attempts(counts)
    active = sum(end - start for start, end in attempts.values())
    busy = sum(span.work.busy for span in counts.spans.values())
    present = sum(span.end - span.first for span in counts.spans.values())
    full = counts.batch_times.total()
    median, slowest = quantile(counts.batch_times, 0.5), quantile(counts.batch_times, 0.99)
    return Summary(
        run_id=min(counts.run_ids),
        job=manifest.job if manifest else None,
        data=shown(manifest.data) if manifest else None,
        model=manifest.model if manifest else None,
        model_digest=manifest.model_digest if manifest else None,
        planned=manifest.images if manifest else None,
        images=counts.images,
        errors=counts.errors,
        labelled=labelled,
        correct=correct,
        top5_correct=counts.top5.total(),
        top1=top1[0],
        top1_low=top1[1],
        top1_high=top1[2],
        top5=top5[0],
        top5_low=top5[1],
        top5_high=top5[2],
        ece=expected_calibration_error(counts),
        attempts=len(attempts),
        killed_attempts=len(_killed(manifest)),
        restarts=_told(manifest, "restarts"),
        retries=_told(manifest, "retries"),
        images_again=_told(manifest, "images_again"),
        given_up=_told(manifest, "given_up"),
        lost_hosts=[host for attempt in _told_attempts(manifest) for host in attempt.get("lost_hosts", [])],
        meshes=max(Counter(attempt for attempt, _ in counts.spans).values(), default=0),
        devices=sorted(counts.descriptions),
        simulated=any(description.startswith("simulated") for description in counts.descriptions),
        active_seconds=active / 1e9,
        system_fps=classified / (active / 1e9) if active else None,
        device_fps=classified / (busy / 1e9) if busy else None,
        device_busy=busy / present if present else None,
        batches=sum(span.work.batches for span in counts.spans.values()),
        full_batches=full,
        batch_size=min(counts.batch_sizes) if len(counts.batch_sizes) == 1 else None,
        inference_ms=counts.full_batch_time / full / 1e6 if full else None,
        inference_p50_ms=median / 1e6 if median else None,
        inference_p99_ms=slowest / 1e6 if slowest else None,
        compile_seconds=max(counts.compile_seconds.values(), default=None),
        config=json.dumps(manifest.settings if manifest else {}, sort_keys=True),
        versions=json.dumps(_versions(counts, manifest), sort_keys=True),
    )


def report_tables(counts: Counts, summary: Summary, manifest: Manifest | None) -> dict[str, pa.Table]:
    """Every table of the report by name; the manifest may name fewer classes than were seen."""
    class_names = manifest.class_names if manifest else []

    def name(index: int) -> str:
        return class_names[index] if index < len(class_names) else str(index)

    return {
        "summary": pa.Table.from_pylist([asdict(summary)], schema=schema_of(Summary)),
        "per_class": _per_class(counts, len(class_names), name),
        "confusion": _confusion(counts, name),
        "calibration": _calibration(counts),
        "meshes": _meshes(counts),
        "throughput": _throughput(counts),
        "batch_times": _batch_times(counts),
        "errors": _errors(counts),
        "faults": _faults(manifest),
    }


def _per_class(counts: Counts, known: int, name: Callable[[int], str]) -> pa.Table:
    images, confused = counts.label_errors.copy(), dict[int, tuple[int, int]]()
    for (label, prediction), number in sorted(counts.confusion.items()):
        images[label] += number
        if label != prediction and number > confused.get(label, (0, 0))[1]:
            confused[label] = (prediction, number)
    rows = []
    for index in range(max(known, 1 + max(images, default=-1), 1 + max(counts.predicted, default=-1))):
        correct = counts.confusion[index, index]
        accuracy, low, high = _share(correct, images[index])
        wrong, times = confused.get(index, (None, 0))
        rows.append(
            {
                "class": index,
                "name": name(index),
                "images": images[index],
                "correct": correct,
                "top5_correct": counts.top5[index],
                "errors": counts.label_errors[index],
                "predicted": counts.predicted[index],
                "accuracy": accuracy,
                "accuracy_low": low,
                "accuracy_high": high,
                "confused_with": wrong,
                "confused_with_name": None if wrong is None else name(wrong),
                "confused_images": times,
            }
        )
    return pa.Table.from_pylist(rows, schema=PER_CLASS)


def _confusion(counts: Counts, name: Callable[[int], str]) -> pa.Table:
    pairs = sorted(counts.confusion.items(), key=lambda pair: (-pair[1], pair[0]))
    labels, predictions = [label for (label, _), _ in pairs], [prediction for (_, prediction), _ in pairs]
    examples = [counts.examples.get(pair) for pair, _ in pairs]
    columns = [labels, map(name, labels), predictions, map(name, predictions), [images for _, images in pairs]]
    columns.append([example and example.image_id for example in examples])
    columns.append([example and 1 - example.doubt / CERTAIN for example in examples])
    return pa.table([pa.array(c, kind) for c, kind in zip(columns, CONFUSION.types, strict=True)], schema=CONFUSION)


def expected_calibration_error(counts: Counts) -> float | None:
    """Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3.

    Confidence is the top-1 probability; over labelled images that were classified, in CALIBRATION_BINS bins of equal width.
    """
    images = counts.confident.total()
    gaps = (abs(counts.confident_correct[each] * CERTAIN - sure) for each, sure in counts.confidence.items())
    return sum(gaps) / (images * CERTAIN) if images else None


def _calibration(counts: Counts) -> pa.Table:
    rows = []
    for each in range(CALIBRATION_BINS):
        images, correct = counts.confident[each], counts.confident_correct[each]
        accuracy, low, high = _share(correct, images)
        rows.append(
            {
                "confidence_from": each / CALIBRATION_BINS,
                "confidence_to": (each + 1) / CALIBRATION_BINS,
                "images": images,
                "correct": correct,
                "mean_confidence": counts.confidence[each] / (images * CERTAIN) if images else None,
                "accuracy": accuracy,
                "accuracy_low": low,
                "accuracy_high": high,
            }
        )
    return pa.Table.from_pylist(rows, schema=CALIBRATION)


def _meshes(counts: Counts) -> pa.Table:
    rows = [
        {
            "attempt": attempt,
            "mesh": mesh,
            "images": span.work.images,
            "batches": span.work.batches,
            "compile_seconds": counts.compile_seconds[mesh],
            "busy_seconds": span.work.busy / 1e9,
            "idle_seconds": (span.end - span.first - span.work.busy) / 1e9,
            "decode_cpu_seconds": counts.read_time[attempt, mesh] / 1e9,
        }
        for (attempt, mesh), span in sorted(counts.spans.items())
    ]
    return pa.Table.from_pylist(rows, schema=MESHES)


def _throughput(counts: Counts) -> pa.Table:
    batches = sum(span.work.batches for span in counts.spans.values())
    busy = sum(span.work.busy for span in counts.spans.values())
    windows = counts.windows.at_least(busy // batches if batches else 0)
    length, rows = WINDOWS[windows.length], []
    for attempt, (first, last) in sorted(_attempts(counts).items()):
        # The ends of an attempt fall inside a window; a remainder too short to give a rate joins its neighbour.
        half = length // 2
        lowest, highest = (first + half) // length, max((last - half - 1) // length, (first + half) // length)
        merged: defaultdict[int, defaultdict[str, Work]] = defaultdict(lambda: defaultdict(Work))
        for (of, window), meshes in windows.work.items():
            if of == attempt:
                for mesh, work in meshes.items():
                    merged[min(max(window, lowest), highest)][mesh] += work
        for window, meshes in sorted(merged.items()):
            start = first if window == lowest else window * length
            seconds = ((last if window == highest else (window + 1) * length) - start) / 1e9
            for mesh, work in sorted(meshes.items()):
                rows.append(
                    {
                        "attempt": attempt,
                        "window_start": start // 1000,
                        "window_seconds": seconds,
                        "mesh": mesh,
                        "images": work.images,
                        "batches": work.batches,
                        "busy_seconds": work.busy / 1e9,
                        "fps": work.images / seconds,
                        "compile_seconds": counts.compile_seconds.get(mesh),
                    }
                )
    return pa.Table.from_pylist(rows, schema=THROUGHPUT)


def _batch_times(counts: Counts) -> pa.Table:
    rows = []
    for bucket, batches in sorted(counts.batch_times.items()):
        low, high = bucket_bounds(bucket)
        rows.append({"from_ms": low / 1e6, "to_ms": high / 1e6, "batches": batches})
    return pa.Table.from_pylist(rows, schema=BATCH_TIMES)


def _errors(counts: Counts) -> pa.Table:
    most = sorted(counts.reasons.images.items(), key=lambda reason: (-reason[1], reason[0]))[:MOST_FREQUENT_ERRORS]
    rows = [{"reason": reason, "images": images, "example": counts.reasons.first[reason]} for reason, images in most]
    return pa.Table.from_pylist(rows, schema=ERRORS)


def _faults(manifest: Manifest | None) -> pa.Table:
    rows = []
    for attempt in _told_attempts(manifest):
        number = attempt["attempt"]
        for event in attempt.get("events", []):
            rows.append({**event, "attempt": number, "at": round(event["at"] * 1e6)})
        for host in attempt.get("lost_hosts", []):
            rows.append({"attempt": number, "at": None, "kind": "host", "where": host, "what": "the host was lost"})
        if attempt in _killed(manifest):
            rows.append({"attempt": number, "at": None, "kind": "driver", "where": "driver", "what": "the driver was killed"})
    return pa.Table.from_pylist(rows, schema=FAULTS)


def _told_attempts(manifest: Manifest | None) -> list[dict[str, Any]]:
    return manifest.attempts if manifest else []


def _told(manifest: Manifest | None, count: str) -> int:
    return sum(attempt.get(count, 0) for attempt in _told_attempts(manifest))


def _killed(manifest: Manifest | None) -> list[dict[str, Any]]:
    """Attempts that never ended although a later one began."""
    return [attempt for attempt in _told_attempts(manifest)[:-1] if attempt["ended_at"] is None]


def _attempts(counts: Counts) -> dict[int, tuple[int, int]]:
    """When each attempt was active: Unix nanoseconds of its first batch's start and its last batch's end."""
    ends: dict[int, tuple[int, int]] = {}
    for (attempt, _), span in counts.spans.items():
        start, end = ends.get(attempt, (span.first, span.end))
        ends[attempt] = min(start, span.first), max(end, span.end)
    return ends


def _share(successes: int, trials: int) -> tuple[float, float, float] | tuple[None, None, None]:
    """The proportion and its interval, or Nones of nothing."""
    return (successes / trials, *wilson_interval(successes, trials)) if trials else (None, None, None)


def _versions(counts: Counts, manifest: Manifest | None) -> dict[str, str]:
    """By name; where meshes or attempts differ, all of them. What ran beats what the manifest says."""
    seen: defaultdict[str, list[str]] = defaultdict(list)
    for name, version in sorted(counts.versions):
        seen[name].append(version)
    return {**(manifest.versions if manifest else {}), **{name: ", ".join(versions) for name, versions in seen.items()}}
