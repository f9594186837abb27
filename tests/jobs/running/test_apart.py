"""What a run writes may not lie in what it reads, nor the other way round."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.running.apart import check_apart
from vit_actor.errors import UserError


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "data-2").mkdir()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("data", "data"),
        ("data", "data/results"),
        ("data/inner", "data"),
        ("data", "link/results"),
        ("link", "data/x/../results"),
        ("data", "file://{here}/data/results"),
        ("s3://bucket/data", "s3://bucket/data/results"),
        ("s3://bucket/data/", "s3a://bucket/data/results/"),
        ("s3://bucket/a b", "s3://key:secret@bucket/a%20b/results?region=x"),
        ("s3://bucket", "s3://bucket/results"),
    ],
)
@pytest.mark.parametrize("options", [("--data", "--out"), ("--out", "--data"), ("--out", "--cache"), ("--model", "--cache")])
def test_places_in_each_other_are_refused_with_both_options(one: str, other: str, options: tuple[str, str]) -> None:
    first, second = (uri.format(here=os.getcwd()) for uri in (one, other))
    with pytest.raises(UserError, match=f"{options[0]} .* and {options[1]} .* lie in each other"):
        check_apart({options[0]: first, options[1]: second})


@pytest.mark.parametrize(
    ("data", "out"),
    [
        ("data", "data-2"),
        ("data", "results"),
        ("s3://bucket/data", "s3://bucket/data-2"),
        ("s3://bucket/data", "s3://other/data"),
        ("data/photo.jpg", "."),
        ("data/*.parquet", "data"),
        ("s3://bucket/data/{000..099}.tar", "s3://bucket/data/results"),
        ("hf://datasets/o/n", "data"),
        (None, "data"),
    ],
)
def test_places_apart_are_fine(data: str | None, out: str) -> None:
    check_apart({"--data": data, "--out": out})


def test_what_is_only_read_may_lie_together() -> None:
    check_apart({"--data": "data", "--model": "data"})
