"""What a run's predictions add up to, counted wherever there are cores; a finished run's are put into few files on the way."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import batched, count
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, FileType

from jobs.pipeline.commit import PART, footers_of, part_footer, read_footers, write_rows
from jobs.pipeline.schema import PREDICTIONS
from jobs.reporting.counts import COLUMNS, DAMAGED, Counting, Counts, damaged, facts
from jobs.reporting.imagenet_sets import Real
from jobs.running.words import some
from jobs.storage.address import shown
from jobs.storage.failure import Damaged, patiently
from jobs.storage.files import delete, named, open_storage, parquet_files, read_as
from vit_actor.errors import UserError

READERS = 8  # Files in flight in a process: hides an object store's latency
FILES_IN_A_TASK, FILES_IN_A_PART = 512, 2048  # Files of one chunk that a task counts; that become one file, of a million rows
FEW_FILES = 4096  # Up to so many are counted in this process, in seconds: Ray's start would take as long
COUNTED_AT_ONCE = 256  # Files of one chunk: 20 MB of rows
UNREADABLE = (pa.ArrowException, OSError, KeyError, TypeError, ValueError)  # What counting raises of a file that no run wrote
NAMED = 20  # Damaged files that are named

File = tuple[str, pa.Table, list[dict[str, Any]]]  # One that was read: its name, rows, and the footers of their chunks, in order


@dataclass(frozen=True)
class Task:
    """files: to count. part: the file to put their rows into afterwards, and `run_id` the run whose rows may go there."""

    out: str
    files: tuple[str, ...]
    part: str | None = None
    run_id: str = ""


def reduce_predictions(out: str, *, address: str | None = None, compact: str | None = None, real: Real | None = None) -> Counts:
    """The counts of all predictions in `out`; in this process where there are few files, else on a cluster.

    address: of that cluster, as `ray_session` takes it. compact: id of a run whose stream has ended; its files of one chunk each
    are merged into files of a million rows. This module and `--compare` count every row once at any time. A listing of the folder
    may show rows twice while the files that a part replaces are being deleted. real: as `Counting` takes it.
    Empty without any. Raises UserError for damaged files, all of which are named.
    """
    filesystem, path = open_storage(out)
    parts, chunks, replaced = list_predictions(filesystem, path)
    if compact:
        _delete(filesystem, replaced)
    numbers = count(1 + max((int(PART.findall(part)[-1]) for part in parts), default=-1))
    few = len(chunks) + FILES_IN_A_PART * max(0, len(parts) - 1) <= FEW_FILES
    tasks = [Task(out, (part,)) for part in parts]
    for files in batched(chunks, FILES_IN_A_PART if compact or few else FILES_IN_A_TASK):
        part = f"{path}/predictions/part-{next(numbers):06}.parquet" if compact and len(files) > 1 else None
        tasks.append(Task(out, files, part, compact or ""))
    if not tasks:
        return {}
    counting = Counting(real)
    if few:
        counts = counting.merge(*(count_files(task, counting) for task in tasks))
    else:
        from jobs.running.session import ray_session

        with ray_session(address):
            from jobs.reporting.on_cluster import count_on_cluster  # imports Ray, once the session has set it up

            counts = count_on_cluster(tasks, counting, real)
    if found := sorted(file.removeprefix(f"{path}/") for file in facts(counts, DAMAGED)):
        names = some(found, NAMED)
        raise UserError(f"{shown(out)}: damaged, or no files of predictions: {names}; add --resume to the job to do them again")
    return counts


def list_predictions(filesystem: FileSystem, path: str) -> tuple[list[str], list[str], list[str]]:
    """Files of many chunks; files of one chunk each; and those of one chunk whose rows are in a file of many already."""
    files = sorted(parquet_files(filesystem, f"{path}/predictions"))
    parts = [file for file in files if PART.fullmatch(file.rpartition("/")[2])]
    chunks = [file for file in files if not PART.fullmatch(file.rpartition("/")[2])]
    held = {
        f"{path}/predictions/{footer['chunk']}.parquet" for part in parts if chunks for footer in read_footers(filesystem, part)
    }
    return parts, [file for file in chunks if file not in held], [file for file in chunks if file in held]


def count_files(task: Task, counting: Counting) -> Counts:
    """Count the task's files; where all are sound and of the run, replace them by one."""
    filesystem, _ = open_storage(task.out)
    look = partial(filesystem.get_file_info, task.part)
    # A part that is there is a retry's: the first died later than that.
    if task.part and patiently(look, named(filesystem, task.part)).type == FileType.File:
        _delete(filesystem, task.files)
        task = replace(task, files=(task.part,), part=None)
    read = partial(_read, filesystem, PREDICTIONS.names if task.part else COLUMNS)
    counts: list[Counts] = []
    kept: list[File] = []
    with ThreadPoolExecutor(READERS) as readers:
        for names in batched(task.files, COUNTED_AT_ONCE):
            files = list(readers.map(read, names))
            sound = [file for file in files if file]
            counts += [damaged(name) for name, file in zip(names, files, strict=True) if not file] + _counted(sound, counting)
            kept += sound if task.part else []
    merged = counting.merge(*counts)
    if task.part and not facts(merged, DAMAGED) and facts(merged, "run") == [task.run_id]:
        footer = part_footer([footer for _, _, footers in kept for footer in footers])
        write_rows(filesystem, task.part, [table for _, table, _ in kept], footer)
        _delete(filesystem, task.files)
    return merged


def _read(filesystem: FileSystem, columns: list[str], name: str) -> File | None:
    """The file with these columns; None where it is damaged, twice, or another kind of file. Raises StorageError."""

    def take(data: pa.Buffer) -> File:
        parquet = pq.ParquetFile(pa.BufferReader(data))
        if parquet.schema_arrow.names != PREDICTIONS.names:
            raise ValueError("other columns")
        return name, parquet.read(columns, use_threads=False), footers_of(parquet.metadata)

    try:
        return read_as(named(filesystem, name), take, (filesystem, name))
    except Damaged:
        return None


def _counted(files: Sequence[File], counting: Counting) -> list[Counts]:
    """Count files at once, which takes a quarter of the time; one by one where some are damaged, to tell which."""
    if not files:
        return []
    try:
        footers = [footer for _, _, footers in files for footer in footers]
        return [counting.count(pa.concat_tables([table for _, table, _ in files]), *footers)]
    except UNREADABLE:
        return [damaged(files[0][0])] if len(files) == 1 else [each for file in files for each in _counted([file], counting)]


def _delete(filesystem: FileSystem, files: Sequence[str]) -> None:
    with ThreadPoolExecutor(READERS) as deleters:
        list(deleters.map(partial(delete, filesystem), files))
