"""An address means exactly one place, however it is written."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.storage.address import below, parent, path_of, place, shown, without_query
from jobs.storage.files import open_storage, write_atomically
from vit_actor.errors import UserError

BASES = (
    "/data/x",
    "data",
    "file:///data/x",
    "s3://bucket/a%20b",
    "s3://key:HUSH@bucket/run?region=x",
    "gs://b",
    "abfs://c@a.net/d",
)
ODD = st.text(string.ascii_letters + " #?%+&=;:,@!'()[]{}~$é日.-_*", min_size=1, max_size=12).filter(lambda name: name.strip("."))


@given(st.sampled_from(BASES), ODD, ODD)
def test_what_is_joined_is_taken_apart_again_and_means_that_name(base: str, folder: str, name: str) -> None:
    joined = below(below(base, folder), name)
    assert joined == below(base, f"{folder}/{name}")
    assert parent(joined) == (below(base, folder), name)
    assert path_of(joined) == f"{path_of(base)}/{folder}/{name}".lstrip("/" if "://" in base and "file" not in base else "")
    assert "HUSH" not in shown(joined)


@given(st.sampled_from(BASES), ODD, ODD)
def test_two_names_are_two_places(base: str, one: str, other: str) -> None:
    assert (place(below(base, one)) == place(below(base, other))) == (one == other)


@given(ODD, ODD)
def test_a_local_file_is_written_and_found_under_each_form_of_its_address(folder: str, name: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        for form in (root, f"file://{root}", f"{root}/", f"{root}/./x/.."):
            filesystem, path = open_storage(below(below(form, folder), name))
            write_atomically(filesystem, path, form.encode())
            assert (Path(root) / folder / name).read_bytes() == form.encode()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("s3://bucket/100%", "write a % itself as %25"),
        ("s3://bucket/a%zz", "write a % itself as %25"),
        ("s3://bucket/%ff", "not UTF-8"),
        ("s3://bucket/a//b", "''"),
        ("s3://bucket/run//", "''"),
        ("gs://bucket/a/../b", "'..'"),
        ("abfs://c@a.net/./b", "'.'"),
        ("file://host/data", "write file:///host/data"),
        ("s3://bucket/run?page=2", "?page= is no setting"),
    ],
)
def test_what_names_no_one_place_is_refused_with_the_reason(address: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        open_storage(address)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_fragment_is_part_of_the_name() -> None:
    assert place("s3://bucket/run#1") != place("s3://bucket/run#2")
    assert path_of("s3://bucket/run#1") == "run#1"


@pytest.mark.parametrize(
    ("uri", "left", "found"),
    [
        ("s3://b/x?split=test&region=eu", "s3://b/x?region=eu", {"split": "test"}),
        ("s3://b/x?region=eu&split=test", "s3://b/x?region=eu", {"split": "test"}),
        ("s3://b/x?split=test", "s3://b/x", {"split": "test"}),
        ("s3://b/x?region=eu", "s3://b/x?region=eu", {}),
        ("s3://b/x", "s3://b/x", {}),
    ],
)
def test_settings_of_ours_are_taken_out_of_a_query_and_the_stores_stay(uri: str, left: str, found: dict[str, str]) -> None:
    assert without_query(uri, "split", "config") == (left, found)
