"""A bucket of each kind of object store on this machine: moto (S3), gcp-storage-emulator (Google), Azurite (Azure)."""

import base64
import hashlib
import hmac
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch
from urllib.parse import urlencode

from pyarrow.fs import FileSelector, FileSystem, FileType

from jobs.storage.files import open_storage
from tests.conftest import free_port
from tests.object_store.server import s3_server
from tests.waiting import wait_until

START_SECONDS = 30.0

ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The public ones of Azure's emulator: https://learn.microsoft.com/azure/storage/common/storage-use-azurite"""


@dataclass(frozen=True)
class Bucket:
    """root: its URI. query: what each URI in it ends with. secret: the part of a URI that nobody may see, if it has one.

    environment: what a process needs to use it.
    """

    root: str
    query: str = ""
    secret: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def uri(self, name: str) -> str:
        return f"{self.root}/{name}{self.query}"

    def open(self, name: str) -> tuple[FileSystem, str]:
        with patch.dict(os.environ, self.environment):
            return open_storage(self.uri(name))

    def names(self, below: str) -> list[str]:
        """What is in there, relative to it, hidden names too."""
        filesystem, path = self.open(below)
        found = filesystem.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
        return sorted(info.path.removeprefix(f"{path}/") for info in found if info.type == FileType.File)

    def read(self, name: str) -> bytes:
        filesystem, path = self.open(name)
        with filesystem.open_input_stream(path) as stream:
            return stream.readall()


@contextmanager
def s3() -> Iterator[Bucket]:
    """With its credentials in the URI, as some write them."""
    with s3_server() as store:
        yield Bucket("s3://testing:HUSH@bucket", secret="HUSH", environment=store.environment)


@contextmanager
def google() -> Iterator[Bucket]:
    port = free_port()
    line = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory", "--default-bucket=bucket", f"--port={port}"]
    with _server([*line, "--host=127.0.0.1"], port):
        yield Bucket("gs://anonymous@bucket", environment={"CLOUD_STORAGE_EMULATOR_ENDPOINT": f"http://127.0.0.1:{port}"})


@contextmanager
def azure() -> Iterator[Bucket]:
    """With a shared access signature in the URI. Azurite is a package of npm: `npm install -g azurite`."""
    port = free_port()
    line = ["azurite-blob", "--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    with _server([*line, f"--blobPort={port}"], port):
        query, signature = _shared_access()
        bucket = Bucket(f"abfs://{ACCOUNT}@127.0.0.1:{port}/bucket", f"?enable_tls=false&{query}", signature)
        filesystem, path = bucket.open("")
        filesystem.create_dir(path.partition("/")[0])
        yield bucket


STORES: dict[str, Callable[[], AbstractContextManager[Bucket]]] = {"s3": s3, "gs": google, "abfs": azure}


def _shared_access() -> tuple[str, str]:
    """(query, its signature) of an account's shared access signature.

    https://learn.microsoft.com/rest/api/storageservices/create-account-sas#construct-the-signature-string
    """
    fields = {"sv": "2020-08-04", "ss": "b", "srt": "sco", "sp": "rwdlac", "se": "2100-01-01T00:00:00Z", "spr": "https,http"}
    signed_fields = (fields.get(name, "") for name in ("sp", "ss", "srt", "st", "se", "sip", "spr", "sv"))
    signed = "\n".join([ACCOUNT, *signed_fields, ""])
    digest = hmac.new(base64.b64decode(ACCOUNT_KEY), signed.encode(), hashlib.sha256).digest()
    signature = base64.b64encode(digest).decode()
    return urlencode(fields | {"sig": signature}), urlencode({"sig": signature}).removeprefix("sig=")


@contextmanager
def _server(line: list[str], port: int) -> Iterator[None]:
    def answers(port: int) -> bool:
        with socket.socket() as attempt:
            return attempt.connect_ex(("127.0.0.1", port)) == 0

    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: process.poll() is not None or answers(port), START_SECONDS)
            assert process.poll() is None, f"{line[0]} ended with {process.returncode}"
            yield
        finally:
            process.terminate()
