"""Places that must not lie in each other: what a run writes, and what it reads."""

from __future__ import annotations

from itertools import combinations

from jobs.pipeline.sources.hub import is_hub
from jobs.pipeline.sources.listing import IMAGE_EXTENSIONS, PARQUET_EXTENSIONS, TAR_EXTENSIONS, has_extension
from jobs.storage.address import parent, place, shown
from vit_actor.errors import UserError

WRITTEN = ("--out", "--cache")
DATA_EXTENSIONS = (*IMAGE_EXTENSIONS, *PARQUET_EXTENSIONS, *TAR_EXTENSIONS)


def check_apart(places: dict[str, str | None]) -> None:
    """Raise UserError where a folder that is written to lies in another one of these, or has it inside.

    places: paths and URIs by the option that gave them. Links are followed, and spellings of one URI are the same place. Single
    files and patterns are no folders: what a run writes beside them is not read.
    """
    found = {option: place(uri) for option, uri in places.items() if uri and _is_folder(uri)}
    for first, second in combinations(found, 2):
        if (first in WRITTEN or second in WRITTEN) and _overlap(found[first], found[second]):
            one, other = (shown(places[option] or "") for option in (first, second))
            raise UserError(f"{first} {one} and {second} {other} lie in each other; give directories apart")


def _overlap(first: tuple[str, str], second: tuple[str, str]) -> bool:
    (kind, one), (other_kind, other) = first, second
    return kind == other_kind and (one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/"))


def _is_folder(uri: str) -> bool:
    name = parent(uri)[1]
    return not (is_hub(uri) or any(mark in name for mark in "*?{") or has_extension(name, DATA_EXTENSIONS))
