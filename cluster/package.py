"""What a submitted job needs of this project, in one file: its packages, and what its arguments name."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from jobs.running.terminal import say
from vit_actor.errors import UserError

PACKAGES = ("jobs", "vit_actor", "cluster")
TOLD_BYTES, MOST_BYTES = 20 * 10**6, 100 * 2**20
"""From the first on the size is told; the job server takes no more than the second."""


def pack(project: Path, module: str, arguments: list[str], folder: Path) -> Path:
    """A zip file in `folder`, of the same bytes for the same contents.

    Raises UserError that names what is too large, or can be in no zip file.
    """
    names = {*PACKAGES, module.partition(".")[0]}
    for word in arguments:  # what they name in the project is needed too
        named = os.path.normpath(word.partition("=")[2] if word.startswith("--") else word)
        if not named.startswith((".", "/")):
            names.add(named)
    found = {name for name in names if os.path.lexists(project / name)}
    needed = {name for name in found if not any(name.startswith(f"{other}{os.sep}") for other in found)}
    files = [file for name in sorted(needed) for file in below(project / name)]
    total = sum(size for _, size in files)
    largest = sorted(files, key=lambda file: -file[1])[:3]
    told = f"{total / 1e6:,.0f} MB: {', '.join(f'{path} {size / 1e6:,.0f} MB' for path, size in largest)}"
    if total > MOST_BYTES:
        fix = "put what is large where every host can read it, and give its absolute path"
        raise UserError(f"a job server takes an upload of 100 MB, and this one would be of {told}; {fix}")
    if total > TOLD_BYTES:
        say(f"uploading {told}", sys.stderr)
    package = folder / "project.zip"
    with ZipFile(package, "w", ZIP_DEFLATED) as archive:
        for path, _ in files:
            entry = ZipInfo(str(path.relative_to(project)))
            entry.external_attr, entry.compress_type = path.stat().st_mode << 16, ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    return package


def below(path: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[tuple[Path, int]]:
    """The files there and their bytes, without hidden and compiled ones; links are followed. above: folders that it is in."""
    try:
        found = path.stat()
        names = sorted(os.listdir(path)) if stat.S_ISDIR(found.st_mode) else None
    except OSError as error:
        raise UserError(f"{path}: cannot be uploaded ({error.strerror}); mend or remove it") from None
    here = (found.st_dev, found.st_ino)
    if here in above:
        raise UserError(f"{path}: a link to a folder that it is in, which has no end; remove it")
    if names is not None:
        for name in names:
            if not name.startswith(".") and name != "__pycache__" and not name.endswith(".pyc"):
                yield from below(path / name, above | {here})
    elif stat.S_ISREG(found.st_mode):
        yield path, found.st_size
    else:
        raise UserError(f"{path}: neither a file nor a folder, so it cannot be uploaded; remove it")
