"""Classify a labelled image set on every mesh of the cluster: accuracy, per-sample predictions, inference time, FPS.

python -m jobs.imagenet --data hf://datasets/ILSVRC/imagenet-1k --out s3://bucket/run-1 --device t3000
"""

# PYTHON_ARGCOMPLETE_OK
import sys
import time
from contextlib import ExitStack

from jobs.pipeline.commit import committed_files, committed_rows
from jobs.reporting.outcome import Result, gates, judged, read_summary, wrong_count
from jobs.reporting.schema import Summary
from jobs.running import command
from jobs.running.classification import Inputs
from jobs.running.clearing import check_output
from jobs.running.command import JobFailed
from jobs.running.damaged import discard
from jobs.running.manifest import Manifest, checked, claim
from jobs.running.output_lock import check_held, hold_output
from jobs.running.phases import Phases, process_began
from jobs.running.progress import telling
from jobs.running.session import ray_session
from jobs.running.terminal import say
from jobs.settings import ImagenetSettings, taking
from jobs.storage.address import redacted, shown
from vit_actor.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    settings = command.parse(ImagenetSettings, arguments, "jobs.imagenet", __doc__)
    result = carry_out(settings, Phases(process_began()), signals=True)
    from jobs.reporting.terminal_table import summary_table

    print(summary_table(result.summary))
    say(f"report: {result.report}")
    for line in result.verdict:
        say(f"error: {line}", sys.stderr)
    return result.exit_code


@taking(ImagenetSettings)
def classify(settings: ImagenetSettings) -> Result:
    """Classify a data set, as `python -m jobs.imagenet` does: its accuracy, a row for each image, and a report.

    Uses the Ray that this process has initialised, if any, and leaves it running. Otherwise it joins the one at `address` or
    RAY_ADDRESS, or starts Ray on this machine, and leaves it at the end. KeyboardInterrupt ends the run; resume=True goes on.
    Raises UserError for a mistake in settings or data, and JobFailed (jobs.running.command) where the job breaks on the way.
    A run that is less good than `max_errors`, `min_top1` and `min_top5` ask for raises nothing: its result says so.
    """
    try:
        return carry_out(settings, Phases(time.time()), signals=False)
    except (UserError, JobFailed) as error:  # a notebook shows it, and keeps it
        error.args = (redacted(str(error)),)
        raise


def carry_out(settings: ImagenetSettings, phases: Phases, *, signals: bool) -> Result:
    """A run from its settings to its verdict. signals: whether they end it (see attempt)."""
    # What can be told without Ray is told before it starts, which takes seconds.
    out, least = settings.out, gates(settings.min_top1, settings.min_top5)
    with telling("looking through the data and the model"):
        inputs = Inputs.open(settings)
    with ExitStack() as held:
        with telling("looking through the output"):
            held.enter_context(hold_output(out))
            check_output(out)
            described = inputs.describe(settings, settings.device)
            manifest = claim(out, described, resume=settings.resume, overwrite=settings.overwrite)
            if settings.resume and not manifest.attempts:
                say(f"--resume: no run in {shown(out)} yet; this begins one", sys.stderr)
            for line in discard(out, manifest.attempts) if settings.resume and manifest.attempts else ():
                say(f"{shown(out)}: {line}", sys.stderr)
        if manifest.finished and manifest.files == committed_files(out):
            say(f"run {manifest.run_id} in {out} is finished; nothing to do")
            summary = read_summary(out)
        else:
            if manifest.finished:
                told = "was finished, but predictions are gone or changed: going on with it"
                say(f"run {manifest.run_id} in {out} {told}", sys.stderr)
            with ray_session(settings.address, needed=("ray.data", "pandas")):
                from jobs.pipeline.shares import streamed
                from jobs.running.attempt import attempt

                with attempt(settings, inputs, phases, signals=signals) as (manifest, plans, progress):
                    for chunk in streamed(plans):  # list -> read -> decode -> classify -> commit
                        progress.add(chunk)
            phases.end("end")
            summary = report(settings, manifest, phases)
    return Result(out, summary, *judged(summary, least, settings.max_errors))


def report(settings: ImagenetSettings, manifest: Manifest, phases: Phases) -> Summary:
    """Reports from what is committed. Raises JobFailed where that is not all."""
    from jobs.reporting.write import write_reports

    out = settings.out
    try:
        compact = manifest.run_id if check_output(out) else None
        if compact is None:
            say(f"{shown(out)}: deleting is refused, so predictions stay one file a chunk; grant it to merge them", sys.stderr)
        summary = write_reports(out, phases, address=settings.address, compact=compact, data=settings.data)
        manifest.files, found = committed_files(out), committed_rows(out, checked(manifest.attempts))
        check_held(out)
    except UserError as error:  # the images are classified: what failed is no mistake of the command's
        raise JobFailed(f"{error}; what is committed stays: add --resume to make the report") from None
    rows, unchecked = found or (summary.images, 0)
    state, wrong = "finished", ""
    if unchecked:  # by actors of a killed driver, which went on after this run had looked
        what = f"{unchecked:,} chunks have no passed check of their chips after them"
        state, wrong = "failed", f"{what}; add --resume to classify them again"
    for images in (rows, summary.images):  # there at its end, and counted for the report
        if manifest.images is not None and (missing := wrong_count(images, manifest.images)):
            state, wrong = "incomplete", f"{shown(out)}: {missing}"
    manifest.end_attempt(out, state, {"seconds": phases.seconds})
    if wrong:
        raise JobFailed(wrong)
    return summary


if __name__ == "__main__":
    command.run(main)
