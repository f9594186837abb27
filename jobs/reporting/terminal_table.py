"""A run's summary for a terminal."""

from jobs.reporting.schema import Summary
from jobs.running.phases import PHASES
from jobs.running.terminal import one_line
from jobs.running.words import counted, duration


def summary_table(summary: Summary) -> str:
    planned = f" of {summary.planned:,}" if summary.planned is not None else ""
    lines = [("images", f"{summary.images:,}{planned}, {summary.errors:,} with an error")]
    if summary.labels_from:
        found = f"{summary.labelled:,} of {summary.images:,}, from " if summary.labelled else ""
        lines.append(("labels", f"{found}{summary.labels_from}"))
    if summary.top1 is not None:
        lines.append(("top-1", _percent(summary, "top1")))
        lines.append(("top-5", _percent(summary, "top5")))
    if summary.label_doubt:
        lines.append(("doubtful", summary.label_doubt))
    if summary.held_top1 is not None:
        lines.append(("", f"{_percent(summary, 'held_top1')} top-1 among the classes the data holds"))
    if summary.real_top1 is not None:
        over = f"over {summary.real_images:,} of {summary.images:,} images"
        lines.append(("ReaL", f"{_percent(summary, 'real_top1')}, {over}"))
    if summary.corrupted_top1 is not None:
        lines.append(("corrupted", f"{summary.corrupted_top1:.2%}  mean over corruptions (corruptions.parquet)"))
    if summary.inference_ms is not None:
        batch = f"a batch of {summary.batch_size}" if summary.batch_size else "a full batch"
        spread = f"p50 {summary.inference_p50_ms:,.2f}, p99 {summary.inference_p99_ms:,.2f}"
        batches = counted(summary.full_batches, "full batch")
        lines.append(("inference", f"{summary.inference_ms:,.2f} ms {batch} ({spread}; {batches})"))
    if summary.clocks_set:
        lines.append(("clock", f"was set during the run on {', '.join(summary.clocks_set[:5])}: no FPS of the whole system"))
    if summary.system_fps is not None:
        active = duration(summary.active_seconds)
        lines.append(("FPS", f"{summary.system_fps:,.1f} the whole system, first batch to last in {active}"))
        alone = f"{summary.device_fps:,.1f} one device alone, of {summary.meshes} ({summary.device_busy:.0%} busy)"
        lines.append(("", alone if summary.meshes > 1 else f"{summary.device_busy:.0%} of that time the device was busy"))
    if summary.compile_seconds is not None:
        built = f" ({counted(summary.kernels_built, 'kernel')} built: a cold start)" if summary.kernels_built else ""
        lines.append(("compile", f"{summary.compile_seconds:,.2f} s{built}"))
    if summary.job_seconds is not None:
        parts = ", ".join(f"{phase} {summary.phase_seconds(phase):,.1f}" for phase in PHASES)
        rate = f"{summary.job_fps or 0:,.1f} images/s from start to reports"
        lines.append(("job", f"{summary.job_seconds:,.1f} s, {rate} ({parts})"))
    if summary.cached:
        lines.append(("cache", f"{summary.cached:,} of {summary.images:,} images were read from it, not decoded"))
    if faults := summary.faults:
        lines.append(("faults", faults))
    if checks := summary.chips:
        lines.append(("chips", checks))
    others = f" (and {counted(len(summary.devices) - 1, 'other kind')})" if len(summary.devices) > 1 else ""
    lines += [("device", device + others) for device in summary.devices[:1]]
    return "\n".join(one_line(f"{name:<11}{text}") for name, text in lines)


def _percent(summary: Summary, name: str) -> str:
    share, low, high = (getattr(summary, f"{name}{end}") for end in ("", "_low", "_high"))
    return f"{share:.2%}  (95% interval {low:.2%} to {high:.2%})"
