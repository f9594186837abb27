"""Any location opens by its URI, whole files appear at once, and failures are one line without credentials."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem

from jobs.storage.address import below, shown
from jobs.storage.failure import Failing, storage_errors
from jobs.storage.files import open_storage, write_atomically
from vit_actor.errors import UserError


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_local_path_and_its_file_uri_are_the_same_place(tmp_path: Path, prefix: str) -> None:
    filesystem, path = open_storage(f"{prefix}{tmp_path}/out/")
    assert isinstance(filesystem, LocalFileSystem)
    assert path == f"{tmp_path}/out"


def test_a_relative_path_opens_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_storage("out")[1] == str(tmp_path / "out")


def test_what_pyarrow_does_not_know_opens_through_fsspec() -> None:
    filesystem, path = open_storage("memory://storage-test/a")
    write_atomically(filesystem, f"{path}/b/c.bin", b"content")
    assert filesystem.open_input_file(f"{path}/b/c.bin").read() == b"content"


def test_a_web_server_that_does_not_answer_is_not_one_without_the_file() -> None:
    filesystem, path = open_storage("http://127.0.0.1:1/x")
    with pytest.raises(Failing, match="Connect call failed"), storage_errors(path):
        filesystem.get_file_info(path)


def test_a_store_that_does_not_answer_is_one_line() -> None:
    uri = "gs://anonymous@bucket/x?scheme=http&endpoint_override=127.0.0.1:1&retry_limit_seconds=1"
    filesystem, path = open_storage(uri)
    says = r"^gs://bucket/x: the store does not answer \(.*\); check the address and the network$"
    with pytest.raises(UserError, match=says), storage_errors(uri):
        filesystem.get_file_info(path)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/data/run", "/data/run/report.html"),
        ("/data/a?b/", "/data/a?b/report.html"),
        ("s3://bucket/run/", "s3://bucket/run/report.html"),
        ("s3://bucket/run?region=eu-west-1", "s3://bucket/run/report.html?region=eu-west-1"),
    ],
)
def test_a_name_below_a_uri_goes_before_its_query(place: str, expected: str) -> None:
    assert below(place, "report.html") == expected


def test_a_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    filesystem, path = open_storage(str(tmp_path / "new" / "directory"))
    for data in (b"first, longer", b"second"):
        write_atomically(filesystem, f"{path}/file.bin", data)
    assert [file.name for file in Path(path).iterdir()] == ["file.bin"]
    assert (Path(path) / "file.bin").read_bytes() == b"second"


def test_a_write_that_fails_keeps_the_previous_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    filesystem, path = open_storage(str(tmp_path))
    write_atomically(filesystem, f"{path}/file.bin", b"before")
    with pytest.raises(TypeError):
        write_atomically(filesystem, f"{path}/file.bin", "text, not bytes")
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"]
    assert (tmp_path / "file.bin").read_bytes() == b"before"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("nonsense://bucket/path", "unknown scheme nonsense://"),
        ("s3://bucket:port/with space", "not a valid URI; check it"),
        ("s3://key:sec/ret@bucket/with space", "not a valid URI; check it"),
    ],
)
def test_a_uri_that_cannot_open_is_one_line_naming_it(uri: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        open_storage(uri)
    message = str(raised.value)
    assert says in message
    assert "\n" not in message
    assert "sec/ret" not in message


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (FileNotFoundError(2, "No such file"), "no such file or directory"),
        (PermissionError(13, "Permission denied"), "Permission denied; check who may access it"),
        (FileExistsError(17, "File exists"), "in the way"),
        (ImportError("install adlfs"), "no driver for it is installed (install adlfs)"),
        (OSError("When reading: timeout\nand a long trace"), "storage failed (When reading: timeout)"),
    ],
)
def test_a_failure_in_the_block_is_one_line_naming_the_uri(error: Exception, says: str) -> None:
    with pytest.raises(UserError) as raised, storage_errors("s3://key:secret@bucket/data"):
        raise error
    assert str(raised.value).startswith("s3://bucket/data: ")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("uri", "printed"),
    [
        ("/data/images?", "/data/images?"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("s3://key:secret@bucket/x?endpoint_override=host&secret=1", "s3://bucket/x"),
        ("hf://datasets/owner/name@main/data", "hf://datasets/owner/name@main/data"),
    ],
)
def test_credentials_and_queries_are_not_shown(uri: str, printed: str) -> None:
    assert shown(uri) == printed
