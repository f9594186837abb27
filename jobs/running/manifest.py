"""`<out>/manifest.json`: what a run is of, so that a resume continues the same one, and when it was attempted."""

import json
import platform
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import UnionType
from typing import Any, Self, get_origin, get_type_hints

import pyarrow as pa
from pyarrow import fs

from jobs.running.clearing import clear_run, refuse_foreign_page
from jobs.running.output_lock import hold_output
from jobs.settings import Settings
from jobs.storage.address import below, place, shown
from jobs.storage.failure import Damaged, Gone, patiently
from jobs.storage.files import open_storage, read_as, write_atomically
from vit_actor.checkpoint import Checkpoint
from vit_actor.errors import UserError

PACKAGES = ("ray", "torch", "transformers", "pyarrow", "pillow", "openvino", "ttnn")
AUTO = "auto"  # A device that depends on the cluster
TOLD = {"data_fingerprint": "the data set's files, sizes or rows changed", "model_digest": "the checkpoint's files changed"}
"""What to say of settings that are hashes."""

_CHANGING = threading.RLock()
"""Held from a change until it is written: else a thread that notes troubles could write over another's last word."""

Attempts = list[dict[str, Any]]


@dataclass
class Manifest:
    """settings: everything that decides a prediction or which images there are; a resume must bring the same.

    chosen: all that the user chose last (Settings). labels_from, left_out: as the data set's Survey has them.
    files: of a finished run, what `committed_files` said then.
    """

    run_id: str
    job: str
    data: str
    model: str
    model_digest: str
    class_names: list[str]
    images: int | None
    settings: dict[str, Any]
    versions: dict[str, str]
    attempts: Attempts = field(default_factory=list)
    labels_from: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    files: list[int] = field(default_factory=list)
    chosen: dict[str, Any] = field(default_factory=dict)
    _written = b""

    @classmethod
    def of(cls, job: str, chosen: Settings, checkpoint: Checkpoint, *, data: str, settings: dict[str, Any], **about: Any) -> Self:
        """A run without attempts. about: further fields."""
        return cls(
            run_id=new_run_id(),
            job=job,
            data=data,
            model=chosen.model,
            model_digest=checkpoint.digest,
            class_names=checkpoint.class_names,
            settings=settings,
            versions=package_versions(),
            chosen=chosen.saved(),
            **{"images": None, **about},
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What every file of the present attempt repeats."""
        return {"run_id": self.run_id, "attempt": len(self.attempts), "versions": self.versions}

    @property
    def finished(self) -> bool:
        return bool(self.attempts) and self.attempts[-1]["state"] == "finished"

    def begin_attempt(self, out: str, *, overwrite: bool = False) -> None:
        """Write down that the run is started, or gone on with.

        overwrite: delete an earlier run's predictions, reports and comparisons first.
        """
        if overwrite:
            clear_run(out)
        self.attempts.append({"attempt": len(self.attempts) + 1, "started_at": _now(), "ended_at": None, "state": "running"})
        self.note(out, {})

    def end_attempt(self, out: str, state: str, account: dict[str, Any] | None = None) -> None:
        """state: classified (reports to come), finished, stopped, incomplete or failed; running for ever: killed.

        account: what went wrong on the way (Ledger.account).
        """
        self.note(out, {"ended_at": _now(), "state": state, **(account or {})})

    def note(self, out: str, changes: dict[str, Any]) -> None:
        """Keep something of the present attempt, so that it outlives the driver; raises UserError where storage fails."""
        filesystem, path = open_storage(out)
        with _CHANGING:
            self.attempts[-1].update(changes)
            if (data := json.dumps(asdict(self), indent=1).encode()) != self._written:
                write_atomically(filesystem, f"{path}/manifest.json", data)
            self._written = data

    @contextmanager
    def single_attempt(self, out: str, *, overwrite: bool) -> Iterator[None]:
        """The block is the one attempt at a run that cannot be resumed, in an output that no other job has meanwhile.

        It is finished if it ends, failed if it raises.
        """
        with hold_output(out):
            check_free(out, overwrite=overwrite)
            self.begin_attempt(out, overwrite=overwrite)
            try:
                yield
            except BaseException:
                self.end_attempt(out, "failed")
                raise
            self.end_attempt(out, "finished")


def new_run_id() -> str:
    """A name for a run, ordered by time and unique."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"


def load_manifest(out: str) -> Manifest | None:
    """The manifest in `out`, or None where no run has been; raises UserError when it cannot be read."""
    address = below(out, "manifest.json")

    def take(data: pa.Buffer) -> Manifest:
        manifest = Manifest(**json.loads(data.to_pybytes()))
        for name, hint in get_type_hints(Manifest).items():
            if not isinstance(getattr(manifest, name), hint if isinstance(hint, UnionType) else get_origin(hint) or hint):
                raise TypeError
        if not all(isinstance(text, str) for text in [*manifest.class_names, *(a["state"] for a in manifest.attempts)]):
            raise TypeError
        return manifest

    try:
        return read_as(address, take)
    except Gone:
        return None
    except Damaged:
        what = "damaged, or of another version of this project"
        raise UserError(f"{shown(address)}: {what}; pass --overwrite to start again") from None


def check_free(out: str, *, overwrite: bool) -> None:
    """Raise UserError where a run would be lost: `out` holds one, and it is not to be overwritten."""
    if overwrite:
        return
    refuse_foreign_page(out)
    existing = load_manifest(out)
    if existing is not None:
        more = "--resume to continue it or " if existing.job == "imagenet" else ""
        raise UserError(f"--out {shown(out)} already holds run {existing.run_id}; pass {more}--overwrite to replace it")
    filesystem, path = open_storage(out)
    if patiently(partial(filesystem.get_file_info, f"{path}/predictions"), out, "look at").type != fs.FileType.NotFound:
        raise UserError(f"--out {shown(out)} holds predictions of no known run; choose another, or --overwrite to replace them")


def claim(out: str, wanted: Manifest, *, overwrite: bool, resume: bool = False) -> Manifest:
    """The manifest to continue or begin with; changes nothing. Raises UserError when `out` holds another run.

    A device that is not decided yet (AUTO) may become that of the run to continue.
    """
    existing = load_manifest(out) if resume else None
    if existing is None:  # a command that resumes may have ended before it began, as a scheduler's that always resumes
        check_free(out, overwrite=overwrite)
        return wanted
    differing = []
    for key, now in sorted(wanted.settings.items()):
        before = existing.settings.get(key)
        respelled = key in ("data", "labels") and before and now and place(before) == place(now)
        # The data's fingerprint is of the images within the limit.
        follows = key == "data_fingerprint" and existing.settings.get("limit") != wanted.settings["limit"]
        if before != now and not respelled and not follows and (key, now) != ("device", AUTO):
            differing.append(TOLD.get(key) or f"{key} was {before!r}, now {now!r}")
    if differing:
        raise UserError(f"--resume: {out} holds a run with other settings ({'; '.join(differing)}); use the same or --overwrite")
    existing.chosen = wanted.chosen
    return existing


def checked(attempts: Attempts) -> Callable[[dict[str, Any]], bool]:
    """Whether a chunk, by its footer, was answered before a check that all chips of its mesh have passed (Ledger.account).

    It also counts as checked where its device has no chips.
    """
    passed = {(life["mesh"], life["opened_at"]): life["passed"] for life in _lives(attempts)}

    def is_checked(footer: dict[str, Any]) -> bool:
        begun = footer.get("checks")
        return begun is None or passed.get((footer["mesh"], footer["opened_at"]), 0) > begun

    return is_checked


def counted_checks(attempts: Attempts) -> tuple[int, list[str]]:
    """How many checks of chips there were, and each chip that failed some, with its mesh and how many."""
    failed = Counter(f"{life['mesh']} {chip}" for life in _lives(attempts) for chip in life["failed"])
    failures = [f"{chip} ({count} failed)" for chip, count in sorted(failed.items())]
    return sum(life["checks"] for life in _lives(attempts)), failures


def _lives(attempts: Attempts) -> list[dict[str, Any]]:
    return [life for attempt in attempts for life in attempt.get("checks", [])]


def package_versions() -> dict[str, str]:
    """Versions that a result depends on: Python and the packages that computed it."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
