"""The report's tables, from what predictions add up to."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from jobs.reporting.batches import bucket_bounds, quantile
from jobs.reporting.columns import schema_of
from jobs.reporting.counts import CALIBRATION_BINS, CERTAIN, Counts, wilson_interval
from jobs.reporting.imagenet_sets import mean_over_corruptions
from jobs.reporting.schema import (
    BATCH_TIMES,
    CALIBRATION,
    CONFUSION,
    CORRUPTIONS,
    ERRORS,
    FAULTS,
    MESHES,
    MOST_FREQUENT_ERRORS,
    PER_CLASS,
    THROUGHPUT,
    Summary,
)
from jobs.reporting.windows import WINDOWS, Work
from jobs.running.manifest import Manifest
from jobs.running.phases import PHASES
from jobs.storage import shown


def summarise(counts: Counts, manifest: Manifest | None) -> Summary:
    """The run's one row, from its counts and, where it has one, its manifest."""
    labelled = counts.confusion.total() + counts.label_errors.total()
    correct = sum(images for (label, prediction), images in counts.confusion.items() if label == prediction)
    top1, top5 = _share(correct, labelled), _share(counts.top5.total(), labelled)
    held = _share(counts.held["correct"], labelled if counts.held["answered"] else 0)
    real = _share(counts.real["correct"], counts.real["images"])
    classified = counts.images - counts.errors
    attempts = _attempts(counts)
    active = sum(end - start for start, end in attempts.values())
    busy = sum(span.work.busy for span in counts.spans.values())
    present = sum(span.end - span.first for span in counts.spans.values())
    full = counts.batch_times.total()
    waits = _waits(counts, manifest).values()
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
        labels_from=(manifest.labels_from if manifest else None) or None,
        left_out=sum(manifest.left_out.values()) if manifest else 0,
        correct=correct,
        top5_correct=counts.top5.total(),
        top1=top1[0],
        top1_low=top1[1],
        top1_high=top1[2],
        top5=top5[0],
        top5_low=top5[1],
        top5_high=top5[2],
        held_top1=held[0],
        held_top1_low=held[1],
        held_top1_high=held[2],
        real_images=counts.real["images"],
        real_top1=real[0],
        real_top1_low=real[1],
        real_top1_high=real[2],
        corrupted_top1=mean_over_corruptions(counts.corrupted, counts.corrupted_correct),
        ece=expected_calibration_error(counts),
        attempts=len(attempts),
        killed_attempts=len(_killed(manifest)),
        restarts=_told(manifest, "restarts"),
        retries=_told(manifest, "retries"),
        images_again=_told(manifest, "images_again"),
        given_up=_told(manifest, "given_up"),
        cached=_told(manifest, "cached"),
        lost_hosts=[host for attempt in _told_attempts(manifest) for host in attempt.get("lost_hosts", [])],
        meshes=max(Counter(attempt for attempt, _ in counts.spans).values(), default=0),
        devices=sorted(counts.descriptions),
        simulated=any(description.startswith("simulated") for description in counts.descriptions),
        active_seconds=active / 1e9,
        system_fps=classified / (active / 1e9) if active else None,
        device_fps=classified / (busy / 1e9) if busy else None,
        device_busy=busy / present if present else None,
        wait_start_seconds=sum(wait["start"] for wait in waits),
        wait_stream_seconds=sum(wait["stream"] for wait in waits),
        wait_faults_seconds=sum(wait["faults"] for wait in waits),
        wait_tail_seconds=sum(wait["tail"] for wait in waits),
        batches=sum(span.work.batches for span in counts.spans.values()),
        full_batches=full,
        batch_size=min(counts.batch_sizes) if len(counts.batch_sizes) == 1 else None,
        inference_ms=counts.full_batch_time / full / 1e6 if full else None,
        inference_p50_ms=median / 1e6 if median else None,
        inference_p99_ms=slowest / 1e6 if slowest else None,
        compile_seconds=max(counts.compile_seconds.values(), default=None),
        kernels_built=max((int(n) for (_, phase), n in counts.starts.items() if phase == "kernels_built"), default=None),
        **_job_time(counts, manifest),
        config=json.dumps(manifest.settings if manifest else {}, sort_keys=True),
        versions=json.dumps(_versions(counts, manifest), sort_keys=True),
    )


def report_tables(counts: Counts, summary: Summary, manifest: Manifest | None) -> dict[str, pa.Table]:
    """Every table of the report by name; the manifest may name fewer classes than were seen."""
    class_names = manifest.class_names if manifest else []

    def name(index: int) -> str:
        return class_names[index] if index < len(class_names) else str(index)

    return {
        "summary": summary_row(summary),
        "per_class": _per_class(counts, len(class_names), name),
        "confusion": _confusion(counts, name),
        "corruptions": _corruptions(counts),
        "calibration": _calibration(counts),
        "meshes": _meshes(counts, manifest),
        "throughput": _throughput(counts),
        "batch_times": _batch_times(counts),
        "errors": _errors(counts),
        "faults": _faults(manifest),
    }


def summary_row(summary: Summary) -> pa.Table:
    """The summary as the table it is written as."""
    return pa.Table.from_pylist([asdict(summary)], schema=schema_of(Summary))


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


def _corruptions(counts: Counts) -> pa.Table:
    rows = []
    for (corruption, severity), images in sorted(counts.corrupted.items()):
        correct = counts.corrupted_correct[corruption, severity]
        accuracy, low, high = _share(correct, images)
        rows.append(
            {
                "corruption": corruption,
                "severity": severity,
                "images": images,
                "correct": correct,
                "accuracy": accuracy,
                "accuracy_low": low,
                "accuracy_high": high,
            }
        )
    return pa.Table.from_pylist(rows, schema=CORRUPTIONS)


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


def _waits(counts: Counts, manifest: Manifest | None) -> dict[tuple[int, str], dict[str, float]]:
    """Seconds each mesh waited, by (attempt, mesh) and by what for (WAITS); together with its busy time all that it was there."""
    ends = {attempt: end for attempt, (_, end) in _attempts(counts).items()}
    starts = {attempt: start for attempt, (start, _) in _attempts(counts).items()}
    down = {attempt["attempt"]: attempt.get("down_seconds", {}) for attempt in _told_attempts(manifest)}
    waits = {}
    for (attempt, mesh), span in counts.spans.items():
        idle = (span.end - span.first - span.work.busy) / 1e9
        faults = min(idle, down.get(attempt, {}).get(mesh, 0.0))
        opened = counts.opened.get((attempt, mesh), starts[attempt])
        start, tail = max(0, span.first - opened) / 1e9, (ends[attempt] - span.end) / 1e9
        waits[attempt, mesh] = {"start": start, "stream": idle - faults, "faults": faults, "tail": tail}
    return waits


def _meshes(counts: Counts, manifest: Manifest | None) -> pa.Table:
    waits = _waits(counts, manifest)
    rows = [
        {
            "attempt": attempt,
            "mesh": mesh,
            "images": span.work.images,
            "batches": span.work.batches,
            "compile_seconds": counts.compile_seconds[mesh],
            **{
                f"{phase}_seconds": counts.starts.get((mesh, phase))
                for phase in ("import", "open", "weights", "programs", "trace")
            },
            "kernels_built": None if (built := counts.starts.get((mesh, "kernels_built"))) is None else int(built),
            "busy_seconds": span.work.busy / 1e9,
            **{f"wait_{reason}_seconds": seconds for reason, seconds in waits[attempt, mesh].items()},
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


def _job_time(counts: Counts, manifest: Manifest | None) -> dict[str, float | None]:
    """Seconds of the whole command by phase, summed over attempts, and the rate they leave; Nones where an attempt told none."""
    attempts = _told_attempts(manifest)
    measured = [attempt["seconds"] for attempt in attempts if "seconds" in attempt]
    phases = {phase: sum(seconds.get(phase, 0.0) for seconds in measured) for phase in PHASES}
    total = sum(phases.values())
    if not total or len(measured) < len(attempts):  # images of an untimed attempt over the others' time would be too fast
        return dict.fromkeys([*(f"{phase}_seconds" for phase in PHASES), "job_seconds", "job_fps"])
    return {f"{phase}_seconds": took for phase, took in phases.items()} | {
        "job_seconds": total,
        "job_fps": counts.images / total,
    }


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
