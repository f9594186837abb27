"""An address means exactly one place however it is written; whole files appear at once; no credentials are shown."""

import os
import string
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.fs import LocalFileSystem

from jobs.storage.address import below, parent, path_of, place, shown, without_query
from jobs.storage.failure import Failing, storage_errors
from jobs.storage.files import open_storage, write_atomically
from vit_actor.errors import UserError

BASES = ("/data/x", "data", "file:///data/x", "gs://b", "abfs://c@a.net/d", "s3://bucket/a%20b", "s3://key:HUSH@b/run?region=x")
ODD = st.text(string.ascii_letters + " #?%+&=;:,@!'()[]{}~$é日.-_*", min_size=1, max_size=12).filter(lambda name: name.strip("."))


@given(st.sampled_from(BASES), ODD, ODD)
def test_what_is_joined_is_taken_apart_again_and_means_that_name_and_no_other(base: str, folder: str, name: str) -> None:
    joined = below(below(base, folder), name)
    assert joined == below(base, f"{folder}/{name}")
    assert parent(joined) == (below(base, folder), name)
    assert path_of(joined) == f"{path_of(base)}/{folder}/{name}".lstrip("/" if "://" in base and "file" not in base else "")
    assert "HUSH" not in shown(joined)
    assert (place(below(base, folder)) == place(below(base, name))) == (folder == name)


@given(ODD, ODD)
def test_a_local_file_is_written_and_found_under_each_form_of_its_address(folder: str, name: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        for form in (root, f"file://{root}", f"{root}/", f"{root}/./x/.."):
            filesystem, path = open_storage(below(below(form, folder), name))
            write_atomically(filesystem, path, form.encode())
            assert (Path(root) / folder / name).read_bytes() == form.encode()


def test_a_relative_path_opens_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_storage("out")[1] == str(tmp_path / "out")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("s3://bucket/100%", "write a % itself as %25"),
        ("s3://bucket/a%zz", "write a % itself as %25"),
        ("s3://bucket/%ff", "not UTF-8"),
        ("s3://bucket/run//", "''"),
        ("gs://bucket/a/../b", "'..'"),
        ("abfs://c@a.net/./b", "'.'"),
        ("file://host/data", "write file:///host/data"),
        ("s3://bucket/run?page=2", "?page= is no setting"),
        ("", "an address is empty"),
        ("s3:bucket/path", "write s3://bucket/path for a URI, ./s3:bucket/path for a local path"),
        ("file:/data", "write file:///data for a URI"),
        ("http://[::1/data", "a bracket of its host is not closed"),
        ("nonsense://bucket/path", "unknown scheme nonsense://"),
        ("s3://key:sec/ret@bucket/with space", "not a valid URI; check it"),
    ],
)
def test_what_names_no_one_place_is_refused_with_the_reason_in_a_line(address: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        open_storage(address)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "sec/ret" not in str(raised.value)


@pytest.mark.parametrize(
    ("uri", "left", "found"),
    [
        ("s3://b/x?split=test&region=eu", "s3://b/x?region=eu", {"split": "test"}),
        ("s3://b/x?region=eu&split=test", "s3://b/x?region=eu", {"split": "test"}),
        ("s3://b/x?split=test", "s3://b/x", {"split": "test"}),
        ("s3://b/x?region=eu", "s3://b/x?region=eu", {}),
    ],
)
def test_settings_of_ours_are_taken_out_of_a_query_and_the_stores_stay(uri: str, left: str, found: dict[str, str]) -> None:
    assert without_query(uri, "split", "config") == (left, found)


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


def test_a_write_replaces_the_file_whole_or_not_at_all_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    filesystem, path = open_storage(str(tmp_path / "new" / "directory"))
    for data in (b"first, longer", b"second"):
        write_atomically(filesystem, f"{path}/file.bin", data)
    with pytest.raises(TypeError):
        write_atomically(filesystem, f"{path}/file.bin", b"begun", "text, not bytes")
    assert {file.name: file.read_bytes() for file in Path(path).iterdir()} == {"file.bin": b"second"}


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def recorded(*arguments: object, name: str = name, real: Callable[..., None] = real) -> None:
            done.append(name)
            real(*arguments)

        monkeypatch.setattr(os, name, recorded)
    write_atomically(LocalFileSystem(), str(tmp_path / "file"), b"x")
    assert done == ["fsync", "replace"]
