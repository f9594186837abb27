"""A job to break: started in the background, watched by what it has committed, compared with an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.pipeline.commit import Predictions, footers_of
from tests import waiting
from tests.commands import ROOT, Command, Finished, begin
from tests.conftest import RayCluster
from tests.pipeline.corpus import jpeg
from tests.processes import processes

MODEL = ROOT / "jobs" / "sample" / "model"
LIMIT = 200.0  # For one step on an overloaded machine; an idle one takes a tenth

SHARD = 64  # Images a Parquet file, and so a chunk: one batch, so that a short run has many chunks to lose


def write_shards(folder: Path, shards: int, images: int = SHARD, size: int = 16) -> Path:
    """Parquet files of small JPEGs, each another picture; the labels are the sample model's ten classes in turn."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        numbers = range(shard * images, (shard + 1) * images)
        columns = {"image": [jpeg(n, size, size) for n in numbers], "label": [n % 10 for n in numbers]}
        pq.write_table(pa.table(columns), folder / f"{shard:04d}.parquet")
    return folder


def command(data: Path | str, out: Path | str, timing: str, *arguments: str, module: str = "jobs.imagenet") -> list[str]:
    """A run on simulated meshes, without the interpreter."""
    common = ["--data", str(data), "--out", str(out), "--model", str(MODEL), "--device", "simulated", "--simulate", timing]
    return ["-m", module, *common, *arguments]


def wait_until(true: Callable[[], bool], job: Command | subprocess.Popen[str], limit: float = LIMIT) -> None:
    """Raises AssertionError when the job ends first, RetryError when the limit is over."""

    def ask() -> bool:
        if not (answer := true()):
            assert job.poll() is None, f"the job ended: {job.told() if isinstance(job, Command) else job.args!r}"
        return answer

    waiting.wait_until(ask, limit, every=0.05)


@dataclass(frozen=True)
class Job:
    """A command on a cluster, in the background."""

    process: Command
    out: Path

    @classmethod
    def start(
        cls, cluster: RayCluster, data: Path, out: Path, timing: str, *arguments: str, module: str = "jobs.imagenet"
    ) -> Job:
        _, *line = command(data, out, timing, "--address", cluster.address, *arguments, module=module)
        return cls(begin(*line, environment=cluster.environment), out)

    def wait_for_commits(self, count: int) -> None:
        self.wait_until(lambda: len(committed(self.out)) >= count)

    def wait_for_meshes(self, count: int) -> None:
        """Until so many meshes have committed something, and so are at work."""
        self.wait_until(lambda: len({footer["mesh"] for footer in footers(self.out)}) >= count)

    def wait_until(self, true: Callable[[], bool]) -> None:
        wait_until(true, self.process)

    def end(self, how: signal.Signals | None = None) -> Finished:
        """Wait for its end, after a signal if one is given."""
        if how:
            self.process.send_signal(how)
        return self.process.end(LIMIT)


def run(cluster: RayCluster, data: Path, out: Path, timing: str = "compute=1ms", *arguments: str) -> Finished:
    return Job.start(cluster, data, out, timing, *arguments).end()


@dataclass(frozen=True)
class Case:
    """A cluster, data, what an undisturbed run answers, and an output of its own."""

    cluster: RayCluster
    data: Path
    undisturbed: Answers
    out: Path

    def under(self, **environment: str) -> Case:
        """The same for clients with other variables."""
        return replace(self, cluster=replace(self.cluster, environment=self.cluster.environment | environment))

    def start(self, timing: str, *arguments: str, module: str = "jobs.imagenet") -> Job:
        return Job.start(self.cluster, self.data, self.out, timing, *arguments, module=module)

    def run(self, timing: str = "compute=1ms", *arguments: str) -> Finished:
        return self.start(timing, *arguments).end()

    def kill_one(self, title: str) -> None:
        kill_one(self.cluster.environment["HOME"], title)

    def check_right(self, done: Finished) -> None:
        """A run has ended as it should, with every answer of an undisturbed one."""
        assert done.code == 0, done.output
        assert answers(self.out) == self.undisturbed

    def resume(self, *arguments: str) -> Finished:
        """To the right end."""
        done = self.run("compute=1ms", "--resume", *arguments)
        self.check_right(done)
        return done

    @property
    def summary(self) -> dict:
        return summary(self.out)

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """As the manifest has them."""
        found: list[dict[str, Any]] = json.loads((self.out / "manifest.json").read_text())["attempts"]
        return found

    @property
    def states(self) -> list[str]:
        return [attempt["state"] for attempt in self.attempts]


def chunks_in(file: Path, *columns: str) -> list[tuple[dict[str, Any], pa.Table]]:
    """The footer and the rows of each chunk in a file; none once its rows are in a file of many. columns: not all."""
    try:
        parquet = pq.ParquetFile(file)
    except FileNotFoundError:
        return []
    rows, footers = parquet.read(columns or None), footers_of(parquet.metadata)
    ends = list(accumulate(footer["rows"] for footer in footers))
    return [(footer, rows.slice(end - footer["rows"], footer["rows"])) for footer, end in zip(footers, ends, strict=True)]


def committed(out: Path) -> dict[str, str]:
    """The committed chunks, and when and on which mesh each was classified; in files of their own or of many."""
    chunks = (chunk for file in prediction_files(out) for chunk in chunks_in(file, "started_at", "mesh"))
    return {footer["chunk"]: str(rows.to_pydict()) for footer, rows in chunks}


def footers_in(file: Path) -> list[dict[str, Any]]:
    return [footer for footer, _ in chunks_in(file, "mesh")]


def footers(out: Path) -> list[dict[str, Any]]:
    """Of the committed chunks."""
    return [footer for file in prediction_files(out) for footer in footers_in(file)]


def prediction_files(out: Path) -> list[Path]:
    return sorted((out / "predictions").glob("[!.]*.parquet"))


def lose_chunks(out: Path, count: int = 1) -> None:
    """Put a complete run's predictions back into a file for each chunk, as they were committed, but for the first ones'."""
    for file in prediction_files(out):
        chunks = chunks_in(file)
        for footer, rows in chunks:
            Predictions(str(out)).commit(footer["chunk"], rows, footer)
        if len(chunks) > 1:
            file.unlink()
    for file in prediction_files(out)[:count]:
        file.unlink()


@dataclass(frozen=True)
class Answers:
    """What a run answered: (label, prediction, top 5, correct, error) by image id, and its accuracy."""

    rows: dict[str, tuple[object, ...]]
    top1: float


def answers(out: Path) -> Answers:
    """Raises AssertionError if an image has two rows."""
    columns = ["label", "prediction", "top5", "correct", "error"]
    files = [pq.ParquetFile(file).read(["image_id", *columns]) for file in prediction_files(out)]
    rows = pa.concat_tables(files).to_pylist()
    found: dict[str, tuple[object, ...]] = {row["image_id"]: tuple(str(row[column]) for column in columns) for row in rows}
    assert len(found) == len(rows), "an image has two rows"
    return Answers(found, summary(out)["top1"])


def summary(out: Path) -> dict:
    return pq.read_table(out / "report" / "summary.parquet").to_pylist()[0]


def workers(home: str, title: str) -> list[int]:
    """Process ids of the cluster's Ray workers that are at what `title` says; home: the HOME the cluster runs under."""
    return sorted(processes(f"^ray::.*{title}", f"HOME={home}"))


def kill_one(home: str, title: str) -> int:
    """SIGKILL the first such worker that appears; its process id."""
    first, *_ = waiting.wait_until(lambda: workers(home, title), LIMIT, every=0.005)
    os.kill(first, signal.SIGKILL)
    return first
