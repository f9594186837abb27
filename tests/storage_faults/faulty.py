"""A disk, a bucket and a cluster on which jobs run while storage does as rules say."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from pyarrow.fs import FileSystem, FileType, LocalFileSystem, S3FileSystem

from tests.commands import Finished, begin
from tests.conftest import RayCluster, ray_head
from tests.faults.campaign import Rows, rows_in
from tests.faults.running import MODEL
from tests.object_store.server import Store, s3_server
from tests.storage_faults.layouts import LAYOUTS, digits, upload, with_damage
from tests.storage_faults.preload import LocalFaults, local_faults

RETRY_SECONDS = 2  # How long a job asks failing storage again
PATIENCE = 60.0  # Seconds within which a job must end; it takes two, and a lease that a killed one left takes twenty


@dataclass
class FaultyStorage:
    """work: a directory with `model`, and `data` in each of LAYOUTS, which but for Arrow are below s3://bucket/data too.

    local: rules of what the cluster's processes do to files, as `store` has some of what it answers.
    """

    work: Path
    cluster: RayCluster
    store: Store
    local: LocalFaults
    _undisturbed: dict[str, Rows] = field(default_factory=dict)

    def job(self, data: str, out: str, *arguments: str) -> Finished:
        """`jobs.imagenet` to its end; raises AssertionError where it has none within PATIENCE. A flat folder gets its labels."""
        labels = ["--labels", f"{data}-labels.txt"] if data.endswith("/flat") else []
        line = ["--data", data, *labels, "--out", out, "--model", str(self.work / "model"), "--device", "cpu", *arguments]
        command = begin("jobs.imagenet", *line, "--address", self.cluster.address, environment=self.cluster.environment)
        return command.end(PATIENCE)

    def rows(self, out: str) -> Rows:
        filesystem, path = self.open(out)
        return rows_in(path, filesystem)

    def has(self, out: str, name: str) -> bool:
        """Whether an output has a file of that name."""
        filesystem, path = self.open(out)
        return bool(filesystem.get_file_info(f"{path}/{name}").type == FileType.File)

    def undisturbed(self, layout: str) -> Rows:
        """What a job over this layout answers while nothing fails."""
        if layout not in self._undisturbed:
            out = str(self.work / "undisturbed" / layout)
            self.job(str(self.work / "data" / layout), out, "--max-errors=10%").succeeded()
            self._undisturbed[layout] = self.rows(out)
        return self._undisturbed[layout]

    def open(self, uri: str) -> tuple[FileSystem, str]:
        """Past the rules."""
        if uri.startswith("s3://"):
            keys = {"access_key": "testing", "secret_key": "testing", "region": "us-east-1"}
            return S3FileSystem(endpoint_override=self.store.plain, **keys), uri.removeprefix("s3://")
        return LocalFileSystem(), uri


@contextmanager
def faulty_storage() -> Iterator[FaultyStorage]:
    """All of it until the block ends. Jobs are under the local rules only if tests.commands forks under `local.environment`."""
    work = Path(tempfile.mkdtemp(prefix="faulty-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        store = stack.enter_context(s3_server())
        for name, write in LAYOUTS.items():
            write(work / "data" / name, with_damage(digits()))
        upload(store, work / "data", "data")
        shutil.copytree(MODEL, work / "model")
        local = local_faults(work)
        (work / "home").mkdir()
        retries = {"LOUDBOX_RETRY_SECONDS": str(RETRY_SECONDS)}
        with patch.dict("os.environ", store.environment | retries | local.environment):
            cluster = stack.enter_context(ray_head(work / "home", "--num-cpus=2"))
        yield FaultyStorage(work, cluster, store, local)
