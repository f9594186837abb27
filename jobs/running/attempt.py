"""One attempt at a run, from its first listing to its last commit, under a driver that may be stopped and a Ray that may die."""

import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import ray

from jobs.pipeline.cache import Cache, stored_bytes
from jobs.pipeline.ledger import ENDED
from jobs.pipeline.plan import Plan
from jobs.pipeline.shares import enough_shares, shares
from jobs.running.classification import Inputs
from jobs.running.command import JobFailed, Stopped, root_cause
from jobs.running.ledgers import ended, open_ledger, pace, settle, start_ledger
from jobs.running.lifeline import watch_ray
from jobs.running.manifest import Manifest, claim
from jobs.running.phases import Phases
from jobs.running.progress import Progress
from jobs.running.stopping import Draining, draining
from jobs.settings import ImagenetSettings
from jobs.storage.files import open_storage
from vit_actor.errors import UserError, ended_while_opening

LULL_SECONDS = 0.1
"""After so long the stages are planned, and this process waits for the first images: time to import what draws the page."""
GOES_ON = "what is committed stays: add --resume to go on"


@contextmanager
def attempt(
    settings: ImagenetSettings, inputs: Inputs, phases: Phases, *, signals: bool
) -> Iterator[tuple[Manifest, list[Plan], Progress]]:
    """An attempt at what has no row yet, on the cluster that is connected: the block streams the plans and tells the progress.

    The manifest says how it ended. signals: whether one lets what is in flight finish, and then raises Stopped; else
    KeyboardInterrupt ends the attempt. Raises UserError where another run has the output or no device is free, JobFailed where
    the block fails.
    """
    out = settings.out
    ledgers = [open_ledger(out)]  # before any wait for resources, which another job on this output may hold
    try:
        placement = settings.place(inputs.checkpoint)
        streams = min(settings.streams or enough_shares(placement), placement.actors)
        ledgers += [start_ledger(index, streams) for index in range(1, streams)]
        cache = None
        if settings.cache is not None:
            open_storage(settings.cache)  # a mistake in it is told now
            room = settings.cache_limit - stored_bytes(settings.cache) if settings.cache_limit else math.inf
            for ledger in ledgers:
                ledger.cache_room.remote(room / streams)
            cache = Cache.of(settings.cache, inputs.survey.fingerprint, inputs.preprocess, inputs.checkpoint.class_names)
        request = settings.request(inputs.checkpoint, placement, held=inputs.survey.held)
        shards = ray.put(inputs.survey.shards)
        described = inputs.describe(settings, placement.device)  # once more, now that the device is known
        manifest = claim(out, described, resume=settings.resume, overwrite=settings.overwrite)
        manifest.begin_attempt(out, overwrite=settings.overwrite)  # from here on, what fails is an attempt that failed
        plan = Plan(
            source=inputs.source,
            class_names=tuple(manifest.class_names),
            shards=shards,
            preprocess=inputs.preprocess,
            open_device=request,
            placement=placement,
            out=out,
            ledger=ledgers[0],
            identity=manifest.identity,
            limit_seconds=settings.device_limit,
            resume=settings.resume,
            cache=cache,
        )
        driver = Attempt(out, manifest, ledgers, placement.device)
        with driver.streaming(inputs.survey.images, phases, signals) as progress:
            yield manifest, shares(plan, ledgers), progress
    finally:
        for ledger in [] if signals else ledgers:  # they would live as long as this process, which goes on
            ray.kill(ledger)


@dataclass(frozen=True)
class Attempt:
    """What a run's driver does while its stages stream, and writes down in the manifest. device: that it runs on."""

    out: str
    manifest: Manifest
    ledgers: list[Any]
    device: str

    @contextmanager
    def streaming(self, total: int | None, phases: Phases, signals: bool) -> Iterator[Progress]:
        """Around the streaming of all chunks; see attempt. total: images of the run."""
        page = threading.Timer(LULL_SECONDS, lambda: import_module("jobs.reporting.page.page").prepare())
        page.daemon = True
        page.start()
        last = partial(self.end, "stopped")
        try:
            with (
                draining(self.drain, last) if signals else nullcontext(Draining(self.drain, last)) as stopping,
                watch_ray(self.ray_is_gone),
                Progress(total, self.note_troubles) as progress,
            ):
                phases.end("start")
                yield progress
        except KeyboardInterrupt:
            self.end("stopped", settle(*self.ledgers))
            raise
        except Exception as error:
            account = settle(*self.ledgers)
            self.end("failed", account)
            raise JobFailed(f"{self.cause(error, account)}; {GOES_ON}") from error
        account = settle(*self.ledgers)
        phases.end("open", at=account.get("opened_at") or time.time())
        phases.end("stream")
        if stopping.signal is None and self.manifest.images is None:
            self.manifest.images = account.get("images_read")  # of tars, which only reading counts
        state = "classified" if stopping.signal is None else "stopped"
        self.manifest.end_attempt(self.out, state, account | {"seconds": phases.seconds})
        if stopping.signal is not None:
            raise Stopped(f"stopped; what is committed stays: add --resume to go on with {self.out}", 128 + stopping.signal)

    def note_troubles(self) -> dict[str, Any]:
        """The ledgers' account, also written down when it has changed: a driver that is killed leaves what it had counted."""
        account = settle(*self.ledgers)
        with suppress(UserError):  # where the output fails, the next commit says so
            self.manifest.note(self.out, account)
        return account | {"pace": pace(*self.ledgers)}

    def drain(self) -> None:
        """Let what is in flight finish, and hand out nothing more."""
        for ledger in self.ledgers:
            ledger.drain.remote()

    def end(self, state: str, account: dict[str, Any] | None = None) -> None:
        with suppress(UserError):  # where the output is what failed, the manifest cannot say so
            self.manifest.end_attempt(self.out, state, account)

    def ray_is_gone(self, what: str) -> None:
        """The last words before this process ends."""
        print(f"error: Ray's {what} on this machine or its head has ended; {GOES_ON}", file=sys.stderr, flush=True)
        self.end("failed")

    def cause(self, error: Exception, account: dict[str, Any]) -> str:
        never = [event for event in account.get("events", []) if event["kind"] == "device" and not account["meshes"]]
        if said := [event for event in never if event["what"] != ENDED]:
            return f"{said[-1]['where']}: {said[-1]['what']}"
        if unopened := ", ".join(account.get("not_open", [])):  # perhaps because the run ended
            return f"{unopened}: {ended_while_opening(self.device)}"
        if not account and ended(*self.ledgers):
            return "the ledger, which keeps the run's account, has ended; perhaps memory ran out"
        return root_cause(error)
