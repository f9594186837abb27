"""One attempt at a run, from its first listing to its last commit, under a driver that may be stopped and a Ray that may die."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import ray

from jobs.pipeline.cache import Cache, stored_bytes
from jobs.pipeline.plan import Plan
from jobs.pipeline.shares import committed_together, enough_shares, shares
from jobs.pipeline.stages import committed
from jobs.running.arguments import device_request, placement_for
from jobs.running.classification import Classification, preprocess_for
from jobs.running.command import JobFailed, root_cause
from jobs.running.ledgers import ended, more_ledgers, open_ledger, settle
from jobs.running.lifeline import watch_ray
from jobs.running.phases import Phases
from jobs.running.progress import Progress
from jobs.running.stopping import draining
from jobs.storage.files import open_storage
from vit_actor.errors import UserError, ended_while_opening

LULL_SECONDS = 0.1
"""After so long the stages are planned, and this process waits for the first images: time to import what draws the page."""
GOES_ON = "what is committed stays: add --resume to go on"


def classify_what_is_left(job: Classification, phases: Phases) -> int | None:
    """List, read, decode, classify and commit what has no row yet; the exit code if the run was stopped.

    Raises UserError where another run has the output or no device is free, JobFailed where a stage fails.
    """
    args = job.args
    ledger = open_ledger(args.out)  # before any wait for resources, which another job on this output may hold
    placement = placement_for(args, job.checkpoint)
    count = min(args.streams or enough_shares(placement), placement.actors)
    ledgers = [ledger, *more_ledgers(count - 1)]
    shards, cache = ray.put(job.survey.shards), _open_cache(job, ledgers)
    job.begin_attempt(placement.device)  # from here on, what fails is an attempt that failed
    plan = Plan(
        source=job.source,
        shards=shards,
        preprocess=preprocess_for(args, job.checkpoint),
        open_device=device_request(args, job.checkpoint, placement, held=job.survey.held),
        placement=placement,
        out=args.out,
        ledger=ledger,
        identity=job.manifest.identity,
        limit_seconds=args.device_limit,
        resume=args.resume,
        cache=cache,
    )

    def note_troubles() -> dict[str, Any]:
        """The ledgers' account, also written down when it has changed: a driver that is killed leaves what it had counted."""
        account = settle(*ledgers)
        with suppress(UserError):  # where the output fails, the next commit says so
            job.manifest.note(args.out, account)
        return account

    def drain() -> None:
        for each in ledgers:
            each.drain.remote()

    def end(state: str, account: dict[str, Any] | None = None) -> None:
        with suppress(UserError):  # where the output is what failed, the manifest cannot say so
            job.manifest.end_attempt(args.out, state, account)

    page = threading.Timer(LULL_SECONDS, import_module, ["jobs.reporting.page.page"])
    page.daemon = True
    page.start()
    try:
        with (
            draining(drain, last=lambda: end("stopped")) as stopping,
            watch_ray(lambda what: _ray_is_gone(what, end)),
            Progress(job.survey.images, note_troubles) as progress,
        ):
            chunks = committed(plan) if count == 1 else committed_together(shares(plan, ledgers))
            phases.end("start")
            for chunk in chunks:
                progress.add(chunk)
    except Exception as error:
        account = settle(*ledgers)
        end("failed", account)
        unopened = ", ".join(account.get("not_open", []))
        if unopened:
            cause = f"{unopened}: {ended_while_opening(placement.device)}"
        elif never := [event for event in account.get("events", []) if event["kind"] == "device" and not account["meshes"]]:
            cause = f"{never[-1]['where']}: {never[-1]['what']}"
        elif not account and ended(*ledgers):
            cause = "the ledger, which keeps the run's account, has ended, for want of memory perhaps"
        else:
            cause = root_cause(error)
        raise JobFailed(f"{cause}; {GOES_ON}") from error
    account = settle(*ledgers)
    phases.end("open", at=account.get("opened_at") or time.time())
    phases.end("stream")
    stopped = stopping.signal is not None
    if not stopped and job.manifest.images is None:
        job.manifest.images = account.get("images_read")  # of tars, which only reading counts
    job.manifest.end_attempt(args.out, "stopped" if stopped else "classified", account | {"seconds": phases.seconds})
    return stopping.code if stopped else None


def _ray_is_gone(what: str, end: Callable[[str], None]) -> None:
    print(f"error: Ray's {what} on this machine or its head has ended; {GOES_ON}", file=sys.stderr, flush=True)
    end("failed")


def _open_cache(job: Classification, ledgers: list[Any]) -> Cache | None:
    """The cache of decoded images that was asked for, its room shared out among the ledgers."""
    where, limit, checkpoint = job.args.cache, job.args.cache_limit, job.checkpoint
    if where is None:
        return None
    open_storage(where)  # a mistake in it is told now
    room = limit - stored_bytes(where) if limit else math.inf
    for ledger in ledgers:
        ledger.cache_room.remote(room / len(ledgers))
    return Cache.of(where, job.survey.fingerprint, preprocess_for(job.args, checkpoint), checkpoint.class_names)
