"""A run's summary for a terminal."""

from jobs.reporting.schema import Summary
from jobs.running.phases import PHASES
from jobs.running.terminal import one_line
from jobs.running.words import counted, duration


def summary_table(s: Summary) -> str:
    lines: list[tuple[str, str | None]] = [
        ("images", f"{s.images:,}{f' of {s.planned:,}' if s.planned is not None else ''}, {s.errors:,} with an error"),
        ("labels", s.labels_from and f"{f'{s.labelled:,} of {s.images:,}, from ' if s.labelled else ''}{s.labels_from}"),
        ("top-1", _percent(s, "top1")),
        ("top-5", _percent(s, "top5")),
        ("doubtful", s.label_doubt),
        ("", _percent(s, "held_top1", " top-1 among the classes the data holds")),
        ("ReaL", _percent(s, "real_top1", f", over {s.real_images:,} of {s.images:,} images")),
    ]
    if s.corrupted_top1 is not None:
        lines.append(("corrupted", f"{s.corrupted_top1:.2%}  mean over corruptions (corruptions.parquet)"))
    if s.inference_ms is not None:
        batch = f"a batch of {s.batch_size}" if s.batch_size else "a full batch"
        spread = f"p50 {s.inference_p50_ms:,.2f}, p99 {s.inference_p99_ms:,.2f}; {counted(s.full_batches, 'full batch')}"
        lines.append(("inference", f"{s.inference_ms:,.2f} ms {batch} ({spread})"))
    if s.clocks_set:
        lines.append(("clock", f"was set during the run on {', '.join(s.clocks_set[:5])}: no FPS of the whole system"))
    if s.system_fps is not None:
        lines.append(("FPS", f"{s.system_fps:,.1f} the whole system, first batch to last in {duration(s.active_seconds)}"))
        alone = f"{s.device_fps:,.1f} one device alone, of {s.meshes} ({s.device_busy:.0%} busy)"
        lines.append(("", alone if s.meshes > 1 else f"{s.device_busy:.0%} of that time the device was busy"))
    if s.compile_seconds is not None:
        built = f" ({counted(s.kernels_built, 'kernel')} built: a cold start)" if s.kernels_built else ""
        lines.append(("compile", f"{s.compile_seconds:,.2f} s{built}"))
    if s.job_seconds is not None:
        parts = ", ".join(f"{phase} {s.phase_seconds(phase):,.1f}" for phase in PHASES)
        lines.append(("job", f"{s.job_seconds:,.1f} s, {s.job_fps or 0:,.1f} images/s from start to reports ({parts})"))
    if s.cached:
        lines.append(("cache", f"{s.cached:,} of {s.images:,} images were read from it, not decoded"))
    others = f" (and {counted(len(s.devices) - 1, 'other kind')})" if len(s.devices) > 1 else ""
    lines += [("faults", s.faults), ("chips", s.chips), *(("device", device + others) for device in s.devices[:1])]
    return "\n".join(one_line(f"{name:<11}{text}") for name, text in lines if text)


def _percent(summary: Summary, name: str, of: str = "") -> str | None:
    share, low, high = (getattr(summary, f"{name}{end}") for end in ("", "_low", "_high"))
    return None if share is None else f"{share:.2%}  (95% interval {low:.2%} to {high:.2%}){of}"
