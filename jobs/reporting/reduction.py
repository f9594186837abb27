"""What a run's predictions add up to, counted wherever there are cores; a finished run's are put into few files on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from itertools import batched, count, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, FileType

from jobs.pipeline.commit import FOOTER, PART, footers_of, part_footer, read_footers
from jobs.pipeline.schema import PREDICTIONS
from jobs.reporting.counts import COLUMNS, Counts, FileMetadata
from jobs.reporting.counts import count as counts_of
from jobs.reporting.imagenet_sets import Real
from jobs.storage import open_storage, parquet_files, shown, storage_errors, write_table
from vit_actor.errors import UserError

READERS = 8
"""Files in flight in a process: hides an object store's latency."""
FILES_IN_A_TASK, FILES_IN_A_PART = 512, 2048
"""Files of one chunk that a task counts; that become one file, of a million rows."""
FEW_FILES = 4096
"""Up to so many are counted in this process, in seconds: Ray's start would take as long."""
MERGED_AT_ONCE = 8
COUNTED_AT_ONCE = 256
"""Files of one chunk: 20 MB of rows."""
DAMAGED = (pa.ArrowException, OSError, KeyError, TypeError, ValueError)
"""What reading and counting raise of a file that no run wrote, or that is cut off."""
NAMED = 20
"""Damaged files that are named."""


@dataclass
class _Counted:
    """counts: of some files. damaged: those of them that could not be read."""

    counts: Counts = field(default_factory=Counts)
    damaged: list[str] = field(default_factory=list)

    def __iadd__(self, other: _Counted) -> _Counted:
        self.counts += other.counts
        self.damaged += other.damaged
        return self


@dataclass(frozen=True)
class _Task:
    """files: to count. part: the file to put their rows into afterwards, and `run_id` the run whose rows may go there.

    real: as `counts.count` has it.
    """

    out: str
    files: tuple[str, ...]
    part: str | None = None
    run_id: str = ""
    real: Real | None = None


@dataclass(frozen=True)
class _File:
    """A file that has been read: its rows, and the footers of the chunks whose rows they are, in order."""

    name: str
    table: pa.Table
    footers: list[dict[str, Any]]

    def chunks(self) -> Iterator[FileMetadata]:
        for footer in self.footers:
            yield FileMetadata(**{each.name: footer[each.name] for each in fields(FileMetadata) if each.name in footer})


def reduce_predictions(out: str, *, address: str | None = None, compact: str | None = None, real: Real | None = None) -> Counts:
    """The counts of all predictions in `out`; in this process where there are few files, else as tasks on a cluster.

    address: of that cluster, as `ray_session` takes it. compact: id of a run whose stream has ended; its files of one chunk each
    are merged into files of a million rows. This module and `--compare` count every row once at any time. A listing of the folder
    may show rows twice while the files that a part replaces are being deleted.
    Raises UserError for damaged files, all of which are named.
    """
    filesystem, path = open_storage(out)
    with storage_errors(out):
        parts, chunks, replaced = list_predictions(filesystem, path)
        if compact:
            _delete(filesystem, replaced)
    numbers = count(1 + max((int(PART.findall(part)[-1]) for part in parts), default=-1))
    few = len(chunks) + FILES_IN_A_PART * max(0, len(parts) - 1) <= FEW_FILES
    tasks = [_Task(out, (part,), real=real) for part in parts]
    for files in batched(chunks, FILES_IN_A_PART if compact or few else FILES_IN_A_TASK):
        part = f"{path}/predictions/part-{next(numbers):06}.parquet" if compact and len(files) > 1 else None
        tasks.append(_Task(out, files, part, compact or "", real))
    counted = _Counted()
    for some in map(_run, tasks) if few else _on_cluster(tasks, address):
        counted += some
    if counted.damaged:
        damaged = [file.removeprefix(f"{path}/") for file in counted.damaged]
        names = ", ".join(damaged[:NAMED]) + (f" and {len(damaged) - NAMED:,} more" if len(damaged) > NAMED else "")
        raise UserError(f"{shown(out)}: damaged, or no files of predictions: {names}; add --resume to the job to do them again")
    return counted.counts


def list_predictions(filesystem: FileSystem, path: str) -> tuple[list[str], list[str], list[str]]:
    """Files of many chunks; files of one chunk each; and those of one chunk whose rows are in a file of many already."""
    parts: list[str] = []
    chunks: list[str] = []
    for file in parquet_files(filesystem, f"{path}/predictions"):
        (parts if PART.fullmatch(file.rpartition("/")[2]) else chunks).append(file)
    if not (parts and chunks):
        return sorted(parts), sorted(chunks), []
    held = {f"{path}/predictions/{footer['chunk']}.parquet" for part in parts for footer in read_footers(filesystem, part)}
    return sorted(parts), sorted(file for file in chunks if file not in held), [file for file in chunks if file in held]


def _on_cluster(tasks: list[_Task], address: str | None) -> Iterator[_Counted]:
    """The tasks' counts, merged by further tasks until a few are left; a bounded number of them in flight."""
    from jobs.running.session import ray_session

    with ray_session(address):
        import ray

        run, merge = ray.remote(_run), ray.remote(_merge)
        at_once = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        running: list[Any] = []
        done: list[Any] = []
        waiting = iter(tasks)
        while True:
            running += [run.remote(task) for task in islice(waiting, max(0, at_once - len(running)))]
            if not running:
                break
            finished, running = ray.wait(running)
            done += finished
            if len(done) >= MERGED_AT_ONCE:
                running.append(merge.remote(*done))
                done = []
        try:
            yield from map(ray.get, done)
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, UserError) else error) from None


def _merge(*counted: _Counted) -> _Counted:
    merged = _Counted()
    for each in counted:
        merged += each
    return merged


def _run(task: _Task) -> _Counted:
    """Count the task's files; where all are sound and of the run, replace them by one."""
    filesystem, _ = open_storage(task.out)
    if task.part and filesystem.get_file_info(task.part).type == FileType.File:  # a retry: the first attempt died later than that
        left = [info.path for info in filesystem.get_file_info(list(task.files)) if info.type == FileType.File]
        _delete(filesystem, left)
        task = _Task(task.out, (task.part,), real=task.real)
    columns = None if task.part else COLUMNS
    found = _Counted()
    tables: list[pa.Table] = []
    footers: list[dict[str, Any]] = []

    def read(file: str) -> _File | str:
        with storage_errors(file), filesystem.open_input_stream(file) as stream:
            data = stream.readall()
        try:
            parquet = pq.ParquetFile(pa.BufferReader(data))
            return _File(file, parquet.read(columns, use_threads=False), footers_of(parquet.metadata))
        except DAMAGED:
            return file

    def count_all(files: Sequence[_File]) -> None:
        """Count files at once, which takes a quarter of the time; one by one where some are damaged, to tell which."""
        try:
            found.counts += counts_of(
                pa.concat_tables([file.table for file in files]),
                *(chunk for file in files for chunk in file.chunks()),
                real=task.real,
            )
        except DAMAGED:
            if len(files) == 1:
                found.damaged.append(files[0].name)
            else:
                for file in files:
                    count_all([file])

    with ThreadPoolExecutor(READERS) as readers:
        for names in batched(task.files, COUNTED_AT_ONCE):
            files = list(readers.map(read, names))
            found.damaged += [file for file in files if isinstance(file, str)]
            sound = [file for file in files if isinstance(file, _File)]
            if sound:
                count_all(sound)
            if task.part:
                tables += [file.table for file in sound]
                footers += [footer for file in sound for footer in file.footers]
    of_this_version = all(table.column_names == PREDICTIONS.names for table in tables)
    if task.part and of_this_version and not found.damaged and found.counts.run_ids == {task.run_id}:
        schema = PREDICTIONS.with_metadata({**PREDICTIONS.metadata, FOOTER: part_footer(footers)})
        with storage_errors(task.out):
            write_table(filesystem, task.part, pa.concat_tables(tables).cast(schema))
            _delete(filesystem, task.files)
    return found


def _delete(filesystem: FileSystem, files: Any) -> None:
    with ThreadPoolExecutor(READERS) as deleters:
        list(deleters.map(filesystem.delete_file, files))
