"""A run in one row."""

from dataclasses import dataclass
from typing import Annotated

WAITS = {
    "start": "from when it was ready to its first batch: for the first images to be decoded",
    "stream": "between its first and last batch: images came too slowly",
    "faults": "between its first and last batch: it was being replaced",
    "tail": "after its last batch: for the last mesh of the attempt to finish",
}
"""What a mesh waits for."""


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
    labels_from: Annotated[str | None, "where labels were found, or where they were looked for in vain; null if not asked for"]
    label_doubt: Annotated[str | None, "why the labels may be wrong, by the confusion table, with figures; null for no reason"]
    left_out: Annotated[int, "what is there and was not classified: files of other types or splits, hidden names, masks"]
    left_out_kinds: Annotated[list[str], "the same by kind, each with a count and an example"]
    correct: Annotated[int, "labelled images whose best class is the label"]
    top5_correct: Annotated[int, "labelled images whose label is among the five best classes"]
    top1: Annotated[float | None, "correct / labelled: an image with an error counts as wrong; null if unlabelled"]
    top1_low: Annotated[float | None, "lower end of the 95% Wilson interval of top1"]
    top1_high: Annotated[float | None, "upper end of the 95% Wilson interval of top1"]
    top5: Annotated[float | None, "top5_correct / labelled; null if unlabelled"]
    top5_low: Annotated[float | None, "lower end of the 95% Wilson interval of top5"]
    top5_high: Annotated[float | None, "upper end of the 95% Wilson interval of top5"]
    held_top1: Annotated[float | None, "top1 when only classes compete that the data holds; null where it holds all"]
    held_top1_low: Annotated[float | None, "lower end of the 95% Wilson interval of held_top1"]
    held_top1_high: Annotated[float | None, "upper end of the 95% Wilson interval of held_top1"]
    real_images: Annotated[int, "images with a right class by ReaL (Beyer et al. 2020), errors included; 0 without --real"]
    real_top1: Annotated[float | None, "share of real_images whose prediction is one of their right classes"]
    real_top1_low: Annotated[float | None, "lower end of the 95% Wilson interval of real_top1"]
    real_top1_high: Annotated[float | None, "upper end of the 95% Wilson interval of real_top1"]
    corrupted_top1: Annotated[float | None, "mean accuracy over ImageNet-C's corruptions, each the mean over its severities"]
    ece: Annotated[float | None, "expected calibration error, over the bins of calibration.parquet; null without labels"]
    attempts: Annotated[int, "starts of the run that classified images: 1, and one for each resume"]
    killed_attempts: Annotated[
        int, "of all starts, whose driver was killed: what happened in their last ten seconds is not counted"
    ]
    restarts: Annotated[int, "actors that were replaced on their mesh"]
    retries: Annotated[int, "chunks that were read or classified once more for a process that died"]
    images_again: Annotated[int, "images of chunks that went to a device once more: at most what retries cost; each has one row"]
    given_up: Annotated[int, "images that took their device down each time and became errors"]
    checks: Annotated[int, "checks of all chips of a mesh, at its opening and later; 0 where no device has chips"]
    failed_checks: Annotated[list[str], "chips that failed some, each with its mesh and how many"]
    cached: Annotated[int, "images whose pixels were read from the cache of decoded images"]
    lost_hosts: Annotated[list[str], "hosts with a device that were lost; one that was lost twice is here twice"]
    meshes: Annotated[int, "devices that classified images, in the attempt that had most"]
    devices: Annotated[list[str], "the distinct descriptions of the devices"]
    simulated: Annotated[bool, "whether any device was simulated: then times are not hardware's; for answers see `devices`"]
    active_seconds: Annotated[float, "first batch's start to last batch's end, summed over attempts: no pauses between"]
    clocks_set: Annotated[list[str], "hosts whose clock was set meanwhile: then there is no system_fps and device_busy"]
    system_fps: Annotated[float | None, "classified images / active_seconds, all meshes together: start-up and compile left out"]
    device_fps: Annotated[float | None, "classified images / seconds their batches kept devices: a mesh as if it never waited"]
    device_busy: Annotated[float | None, "share of the time between its first and last batch that a mesh was busy, 0 to 1"]
    wait_start_seconds: Annotated[float, "seconds of all meshes together, waiting for their first images"]
    wait_stream_seconds: Annotated[float, "the same, waiting for images in mid-run"]
    wait_faults_seconds: Annotated[float, "the same, while a mesh was being replaced"]
    wait_tail_seconds: Annotated[float, "the same, waiting for the last mesh to finish"]
    batches: Annotated[int, "batches the devices ran"]
    full_batches: Annotated[int, "batches of batch_size images: what inference time is over"]
    batch_size: Annotated[int | None, "images in a full batch; null where devices differ"]
    inference_ms: Annotated[float | None, "mean milliseconds a full batch kept the device; null without one"]
    inference_p50_ms: Annotated[float | None, "median of the same, within 0.5%"]
    inference_p99_ms: Annotated[float | None, "99th percentile of the same, within 0.5%"]
    compile_seconds: Annotated[float | None, "initial compile: weights, programs and trace; the slowest mesh's"]
    kernels_built: Annotated[
        int | None, "kernels a mesh had to compile, since none was cached; 0 in a warm start, null off chips"
    ]
    start_seconds: Annotated[float | None, "of the command: imports, survey, Ray; null where an attempt was killed or failed"]
    open_seconds: Annotated[float | None, "of the command: until the first mesh had opened and compiled"]
    stream_seconds: Annotated[float | None, "of the command: from then until the last commit"]
    end_seconds: Annotated[float | None, "of the command: closing the meshes and Ray"]
    report_seconds: Annotated[float | None, "of the command: counting and drawing; not the writing of this file"]
    job_seconds: Annotated[float | None, "sum of the five, from the process' start to its reports; null where not measured"]
    job_fps: Annotated[float | None, "images / job_seconds: the whole command's rate, start-up and reports included"]
    config: Annotated[str, "the run's settings, JSON"]
    versions: Annotated[str, "versions of what ran, JSON"]

    def phase_seconds(self, phase: str) -> float:
        """Of one of jobs.running.phases.PHASES; 0 where it was not measured."""
        return getattr(self, f"{phase}_seconds") or 0.0

    @property
    def chips(self) -> str | None:
        """How the checks of chips came out, in one line; None without any."""
        return f"{self.checks:,} checks of all chips, {', '.join(self.failed_checks) or 'none failed'}" if self.checks else None

    @property
    def faults(self) -> str:
        """The faults that the run recovered from and their cost, in one line; empty without any."""
        met = [
            ("drivers killed", self.killed_attempts),
            ("hosts lost", len(self.lost_hosts)),
            ("actors restarted", self.restarts),
            ("chunks tried again", self.retries),
            ("images classified again", self.images_again),
            ("images given up", self.given_up),
        ]
        return ", ".join(f"{what}: {number:,}" for what, number in met if number)
