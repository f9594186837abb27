"""What a terminal is shown of names, labels and errors that others have chosen."""

from __future__ import annotations

import pytest

from jobs.running.terminal import MOST_CHARACTERS, one_line
from jobs.storage.address import redacted, shown


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:HUSH@bucket/a",
        "http://user:p@HUSH@host:80/x",
        "http://user:pa/HUSH@host/x",
        "https://HUSH@host/x",
        "https://host/x?sig=HUSH",
        "https://host/x#token=HUSH",
        "https://host/x;token=HUSH",
        "simplecache::http://user:HUSH@host/x",
        "zip://a.zip::s3://k:HUSH@bucket/x.zip",
        "hf://datasets/o/n?token=HUSH",
        "abfs://container@account/x?sig=HUSH",
    ],
)
def test_no_form_of_a_secret_in_a_uri_is_shown(uri: str) -> None:
    assert "HUSH" not in shown(uri)
    assert "HUSH" not in redacted(f"cannot open '{uri}': timed out")
    assert "HUSH" not in one_line(f"error: {uri}: refused")


@pytest.mark.parametrize(
    "uri",
    [
        "/data/a;b#c?d",
        "s3://bucket/key@1",
        "hf://datasets/o/n@main/data",
        "http://host:9000/b@c",
        "s3://b/x y",
        "abfss://container@account/x",
    ],
)
def test_what_is_no_secret_stays(uri: str) -> None:
    assert shown(uri) == uri


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("token=HUSH was refused", "token=... was refused"),
        ("Authorization: Bearer HUSH", "Authorization: Bearer ..."),
        ('{"aws_secret_access_key": "HUSH"}', '{"aws_secret_access_key": "..."}'),
        ("SharedKey account_key='HUSH'", "SharedKey account_key='...'"),
        ("KeyError: 'label'", "KeyError: 'label'"),
    ],
)
def test_values_of_what_is_named_as_a_secret_are_left_out(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize("text", ["a\x1b[31mred", "a\nerror: forged", "bell\x07", "\u202eevil", "\udcff", "null\0", "\r0%"])
def test_text_is_one_line_and_moves_no_cursor(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert one_line(line) == line
    line.encode()


def test_a_long_text_loses_its_middle_and_says_how_much() -> None:
    line = one_line("begin " + "x" * 10_000_000 + " end")
    assert len(line) < MOST_CHARACTERS + 60
    assert line.startswith("begin ")
    assert line.endswith(" end")
    assert "characters more" in line
