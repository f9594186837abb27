"""What a terminal is shown of names, labels and errors that others have chosen, and never of a secret."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from jobs.running.terminal import MOST_CHARACTERS, one_line
from jobs.storage.address import redacted, shown
from jobs.storage.known_secrets import credentials_in


@pytest.mark.parametrize(
    ("uri", "secrets"),
    [
        ("s3://key:HUSH@bucket/a", ["key:HUSH"]),
        ("http://user:p@HUSH@host:80/x", ["user:p@HUSH"]),
        ("http://user:pa/HUSH@host/x", ["user:pa/HUSH"]),
        ("https://HUSH@host/x", ["HUSH"]),
        ("https://host/x?sig=HUSH", ["HUSH"]),
        ("https://host/x#token=HUSH", ["HUSH"]),
        ("https://host/x;token=HUSH", ["HUSH"]),
        ("simplecache::http://user:HUSH@host/x", ["user:HUSH"]),
        ("hf://datasets/o/n?token=HUSH", ["HUSH"]),
        ("abfs://container@account/x?sig=HUSH", ["HUSH"]),
        ("s3://b/c?region=eu&secret_key=HUSH", ["HUSH"]),
        *((plain, []) for plain in ("/data/a;b#c?d", "s3://bucket/key@1", "hf://datasets/o/n@main/data", "s3://b/x y")),
        *((plain, []) for plain in ("http://host:9000/b@c", "abfss://container@account/x", "/data/a:b@c?token=x")),
    ],
)
def test_no_form_of_a_secret_in_a_uri_is_shown(uri: str, secrets: list[str]) -> None:
    assert credentials_in(uri) == secrets
    assert (shown(uri) == uri) is not bool(secrets)
    for told in (shown(uri), redacted(f"cannot open '{uri}': timed out"), one_line(f"error: {uri}: refused")):
        assert "HUSH" not in told


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


SECRET = "hf_Ab12/+cd\nEf34gh56 ü"


@pytest.mark.parametrize(
    "told", [str, repr, ascii, json.dumps, lambda s: repr(s.encode()), lambda s: quote(s, safe=""), lambda s: f"<{s.split()[0]}>"]
)
@pytest.mark.parametrize("source", ["environment", "password of a URI", "query of a URI", "proxy", "address", "file"])
def test_the_value_of_a_secret_in_reach_is_left_out_whatever_is_around_it(
    told: Callable[[str], str], source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = "hfAb12cdEf34gh56ij" if source == "file" else SECRET
    (tmp_path / "token").write_text(f"[default]\nkey = {secret}\n", "utf-8")
    safe = quote(secret, safe="")
    uris = {"password of a URI": f"s3://key:{safe}@b/c", "query of a URI": f"s3://b/c?secret_key={quote(secret)}"}
    uri = uris.get(source, "d")
    monkeypatch.setattr(sys, "argv", ["imagenet", f"--data={uri}", uri])
    monkeypatch.setenv("HF_TOKEN", secret if source == "environment" else "")
    monkeypatch.setenv("RAY_ADDRESS", f"me:{safe}@head:6379" if source == "address" else "")
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{safe}@proxy:80" if source == "proxy" else "")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "token"))
    line = one_line("x" * 790 + f" it says {told(secret)} of the file")
    assert not any(part in line for part in ("Ab12", "Ef34"))
    assert line.endswith(" of the file")


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
