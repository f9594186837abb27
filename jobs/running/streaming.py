"""The stream of a run, from its first listing to its last commit, under a driver that may be stopped and a Ray that may die."""

from __future__ import annotations

import math
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from typing import Any

import ray

from jobs.pipeline.cache import Cache, stored_bytes
from jobs.pipeline.streams import Stream, enough_streams, run_together, shares
from jobs.running.arguments import device_request, placement_for
from jobs.running.classification import Classification, preprocess_for
from jobs.running.command import JobFailed, root_cause
from jobs.running.ledgers import ended, more_ledgers, open_ledger, settle
from jobs.running.lifeline import watch_ray
from jobs.running.local_ray import spare_helper_actors
from jobs.running.phases import Phases
from jobs.running.progress import Progress
from jobs.running.stopping import drain_on_signals
from vit_actor.errors import UserError, ended_while_opening

LULL_SECONDS = 0.1
"""After so long the stream is planned, and this process waits for the first images: time to import what draws the page."""


def stream(job: Classification, phases: Phases) -> int | None:
    """List, read, decode, classify and commit what has no row yet; the exit code if the run was stopped.

    Raises UserError where another run has the output or no device is free, JobFailed where the stream fails.
    """
    args = job.args
    ledger = open_ledger(args.out)  # before any wait for resources, which another job on this output may hold
    placement = placement_for(args, job.checkpoint)
    job.begin_attempt(placement.device)
    count = min(args.streams or enough_streams(placement), placement.actors)
    ledgers = [ledger, *more_ledgers(count - 1)]
    whole = Stream(
        job.source,
        ray.put(job.survey.shards),
        placement,
        ledger,
        args.out,
        preprocess_for(args, job.checkpoint),
        _open_cache(job, ledgers),
        device_request(args, job.checkpoint, placement, held=job.survey.held),
        job.manifest.identity,
        args.device_limit,
        args.resume,
    )
    spare_helper_actors()
    committed = whole.rows() if count == 1 else run_together(shares(whole, ledgers))
    stopping = drain_on_signals(*ledgers)
    phases.end("start")

    def note_troubles() -> dict[str, Any]:
        """The ledgers' account, also written down when it has changed: a driver that is killed leaves what it had counted."""
        account = settle(*ledgers)
        with suppress(UserError):  # where the output fails, the next commit says so
            job.manifest.note(args.out, account)
        return account

    def ray_is_gone(what: str) -> None:
        with suppress(UserError):
            job.manifest.end_attempt(args.out, "failed")
        told = f"error: Ray's {what} on this machine or its head has ended; what is committed stays: add --resume to go on"
        print(told, file=sys.stderr, flush=True)

    page = threading.Timer(LULL_SECONDS, import_module, ["jobs.reporting.page.page"])
    page.daemon = True
    page.start()
    try:
        with Progress(job.survey.images, note_troubles) as progress, watch_ray(ray_is_gone):
            for chunk in committed:
                progress.add(chunk)
    except KeyboardInterrupt:
        with suppress(UserError):
            job.manifest.end_attempt(args.out, "stopped")
        return stopping.code
    except Exception as error:
        account = settle(*ledgers)
        with suppress(UserError):  # where the output is what failed, the manifest cannot say so
            job.manifest.end_attempt(args.out, "failed", account)
        unopened = ", ".join(account.get("not_open", []))
        if unopened:
            cause = f"{unopened}: {ended_while_opening(placement.device)}"
        elif not account and ended(*ledgers):
            cause = "the ledger, which keeps the run's account, has ended, for want of memory perhaps"
        else:
            cause = root_cause(error)
        raise JobFailed(f"{cause}; what is committed stays: add --resume to go on") from error
    stopped, account = stopping.signal is not None, settle(*ledgers)
    phases.end("open", at=account.get("opened_at") or time.time())
    phases.end("stream")
    job.manifest.end_attempt(args.out, "stopped" if stopped else "classified", account | {"seconds": phases.seconds})
    return stopping.code if stopped else None


def _open_cache(job: Classification, ledgers: list[Any]) -> Cache | None:
    """The cache of decoded images that was asked for, its room shared out among the ledgers."""
    where, limit, checkpoint = job.args.cache, job.args.cache_limit, job.checkpoint
    if where is None:
        return None
    room = limit - stored_bytes(where) if limit else math.inf
    for ledger in ledgers:
        ledger.cache_room.remote(room / len(ledgers))
    return Cache.of(where, job.survey.fingerprint, preprocess_for(job.args, checkpoint), checkpoint.class_names)
