"""What an output must allow, tried once before any work: writing, replacing and deleting a file of the run."""

from __future__ import annotations

from contextlib import suppress

from jobs.storage.address import below
from jobs.storage.failure import Refused
from jobs.storage.files import delete, open_storage, write_atomically

PROBE = ".probe"


def check_output(out: str) -> None:
    """Write a file in the output and replace it. Raises Refused, which names the operation, where one is not allowed."""
    address = below(out, PROBE)
    filesystem, path = open_storage(address)
    write_atomically(filesystem, path, b"1")
    write_atomically(filesystem, path, b"2", operation="replace")
    with suppress(Refused):  # who may not delete runs without merging: see may_delete
        delete(filesystem, path)


def may_delete(out: str) -> bool:
    """Whether files of the output can be deleted. Raises StorageError where storage fails."""
    address = below(out, PROBE)
    filesystem, path = open_storage(address)
    write_atomically(filesystem, path, b"3")
    try:
        delete(filesystem, path)
    except Refused:
        return False
    return True
