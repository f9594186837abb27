"""An address: a local path or a URI. It means exactly one place; this module alone takes addresses apart and joins them.

In a URI, %XX is the character that it stands for, and what follows ? are settings of the store. All else means itself: # too.
"""

import os
import posixpath
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode

from jobs.storage.known_secrets import without_secrets
from vit_actor.errors import UserError

OBJECT_SCHEMES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss")  # Stores without folders, whose keys are any text
_DECODED = (*OBJECT_SCHEMES, "file", "hdfs", "viewfs")
"""Schemes whose paths spell special characters as %XX; fsspec's and the hub's take them as they are."""
_SAME = {"gcs": "gs", "abfss": "abfs", "s3a": "s3"}  # Other names of a scheme
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)([^?]*)(?:\?(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Parts:
    """A URI taken apart. authority: bucket or host, with credentials if it has any. path: as written, from its first / on."""

    scheme: str
    authority: str
    path: str
    query: str | None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}" + ("" if self.query is None else f"?{self.query}")


def parts_of(address: str) -> Parts | None:
    """A URI's parts; None for a local path, and for a chained URI (`simplecache::https://...`)."""
    found = _URI.fullmatch(address)
    if found and found[2].count("[") != found[2].count("]"):
        raise UserError(f"{shown(address)}: not a valid URI: a bracket of its host is not closed")
    return Parts(found[1], found[2], found[3], found[4]) if found else None


def is_uri(address: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*(://|::\w+://)", address) is not None


def path_of(address: str) -> str:
    """The path that an address names: absolute for a local one; for an object store the key, without a slash at either end.

    Raises UserError for what names no one place: a % that spells no character, an empty part, or a part that is . or .. .
    """
    parts = parts_of(address)
    if parts is None:
        return str(_expanded(address).absolute())
    if parts.scheme not in _DECODED:
        return parts.path
    if re.search(r"%(?![0-9A-Fa-f]{2})", parts.path):
        raise UserError(f"{shown(address)}: a % in a URI begins the code of a character; write a % itself as %25")
    try:
        path = unquote(parts.path, errors="strict")
    except UnicodeDecodeError:
        raise UserError(f"{shown(address)}: its %-codes are not UTF-8") from None
    if parts.scheme not in OBJECT_SCHEMES:
        return path
    key = path.removeprefix("/").removesuffix("/")
    if key and (wrong := {"", ".", ".."}.intersection(key.split("/"))):
        raise UserError(f"{shown(address)}: a part of its path is {min(wrong)!r}, which the store's clients cannot address")
    return key


def below(address: str, name: str) -> str:
    """The address of what is called `name` below another address; slashes in the name are folders."""
    parts = parts_of(address)
    if parts is None:
        return f"{address.rstrip('/')}/{name}"
    if parts.scheme in _DECODED:
        name = name.replace("%", "%25").replace("?", "%3F")
    return str(replace(parts, path=f"{parts.path.removesuffix('/')}/{name}"))


def parent(address: str) -> tuple[str, str]:
    """(address of the folder, name in it), the reverse of `below`."""
    parts = parts_of(address)
    if parts is None:
        folder, slash, name = address.rstrip("/").rpartition("/")
        return folder or slash or ".", name
    folder, _, name = parts.path.removesuffix("/").rpartition("/")
    return str(replace(parts, path=folder or "/")), unquote(name) if parts.scheme in _DECODED else name


def without_query(address: str, *names: str) -> tuple[str, dict[str, str]]:
    """(the URI without these settings, those that it had)."""
    parts = parts_of(address)
    if parts is None or not parts.query:
        return address, {}
    settings = parse_qsl(parts.query, keep_blank_values=True)
    found = {name: value for name, value in settings if name in names}
    left = [(name, value) for name, value in settings if name not in names]
    return (str(replace(parts, query=urlencode(left) if left else None)), found) if found else (address, {})


def absolute(path: str) -> str:
    """A relative local path as an absolute one: the workers of a cluster run in other directories than the command.

    Not in a submitted job, whose relative paths lie below the copy of the project that every worker has.
    """
    if is_uri(path) or is_submitted():
        return path
    return str(_expanded(path).absolute())


def is_submitted() -> bool:
    """Whether this command is a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def place(address: str) -> tuple[str, str]:
    """(kind of storage, normalised path): the same for two addresses of one place, links followed."""
    parts = parts_of(address)
    if parts is None or parts.scheme == "file":
        return "file", os.path.realpath(path_of(address))
    authority = parts.authority.rpartition("@")[2] if parts.scheme not in ("abfs", "abfss") else parts.authority
    return _SAME.get(parts.scheme, parts.scheme), posixpath.normpath(f"{authority}/{path_of(address)}")


def shown(address: str) -> str:
    """The address as it may be printed: without users, passwords and queries, which can carry credentials.

    Also of chained URIs, such as simplecache::https://user:password@host/path.
    """
    return "::".join(_without_credentials(part) for part in address.split("::"))


def redacted(text: str) -> str:
    """Somebody else's text as it may be printed: its URIs as `shown`, no value of what is named as a secret, and none known."""
    return without_secrets(_SECRET.sub(r"\1...", _ANY_URI.sub(lambda found: shown(found[0]), text)))


_ANY_URI = re.compile(r"\b\w[\w+.-]*://[^\s'\"<>]+")
_SECRET = re.compile(
    r"""(?i)(\b(?:\w*(?:token|secret|password|passwd|signature|credentials?)|sig|\w*(?:access|secret|api|account)_?key\w*|authorization)
    ["']?\s*[=:]\s*["']?(?:bearer\s)?)[^\s&;,"']+""",
    re.VERBOSE,
)


def _without_credentials(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    ends = r"[?;]" if scheme in (*_DECODED, "hf") else r"[?;#]"  # elsewhere a fragment may carry a token
    rest = re.split(ends, rest, maxsplit=1)[0]
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    _, colon, port = authority.rpartition(":")
    if not at and colon and not port.isdigit() and "@" in path:  # a password with a slash in it
        host, slash, path = path.rpartition("@")[2].partition("/")
    container = f"{user}@" if scheme in ("abfs", "abfss") and user and ":" not in user else ""
    return f"{scheme}://{container}{host}{slash}{path}"


def _expanded(path: str) -> Path:
    if not path:
        raise UserError("an address is empty; give a path or a URI")
    if slip := re.match(r"(s3a?|gc?s|abfss?|file|hf|hdfs|https?):/*", path):
        rest = path.removeprefix(slip[0])
        raise UserError(f"{path}: write {slip[1]}://{'/' * (slip[1] == 'file')}{rest} for a URI, ./{path} for a local path")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no home directory for ~; write the path in full") from None
