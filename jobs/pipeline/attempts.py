"""Attempts at a chunk that takes its actor down: after two in pieces, until the images that do it stand alone."""

from dataclasses import dataclass, field

QUARANTINE_AFTER = 2
"""Attempts at a chunk that may end in a dead actor before it is tried in pieces; at a shard, before it is read in a process
of its own."""
POISON_PILL_DEATHS = 2  # Deaths with one image alone on the device before it is recorded as an error
MOST_ATTEMPTS = 40
"""Attempts at a chunk before the images still in quarantine are given up: enough to find several poison pills among 512."""


@dataclass(frozen=True)
class Quarantine:
    """How to try a chunk that took its actor down: these [start, end) pieces, one at a time; skip given_up images."""

    pieces: list[tuple[int, int]]
    given_up: set[int]


@dataclass
class Tries:
    """What is known of one chunk in progress: [start, end) pieces still to try, and the images given up."""

    attempts: int = 0
    pieces: list[tuple[int, int]] = field(default_factory=list)
    trying: tuple[int, int] | None = None
    deaths: dict[int, int] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)

    def quarantine(self, images: int, batch_size: int) -> Quarantine | None:
        """How the attempt that begins is to be made; None for the ordinary way. images: of the chunk."""
        if self.attempts <= QUARANTINE_AFTER:
            return None
        if self.attempts == QUARANTINE_AFTER + 1:
            self.pieces = [(start, min(start + batch_size, images)) for start in range(0, images, batch_size)]
        self._died()
        if self.attempts > MOST_ATTEMPTS:
            self.given_up.update(i for start, end in self.pieces for i in range(start, end))
            self.pieces = []
        return Quarantine(list(self.pieces), set(self.given_up))

    def _died(self) -> None:
        """The last attempt did not return: try the images of its piece one by one, or count a death of the one that was alone.

        One by one, not by halves: a batch more costs milliseconds, a death more the opening of a mesh.
        """
        if self.trying is None:
            return
        start, end = self.trying
        self.pieces.remove(self.trying)
        self.trying = None
        if end - start > 1:
            self.pieces += [(image, image + 1) for image in range(start, end)]
        else:
            self.deaths[start] = self.deaths.get(start, 0) + 1
            if self.deaths[start] < POISON_PILL_DEATHS:
                self.pieces.append((start, end))
            else:
                self.given_up.add(start)
        self.pieces.sort()
