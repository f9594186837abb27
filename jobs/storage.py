"""Where data lives: a local path or a URI, opened as one pyarrow filesystem, with its failures told in one line."""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem, FileType, FSSpecHandler, LocalFileSystem, PyFileSystem

from vit_actor.errors import UserError

# Schemes pyarrow opens itself; everything else is fsspec's.
NATIVE_SCHEMES = {"file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "hf"}
# Stores without directories, whose objects appear whole or not at all.
OBJECT_STORES = {"s3", "gcs", "abfs"}

RETRY_SECONDS = 60
"""How long a request to Google's store is tried again."""

ROW_GROUP = 128 * 1024
"""Rows that a reader of a long table can skip together by their statistics."""

_OF_URIS = "%:/?#[]@!$&'()*+,;=-._~"

_FULL_OR_READ_ONLY = {
    errno.ENOSPC: "free some, or write elsewhere",
    errno.EDQUOT: "free some, or have the quota raised",
    errno.EROFS: "mount it for writing, or write elsewhere",
}


def open_storage(uri: str) -> tuple[FileSystem, str]:
    """The filesystem behind a local path or URI, and the path inside it, without a trailing slash.

    Whether the path exists is not checked: it may be about to be written. Raises UserError for an unknown
    scheme, a missing fsspec driver, or a store that refuses to open.
    """
    scheme, separator, _ = uri.partition("://")
    if not separator:
        return LocalFileSystem(), str(Path(uri).expanduser().absolute())
    with storage_errors(uri):
        if scheme in NATIVE_SCHEMES:
            # Spaces and letters beyond ASCII as a URI spells them; what is spelled so already stays.
            filesystem, path = FileSystem.from_uri(quote(_with_retry_limit(uri), safe=_OF_URIS))
        else:
            import fsspec  # here, because few runs need it and every --help would wait for it

            try:
                driver, path = fsspec.core.url_to_fs(uri)
            except ValueError:
                raise UserError(f"{shown(uri)}: unknown scheme {scheme}://; use a local path, s3://, gs:// or fsspec's") from None
            filesystem = PyFileSystem(FSSpecHandler(driver))
    return filesystem, path.rstrip("/") or "/"


def _with_retry_limit(uri: str) -> str:
    """The URI, with a limit to how long Google's client tries again: its own is 15 minutes."""
    limit = "retry_limit_seconds"
    if not uri.startswith(("gs://", "gcs://")) or f"{limit}=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{limit}={RETRY_SECONDS}"


def below(uri: str, name: str) -> str:
    """The path or URI of what is called `name` in that directory. A query, as in s3://bucket/run?region=..., stays at the end."""
    path, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def absolute(path: str) -> str:
    """A relative local path as an absolute one: the workers of a cluster run in other directories than the command.

    Not in a submitted job, whose relative paths lie below the copy of the project that every worker has.
    """
    if "://" in path or is_submitted():
        return path
    return str(Path(path).expanduser().absolute())


def is_submitted() -> bool:
    """Whether this command is a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def write_atomically(filesystem: FileSystem, path: str, *data: bytes | memoryview | pa.Buffer, durable: bool = True) -> None:
    """Put a whole file at `path`, creating its directory: readers see all of it or the previous one, never a part.

    On a local (or mounted) filesystem a hidden `.part` beside it is flushed to disk and renamed; an object store
    publishes one upload when it closes. Raises OSError; see storage_errors.

    data: the file's parts, in order. durable: whether to wait for the disk, which a file may do without that is checked when
    it is read.
    """
    if isinstance(filesystem, LocalFileSystem):
        directory, name = os.path.split(path)
        os.makedirs(directory, exist_ok=True)
        partial = os.path.join(directory, f".{name}.{uuid.uuid4().hex}.part")
        try:
            with open(partial, "wb") as file:
                file.writelines(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())  # else a crash may leave the new name on an empty file
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(partial)
            raise
        return
    if filesystem.type_name not in OBJECT_STORES:
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    with filesystem.open_output_stream(path) as stream:
        for part in data:
            stream.write(part)


def parquet_files(filesystem: FileSystem, directory: str) -> Iterator[str]:
    """Paths of the Parquet files below a directory that are complete, one directory listed at a time."""
    for entry in filesystem.get_file_info(FileSelector(directory, allow_not_found=True)):
        if entry.type == FileType.Directory:
            yield from parquet_files(filesystem, entry.path)
        elif entry.path.endswith(".parquet"):
            yield entry.path


def write_table(filesystem: FileSystem, path: str, table: pa.Table) -> None:
    """A table as one Parquet file, whole or not at all; see write_atomically."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP)
    write_atomically(filesystem, path, buffer.getvalue())


_STORES_REFUSAL = re.compile(r"(?:AWS Error |google::cloud::Status\(|Azure Error: \[)([A-Za-z_]{4,})")
_CREDENTIALS = "the store refuses these credentials; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the host's role"
_REFUSED = "the store refuses these credentials; check them, or the host's role"
_SILENT = "the store does not answer; check the address and the network"
_REFUSALS = {
    "NO_SUCH_BUCKET": "no such bucket; create it, or check the name",
    "ACCESS_DENIED": "access denied; the credentials may not do this in that bucket",
    "INVALID_ACCESS_KEY_ID": _CREDENTIALS,
    "INVALID_CLIENT_TOKEN_ID": _CREDENTIALS,
    "SIGNATURE_DOES_NOT_MATCH": _CREDENTIALS,
    "AuthenticationFailed": _REFUSED,
    "AuthorizationFailure": _REFUSED,
    "UNAUTHENTICATED": _REFUSED,
    "PERMISSION_DENIED": "permission denied; the credentials may not do this in that bucket",
    "ContainerNotFound": "no such container; create it, or check the name",
    "NETWORK_CONNECTION": _SILENT,
    "UNAVAILABLE": _SILENT,
    "SLOW_DOWN": "the store asks to be asked less often; add --resume later",
    "SERVICE_UNAVAILABLE": "the store is unavailable; add --resume later",
}


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turn what a filesystem raises inside the block into a UserError that names `uri` and the fix in one line."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{shown(uri)}: no such file or directory; check the path") from None
    except FileExistsError:
        raise UserError(f"{shown(uri)}: a file is in the way of a directory of that name; choose another path") from None
    except PermissionError:
        raise UserError(f"{shown(uri)}: permission denied; check who may access it, or the store's credentials") from None
    except ImportError as error:
        raise UserError(f"{shown(uri)}: no driver for it is installed ({first_line(error)})") from None
    except pa.ArrowInvalid:  # its message repeats the whole URI, credentials and all
        raise UserError(
            f"{shown(uri)}: not a valid URI; check it, and write what is special in a password as %2F and the like"
        ) from None
    except (OSError, pa.ArrowException) as error:
        if refusal := _STORES_REFUSAL.search(str(error)):
            raise UserError(f"{shown(uri)}: {_REFUSALS.get(refusal[1], f'the store refuses ({refusal[1]})')}") from None
        if isinstance(error, OSError) and error.errno in _FULL_OR_READ_ONLY:
            raise UserError(f"{shown(uri)}: {first_line(error)}; {_FULL_OR_READ_ONLY[error.errno]}") from None
        raise UserError(f"{shown(uri)}: storage failed ({first_line(error)}); check the address and credentials") from None


def shown(uri: str) -> str:
    """The URI as it may be printed: without users, passwords, queries and fragments, which can carry credentials.

    Also of chained URIs, such as simplecache::https://user:password@host/path.
    """
    return "::".join(_without_credentials(part) for part in uri.split("::"))


def redacted(text: str) -> str:
    """Somebody else's text as it may be printed: its URIs as `shown`, and no value of what is named as a secret."""
    return _SECRET.sub(r"\1...", _URI.sub(lambda found: shown(found[0]), text))


_URI = re.compile(r"\b\w[\w+.-]*://[^\s'\"<>]+")
_SECRET = re.compile(
    r"""(?i)(\b(?:\w*(?:token|secret|password|passwd|signature|credentials?)|sig|\w*(?:access|secret|api|account)_?key\w*|authorization)
    ["']?\s*[=:]\s*["']?(?:bearer\s)?)[^\s&;,"']+""",
    re.VERBOSE,
)


def _without_credentials(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    rest = re.split(r"[?#;]", rest, maxsplit=1)[0]
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    _, colon, port = authority.rpartition(":")
    if not at and colon and not port.isdigit() and "@" in path:  # a password with a slash in it
        host, slash, path = path.rpartition("@")[2].partition("/")
    container = f"{user}@" if scheme in ("abfs", "abfss") and user and ":" not in user else ""
    return f"{scheme}://{container}{host}{slash}{path}"


def first_line(error: BaseException) -> str:
    """The first line of a library's error, safe to print; the error's type if it has no text."""
    text = str(error.strerror or error) if isinstance(error, OSError) else str(error)
    return redacted(text.strip().splitlines()[0]) if text.strip() else type(error).__name__
