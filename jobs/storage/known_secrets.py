"""The values of the secrets in this process's reach: no text is printed or kept with one of them, whatever is around it."""

import os
import re
import sys
from base64 import b64encode
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qsl, quote, quote_plus, unquote

SHORTEST = 6  # Characters; what is shorter is part of ordinary words
MOST_BYTES = 64 * 1024
_NAMED = re.compile(
    r"(?i)token|secret|passw|credential|signature|(api|access|account|private|storage)_?key|connection_?string|^sig$"
)
_BARE = re.compile(r"^[^:/@\s]+:([^:/@\s]+)@[^/@\s]+$")
"""An address without a scheme, as of RAY_ADDRESS, which should have no password."""
_FILES = {
    "HF_TOKEN_PATH": "~/.cache/huggingface/token",
    "RAY_AUTH_TOKEN_PATH": "~/.ray/auth_token",
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    "NETRC": "~/.netrc",
}
"""Where tokens are kept, by the variable that says so."""


def without_secrets(text: str) -> str:
    """The text with ... for every secret of the environment, of token files, and of the command's URIs."""
    for form in _forms(frozenset(_values())):
        text = text.replace(form, "...")
    return text


def credentials_in(address: str) -> list[str]:
    """The passwords, tokens and keys that an address carries, as `password` or `user:password`."""
    found = []
    for uri in address.split("::"):
        user = re.search(r"://([^/]*)@", uri) or re.search(r"://([^@]*:(?!\d+/)[^@]*)@", uri)
        if user and (":" in user[1] or not uri.startswith(("abfs", "hf:"))):
            found.append(unquote(user[1]))
        settings = parse_qsl(re.split(r"[?#;]", uri, maxsplit=1)[-1].replace(";", "&"), separator="&")
        found += [value for name, value in settings if _NAMED.search(name)]
    return found if "://" in address else []


def _values() -> Iterator[str]:
    for name, value in os.environ.items():
        if _NAMED.search(name):
            yield from _of_file(value) if os.path.isabs(value) and os.path.isfile(value) else (value,)
        else:
            yield from (*credentials_in(value), *map(unquote, _BARE.findall(value)))
    for word in sys.argv:
        value = word.partition("=")[2] if word.startswith("--") else word
        yield from (*credentials_in(value), *map(unquote, _BARE.findall(value)))
    for name, usual in _FILES.items():
        yield from _of_file(os.environ.get(name) or os.path.expanduser(usual))


def _of_file(path: str) -> tuple[str, ...]:
    try:
        return _read(path, os.stat(path).st_mtime_ns)
    except OSError:
        return ()


@lru_cache
def _read(path: str, changed: int) -> tuple[str, ...]:
    """What in a file of credentials looks like one: long, without spaces, with a digit."""
    with Path(path).open(errors="replace") as file:
        text = file.read(MOST_BYTES).replace("\\n", "\n")
    return tuple(word for word in re.findall(r"[\w+/.~-]{16,}", text) if re.search(r"\d", word))


@lru_cache
def _forms(values: frozenset[str]) -> list[str]:
    """As each value may appear in a text, the longest first: quoted, escaped, encoded, in its parts."""
    forms = set()
    for value in values:
        wholes = (value, value.partition(":")[2])
        parts = {*wholes, *(word for whole in wholes for word in whole.split())}
        for part in parts | {quote(part, safe="") for part in parts} | {quote(part) for part in parts}:
            forms |= {part, quote_plus(part), repr(part)[1:-1], ascii(part)[1:-1]}
            forms |= {repr(part.encode(errors="replace"))[2:-1], b64encode(part.encode(errors="replace")).decode()}
    return sorted((form for form in forms if len(form) >= SHORTEST), key=len, reverse=True)
