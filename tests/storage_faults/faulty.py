"""A disk, a bucket and a cluster on which jobs run while storage does as rules say."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from pyarrow.fs import FileSystem, FileType, LocalFileSystem, S3FileSystem

from tests.commands import Finished, begin
from tests.conftest import RayCluster, ray_head
from tests.faults.running import MODEL
from tests.object_store.server import Store, s3_server
from tests.storage_faults.layouts import LAYOUTS, digits, upload, with_damage
from tests.storage_faults.preload import LocalFaults, environment, local_faults
from tests.storage_faults.proxy import Proxy, proxy_before

RETRY_SECONDS = 2
"""How long a job asks failing storage again."""
PATIENCE = 60.0
"""Seconds within which a job must end; it takes two, and a lease that a killed one left takes twenty."""

Rows = Counter[tuple[Any, ...]]
"""(image id, label, prediction, error) of each row."""


@dataclass
class FaultyStorage:
    """work: a directory with `model`, and `data` in each of LAYOUTS, which but for Arrow are below s3://bucket/data too.

    proxy: stands before `store`, the S3 server. local: rules of what the cluster's processes do to files.
    """

    work: Path
    cluster: RayCluster
    store: Store
    proxy: Proxy
    local: LocalFaults
    _undisturbed: dict[str, Rows] = field(default_factory=dict)

    def job(self, data: str, out: str, *arguments: str) -> Finished:
        """`jobs.imagenet` to its end; raises AssertionError where it has none within PATIENCE. A flat folder gets its labels."""
        labels = ["--labels", f"{data}-labels.txt"] if data.endswith("/flat") else []
        line = ["--data", data, *labels, "--out", out, "--model", str(self.work / "model"), "--device", "cpu", *arguments]
        command = begin("jobs.imagenet", *line, "--address", self.cluster.address, environment=self.cluster.environment)
        return command.end(PATIENCE)

    def rows(self, out: str) -> Rows:
        """The rows that any reader of an output's `predictions/*.parquet` finds, each as often as it is there."""
        filesystem, path = self.open(out)
        if filesystem.get_file_info(f"{path}/predictions").type != FileType.Directory:
            return Counter()
        table = ds.dataset(f"{path}/predictions", format="parquet", filesystem=filesystem)
        columns = table.to_table(columns=["image_id", "label", "prediction", "error"]).to_pydict()
        return Counter(zip(*columns.values(), strict=True))

    def has(self, out: str, name: str) -> bool:
        """Whether an output has a file of that name."""
        filesystem, path = self.open(out)
        return bool(filesystem.get_file_info(f"{path}/{name}").type == FileType.File)

    def undisturbed(self, layout: str) -> Rows:
        """What a job over this layout answers while nothing fails."""
        if layout not in self._undisturbed:
            out = str(self.work / "undisturbed" / layout)
            done = self.job(str(self.work / "data" / layout), out, "--max-errors=10%")
            assert done.code == 0, done.output
            self._undisturbed[layout] = self.rows(out)
        return self._undisturbed[layout]

    def open(self, uri: str) -> tuple[FileSystem, str]:
        """Past the proxy."""
        if uri.startswith("s3://"):
            keys = {"access_key": "testing", "secret_key": "testing", "region": "us-east-1"}
            return S3FileSystem(endpoint_override=self.store.address, **keys), uri.removeprefix("s3://")
        return LocalFileSystem(), uri


@contextmanager
def faulty_storage() -> Iterator[FaultyStorage]:
    """All of it until the block ends. Jobs are under the local rules only if tests.commands forks under `local.environment`."""
    work = Path(tempfile.mkdtemp(prefix="faulty-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        store = stack.enter_context(s3_server())
        proxy = stack.enter_context(proxy_before(store.address))
        for name, write in LAYOUTS.items():
            write(work / "data" / name, with_damage(digits()))
        upload(store, work / "data", "data")
        shutil.copytree(MODEL, work / "model")
        local = local_faults(work)
        settings = {"AWS_ENDPOINT_URL": proxy.address, "LOUDBOX_RETRY_SECONDS": str(RETRY_SECONDS)}
        (work / "home").mkdir()
        with environment(store.environment | settings | local.environment):
            cluster = stack.enter_context(ray_head(work / "home", "--num-cpus=2"))
        yield FaultyStorage(work, cluster, store, proxy, local)
