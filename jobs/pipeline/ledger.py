"""One small actor a stream: it bounds retries, and remembers what went wrong.

It lives as long as its driver. A chunk is announced before it touches a device and crossed off after; a chunk that
took its actor down twice is then tried in pieces, each announced, until the image that does it stands alone.
"""

import os
import socket
import time
from collections import Counter, defaultdict
from typing import Any, Literal

from jobs.pipeline.attempts import Quarantine, Tries
from jobs.storage.failure import TOLD_AFTER, seconds_from, tell_waits

CHECK_SECONDS = 60.0
"""Between two checks in the long run: one takes a T3000 24 ms, 0.04% of it, and a lost mesh costs a minute of work."""
MOST_FAILED_CHECKS = 2  # Failed checks until a mesh stays out; after the first it is opened anew
ENDED = "its process ended while it opened the device"  # Of which nothing else is known
SHARD_ATTEMPTS = 4  # Attempts at a shard before what is left of it becomes errors, unread


def tell_ledger(ledger: Any) -> None:
    """From now on, what this process waits for in storage is told to the run's ledger."""
    who = f"{socket.gethostname()}:{os.getpid()}"
    tell_waits(lambda what, seconds: ledger.storage_waits.remote(who, what, seconds))


def check_seconds() -> float:
    """Between two checks. Raises UserError for a LOUDBOX_CHECK_SECONDS that is no time above 0."""
    return seconds_from("LOUDBOX_CHECK_SECONDS", CHECK_SECONDS, above_zero=True)


class Ledger:
    """The actor's body; see `open_ledger`.

    A chunk is *unchecked* until its mesh passes a check after it, and *doubtful* once that will not happen.
    """

    def __init__(self, index: int = 0, of: int = 1) -> None:
        """index: of the stream it is for, among so many."""
        self._index, self._of = index, of
        self._counts = dict.fromkeys(("restarts", "retries", "images_again", "given_up", "committed_before", "cached"), 0)
        self._events: list[dict[str, Any]] = []
        self._pace = {"decoded": 0, "classified": 0}
        # Of meshes, by name; of hosts, by Ray's id of their node.
        self._life: dict[str, dict[str, Any]] = {}
        self._lives: list[dict[str, Any]] = []
        self._unchecked: dict[str, dict[str, int]] = {}
        self._failures: dict[str, list[str]] = {}
        self._meshes: Counter[str] = Counter()
        self._opening, self._arrived = set[str](), set[str]()
        self._heard: dict[str, float] = {}
        self._down: defaultdict[str, float] = defaultdict(float)
        self._opened_at: float | None = None
        self._places: dict[str, list[str]] = {}
        self._nodes: dict[str, str] = {}
        self._actors, self._released = 1, False
        # Of chunks, by name.
        self._chunks: dict[str, Tries] = {}
        self._begun: dict[str, str] = {}
        self._decoded, self._again, self._doubtful = set[str](), set[str](), set[str]()
        # Of shards, by id, and of what is read.
        self._attempts: Counter[str] = Counter()
        self._images: dict[int, int] = {}
        self._listed: dict[int, int] = {}
        self._passes = self._parts = self._shards_read = 0
        self._cache_room = 0.0
        self._waiting: set[str] = set()
        self._waits_told = 0.0
        self._draining = False

    def place(self, host: str, actor: str) -> int:
        """The number of an actor among those without boards that were on its host; one that is started again keeps its own."""
        actors = self._places.setdefault(host, [])
        if actor not in actors:
            actors.append(actor)
        return self._index + self._of * actors.index(actor)

    def start(self, mesh: str) -> Literal["open", "later", "wait", "out"]:
        """What an actor that begins on a mesh is to do.

        later: open it when a chunk comes, since Ray ends actors for want of chunks. out: hand every chunk back.
        wait: the same, and take none while others work.
        """
        if self._out(mesh):
            return "out" if mesh in self._arrived or self._released else "wait"
        return "later" if self._released else "open"

    def opening(self, mesh: str) -> None:
        """An actor is about to open its device, which may hang or end its process."""
        if mesh in self._opening:
            self.note("device", mesh, ENDED)
        self._opening.add(mesh)

    def arrive(self, mesh: str, node: str, checked_at: float | None = None) -> None:
        """An actor has opened its device, on the node with this Ray id, and checked its chips, if any, at that Unix time."""
        if checked_at is not None:
            self._begin_life(mesh, checked_at, checks=1)
        now = time.time()
        self._arrived.add(mesh)
        self._opening.discard(mesh)
        self._opened_at = self._opened_at or now
        self._nodes[node] = mesh.rpartition("/")[0]
        self._meshes[mesh] += 1
        if self._meshes[mesh] > 1:
            self._counts["restarts"] += 1
            self._down[mesh] += now - self._heard.get(mesh, now)
            self.note("restart", mesh, "the actor on this mesh was replaced")
        self._heard[mesh] = now

    def released(self, mesh: str) -> None:
        """Ray Data has ended an actor without need, which it does when no chunk waits for one."""
        self._released = True
        self._meshes[mesh] = 0
        self._life.pop(mesh, None)

    def none_left(self) -> str | None:
        """Why every mesh stays out; None where one does not."""
        out = {mesh: why for mesh in self._failures if (why := self._out(mesh))}
        if len(out) < self._actors or (self._life.keys() | self._opening) - out.keys():
            return None
        return f"{'; '.join(f'{mesh}: {why}' for mesh, why in out.items())}; no other mesh is left"

    def listing(self, parts: int, actors: int = 1, again: frozenset[str] = frozenset()) -> None:
        """The data set's shards are about to be handed out in so many parts, to meshes of so many actors.

        again: the doubtful chunks that a further pass is for.
        """
        self._passes += 1
        self._parts, self._actors, self._released = parts, actors, False
        self._listed, self._shards_read, self._arrived, self._places = {}, 0, set(), {}
        self._again = set(again)
        self._counts["retries"] += len(again)
        if again:
            self.note("retry", "run", f"no passed check followed {len(again)} of the chunks, which are classified again")

    def listed(self, part: int, shards: int) -> None:
        """This part has been handed out: so many shards of it are to be read."""
        self._listed[part] = shards

    def shard_read(self, shard: str, images: int) -> None:
        """All chunks of a shard have been decoded, or were committed before; it has so many images."""
        self._images[hash(shard)] = images
        self._shards_read += 1
        self._attempts.pop(shard, None)

    def more_is_coming(self, queued: int = 0) -> bool:
        """Whether chunks are still to come to the devices, as far as it is known: what was repeated may count twice.

        queued: decoded chunks that do not count.
        """
        reading = len(self._listed) < self._parts or self._shards_read < sum(self._listed.values())
        return not self._draining and (reading or len(self._decoded) > queued)

    def others_have_work(self) -> bool:
        """Whether chunks are to come beside those, one a mesh, that wait behind chunks which meshes that stay out hold back."""
        return self.more_is_coming(sum(1 for mesh in self._failures if self._out(mesh)))

    def begin_shard(self, shard: str) -> int | None:
        """A shard is about to be opened: which attempt that is; None when draining."""
        chunk_begun = any(chunk.rpartition(".")[0] == shard for chunk in self._attempts)  # which is counted as tried again
        return self._begin(shard, None if chunk_begun else f"shard {shard}")

    def begin_reading(self, chunk: str) -> int | None:
        """A chunk is about to be decoded: which attempt that is; None when draining."""
        return self._begin(chunk, chunk)

    def _begin(self, what: str, told: str | None) -> int | None:
        """told: how an event calls it; None for no event."""
        if self._draining:
            return None
        self._attempts[what] += 1
        if self._attempts[what] > 1 and told:
            self._counts["retries"] += 1
            self.note("retry", "decode", f"attempt {self._attempts[what]} at reading {told}")
        return self._attempts[what]

    def done_reading(self, chunk: str, images: int, from_cache: bool = False) -> None:
        """A chunk of so many images has been decoded, or read from the cache."""
        self._attempts.pop(chunk, None)
        self._decoded.add(chunk)
        self._counts["cached"] += images if from_cache else 0
        self._pace["decoded"] += images

    def classified(self, images: int) -> None:
        """So many more images have an answer, which is yet to be written."""
        self._pace["classified"] += images

    def pace(self) -> dict[str, int]:
        """How far it is: images decoded and classified, meshes opened of those not out, and tasks that wait for storage."""
        done = {what: max(0, images - self._counts["images_again"]) for what, images in self._pace.items()}
        meshes = self._actors - sum(1 for mesh in self._failures if self._out(mesh))
        up = {mesh for mesh, count in self._meshes.items() if count} - self._opening
        opened = meshes if self._released else sum(1 for mesh in up if not self._out(mesh))
        return {**done, "open": opened, "meshes": meshes, "waiting": len(self._waiting)}

    def cache_room(self, room: float) -> None:
        """There is a cache, which may take so many bytes more."""
        self._cache_room = max(0.0, room)

    def cache_takes(self, size: int) -> bool:
        """Whether so many bytes more may be written to the cache; the first time they may not is told."""
        if self._cache_room >= size:
            self._cache_room -= size
            return True
        self.cache_off("it has reached --cache-limit; what is left is decoded and not kept")
        return False

    def cache_off(self, why: str) -> None:
        """Nothing more is written to the cache; told once."""
        if self._cache_room >= 0:
            self.note("cache", "cache", why)
        self._cache_room = -1

    def passed_over(self, images: int) -> None:
        """A shard has been read whose images were committed before, so many of them."""
        if self._passes == 1:
            self._counts["committed_before"] += images

    def begin(self, chunk: str, images: int, batch_size: int, mesh: str) -> Quarantine | Literal["stop"] | None:
        """A chunk of so many decoded images is about to go to a device; None for the ordinary way, "stop" when draining."""
        self._decoded.discard(chunk)
        if self._draining:
            if chunk in self._chunks:  # it may be committed, by a process that could not say so
                self._doubtful.add(chunk)
                self._begun.pop(chunk, None)
            return "stop"
        self._heard[mesh] = time.time()
        if mesh in self._life:
            self._begun[chunk] = mesh  # it may be committed by a process that ends before it can say so
        tried = self._chunks.setdefault(chunk, Tries())
        tried.attempts += 1
        if tried.attempts > 1 or chunk in self._again:
            self._counts["images_again"] += images
        self._again.discard(chunk)
        if tried.attempts == 1:
            return None
        self._counts["retries"] += 1
        self.note("retry", mesh, f"attempt {tried.attempts} at {chunk}")
        return tried.quarantine(images, batch_size)

    def trying(self, chunk: str, piece: tuple[int, int] | None) -> None:
        """These images [start, end) of a chunk are about to be alone on a device; None: all of them were classified."""
        self._chunks[chunk].trying = piece

    def done(self, chunk: str, mesh: str, begun: int | None) -> bool:
        """A chunk is committed, with answers that were there when so many checks had been begun (MeshChecks.begun).

        Returns whether more is coming.
        """
        self._doubtful.discard(chunk)
        self._begun.pop(chunk, None)
        if begun is not None and mesh not in self._life:  # it failed meanwhile, and its process had yet to end
            self._doubtful.add(chunk)
        elif begun is not None and begun >= self._life[mesh]["passed"]:
            self._unchecked.setdefault(mesh, {})[chunk] = begun
        tried = self._chunks.pop(chunk, Tries())
        if tried.given_up:
            self._counts["given_up"] += len(tried.given_up)
            self.note("image", chunk, f"{len(tried.given_up)} images that take the device down were given up")
        return self.more_is_coming()

    def note(self, kind: str, where: str, what: str) -> None:
        """Remember an event; the first 1,000 are kept, all restarts and retries are counted."""
        if kind == "device":
            self._heard[where] = time.time()
            self._opening.discard(where)
        if len(self._events) < 1000:
            self._events.append({"at": time.time(), "kind": kind, "where": where, "what": what})

    def storage_waits(self, who: str, what: str | None, seconds: float) -> None:
        """A process has waited so long for storage, which says `what`; None: it waits no longer. Told once in TOLD_AFTER."""
        if what is None:
            self._waiting.discard(who)
            return
        self._waiting.add(who)
        if seconds > TOLD_AFTER and time.monotonic() - self._waits_told > TOLD_AFTER:
            self._waits_told = time.monotonic()
            tasks = f"{len(self._waiting)} tasks wait" if len(self._waiting) > 1 else "1 task waits"
            self.note("storage", "storage", f"{what}; since {seconds:.0f} s; {tasks}")

    def drain(self) -> None:
        """Let what is on a device finish and hand out nothing more."""
        self._draining = True

    def is_draining(self) -> bool:
        return self._draining

    def account(self, alive: set[str] | None = None) -> dict[str, Any]:
        """Counts and events of this attempt, for the manifest; alive: Ray ids of the nodes that still are."""
        return {
            **self._counts,
            "lost_hosts": sorted(host for node, host in self._nodes.items() if alive is not None and node not in alive),
            "images_read": sum(self._images.values()),
            "meshes": sorted(self._meshes),
            "down_seconds": dict(self._down),
            "checks": self._lives,
            "opened_at": self._opened_at,
            "not_open": sorted(self._opening),
            "events": self._events,
        }

    def passed(self, mesh: str, number: int) -> None:
        """All chips of a mesh have passed the check of this number: what was answered before it is right."""
        self._life[mesh] |= {"checks": number + 1, "passed": number}
        self._unchecked[mesh] = {chunk: begun for chunk, begun in self._unchecked.get(mesh, {}).items() if begun >= number}

    def failed(self, mesh: str, chips: list[str], why: str) -> None:
        """These chips of a mesh have not passed one, and its process ends."""
        if mesh not in self._life:  # the first one
            self._begin_life(mesh, time.time(), checks=0)
        life = self._life.pop(mesh)
        life |= {"checks": life["checks"] + 1, "failed": chips}
        self._doubt(mesh)
        self._failures.setdefault(mesh, []).append(why)
        for chunk, place in self._begun.items():
            if place == mesh:  # it says nothing about its images that this attempt did not return
                self._chunks[chunk] = Tries(1)

    def _out(self, mesh: str) -> str | None:
        """Why a mesh is not to be opened again; None where it may."""
        failures = self._failures.get(mesh, [])
        return failures[-1] if len(failures) >= MOST_FAILED_CHECKS else None

    def hand_back(self, chunk: str) -> None:
        """A mesh that stays out was given this chunk, and leaves it to others."""
        self._decoded.discard(chunk)
        self._begun.pop(chunk, None)
        self._doubtful.add(chunk)

    def doubtful(self, last: bool = False) -> list[str] | None:
        """Chunks to be classified again; None while some are on a mesh or to be checked. last: they are not waited for."""
        if last:
            for mesh in list(self._unchecked):
                self._doubt(mesh)
            self._doubtful |= self._begun.keys()
            self._begun.clear()
        return None if self._begun or any(self._unchecked.values()) else sorted(self._doubtful)

    def _begin_life(self, mesh: str, opened_at: float, checks: int) -> None:
        """A process has opened a mesh and checked it so often. What another one left unchecked there is doubtful."""
        self._doubt(mesh)
        self._life[mesh] = {"mesh": mesh, "opened_at": opened_at, "checks": checks, "passed": 0, "failed": []}
        self._lives.append(self._life[mesh])

    def _doubt(self, mesh: str) -> None:
        self._doubtful |= self._unchecked.pop(mesh, {}).keys()
