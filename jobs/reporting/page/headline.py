"""What to know first: what was not real or is missing, and the numbers with their intervals."""

from __future__ import annotations

from jobs.reporting.page.markup import cards, duration, milliseconds
from jobs.reporting.schema import Summary

SIMULATIONS = {
    "simulated by ttnn's mock": (
        "<b>MOCKED</b> — the real ttnn drove its mock of the chips: nothing was computed on silicon. "
        "Times and throughput are this host's, and say nothing about a T3000."
    ),
    "simulated by ttsim": (
        "<b>SIMULATED BY TTSIM</b> — the real kernels ran in Tenstorrent's simulator of the chips, and the answers are theirs. "
        "Times and throughput are this host's, and say nothing about a T3000."
    ),
    "simulated": (
        "<b>SIMULATED</b> — no accelerator ran. Times and throughput come from a model of the device; "
        "accuracy says nothing about a checkpoint."
    ),
}
"""By how a device's description starts, the longest first: what of its run is real."""


def notices(summary: Summary) -> str:
    kinds = {next((kind for kind in SIMULATIONS if device.startswith(kind)), None) for device in summary.devices}
    found = [f'<div class="notice simulated">{text}</div>' for kind, text in SIMULATIONS.items() if kind in kinds]
    if summary.planned is not None and summary.images < summary.planned:
        found.append(
            f'<div class="notice"><b>Incomplete</b> — {summary.images:,} of {summary.planned:,} images so far. '
            "Accuracy is over those.</div>"
        )
    return "".join(found)


def headline(summary: Summary) -> str:
    facts: list[tuple[str, ...]] = []
    if summary.top1 is not None:
        for name, share, low, high, right in (
            ("Top-1 accuracy", summary.top1, summary.top1_low, summary.top1_high, summary.correct),
            ("Top-5 accuracy", summary.top5, summary.top5_low, summary.top5_high, summary.top5_correct),
        ):
            facts.append((name, f"{share:.2%}", f"{low:.2%} to {high:.2%} (95%)", f"{right:,} of {summary.labelled:,} images"))
    for name, share, low, high, over in (
        ("Top-1, classes held", summary.held_top1, summary.held_top1_low, summary.held_top1_high, "of the data's own classes"),
        (
            "Top-1, ReaL",
            summary.real_top1,
            summary.real_top1_low,
            summary.real_top1_high,
            f"{summary.real_images:,} of {summary.images:,} images",
        ),
    ):
        if share is not None:
            facts.append((name, f"{share:.2%}", f"{low:.2%} to {high:.2%} (95%)", over))
    if summary.corrupted_top1 is not None:
        facts.append(("Top-1, corrupted", f"{summary.corrupted_top1:.2%}", "mean over corruptions", "corruptions.parquet"))
    if summary.system_fps is not None:
        facts.append(
            (
                "Throughput, system",
                f"{summary.system_fps:,.0f} FPS" if summary.system_fps >= 100 else f"{summary.system_fps:,.1f} FPS",
                f"end to end, first batch to last in {duration(summary.active_seconds)}",
                f"{summary.meshes:,} device{'s' if summary.meshes != 1 else ''}, {summary.device_busy:.0%} busy; "
                f"one alone {summary.device_fps:,.1f} FPS",
            )
        )
    if summary.inference_ms is not None:
        facts.append(
            (
                "Inference time",
                f"{milliseconds(summary.inference_ms)} ms",
                f"mean of a batch of {summary.batch_size or 'full size'}, {summary.full_batches:,} full batches",
                f"p50 {milliseconds(summary.inference_p50_ms)}, p99 {milliseconds(summary.inference_p99_ms)} ms",
            )
        )
    lost = f"{summary.errors:,} with an error ({summary.errors / summary.images:.2%})" if summary.errors else "none with an error"
    facts.append(("Images", f"{summary.images:,}", lost, f"{summary.labelled:,} labelled"))
    if summary.compile_seconds is not None:
        resumed = f"run in {summary.attempts} attempts" if summary.attempts > 1 else ""
        facts.append(
            ("Compile time", f"{summary.compile_seconds:,.2f} s", "initial, the slowest device's", resumed, _kernels(summary))
        )
    return cards(facts)


def _kernels(summary: Summary) -> str:
    """Whether the chips found their kernels compiled."""
    if summary.kernels_built is None:
        return ""
    return f"cold: {summary.kernels_built:,} kernels built" if summary.kernels_built else "warm: every kernel was cached"
