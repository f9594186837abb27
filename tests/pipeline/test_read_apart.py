"""Reading a shard in a process of its own: what the process could give is had, whenever and however it ends."""

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import pytest

from jobs.pipeline.read_apart import read_apart
from jobs.pipeline.sources import EncodedImage, Shard, Survey
from vit_actor.errors import UserError

DIED = "cannot be read: reading it ends its process, for want of memory perhaps"


@dataclass(frozen=True)
class Ending:
    """A source that gives two images and then ends in some way."""

    how: str
    folder: str = "/nowhere"

    def shards(self) -> Generator[Shard, None, Survey]:
        yield from ()
        return Survey(4, False)

    def read(self, shard: Shard, wanted: Callable[[int], bool]) -> Iterator[tuple[int, EncodedImage]]:
        for ordinal in range(2):
            yield ordinal, EncodedImage(f"{ordinal}", None, b"data")
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "killed within an image":
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGKILL)).start()
            yield 2, EncodedImage("2", None, bytes(64 << 20))  # more than the pipe holds while nobody reads
        elif self.how == "out of memory":
            yield 2, EncodedImage("2", None, bytes(1 << 40))
        elif self.how == "a user's mistake":
            raise UserError("shard: changed while the run read it")


@pytest.mark.parametrize("how", ["killed", "killed within an image", "out of memory"])
@pytest.mark.parametrize(("images", "lost"), [(4, ["shard#2", "shard#3"]), (None, ["shard#2"])])
def test_what_is_left_of_the_shard_becomes_errors(how: str, images: int | None, lost: list[str]) -> None:
    found = []
    for ordinal, image in read_apart(Ending(how), Shard("shard", {}, images)):
        found.append(image)
        if ordinal == 1:
            time.sleep(3 if how == "killed within an image" else 0)
    assert [image.image_id for image in found if image.error is None] == ["0", "1"]
    assert [(image.image_id, image.error) for image in found if image.error] == [(name, DIED) for name in lost]


def test_a_users_mistake_is_raised_as_it_would_be_here() -> None:
    with pytest.raises(UserError, match="changed while the run read it"):
        list(read_apart(Ending("a user's mistake"), Shard("shard", {}, 4)))
