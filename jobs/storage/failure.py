"""What an error of storage means. Nobody else decides it.

Gone: what was listed is not what is there. Refused: credentials, permission or space; asking again does not help. Failing: asking
again may help. Damaged is no error of storage: the bytes are all there, and do not decode.
"""

import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from jobs.storage.address import redacted, shown
from jobs.storage.s3 import in_words, what_it_says
from vit_actor.errors import UserError

RETRY_SECONDS = 60.0  # How long storage that is failing is asked again, unless LOUDBOX_RETRY_SECONDS says otherwise
MOST_SECONDS = 8.0  # Between two attempts
TOLD_AFTER = 5.0  # Seconds that storage fails before it is told


TOKENS = "https://huggingface.co/settings/tokens"


class StorageError(UserError):
    """Storage did not do what it was asked to. It says nothing about the data."""


class Gone(StorageError):
    """There is nothing at the address, or not what was listed."""


class Refused(StorageError):
    """Asking again does not help."""


class NoCredentials(Refused):
    """The store does not take the credentials, whatever is asked for."""


class Unaddressable(Refused):
    """No place of that store can have this address."""


class Failing(StorageError):
    """Asking again may help."""


class GivenUp(Failing):
    """Storage has been asked again for RETRY_SECONDS."""


class Damaged(Exception):
    """The bytes are all there and do not decode; the message is the reason in one line."""


_CLIENTS = ("huggingface_hub", "httpx", "httpcore", "requests", "aiohttp", "fsspec", "obstore")
"""How the names of packages begin whose errors are storage's, of whatever class they are."""
_OF_STORAGE = (OSError, pa.ArrowException, ImportError, UnicodeEncodeError, NotImplementedError)
_GONE = {
    errno.ENOENT: "no such file or directory; check the path",
    errno.ENOTDIR: "a file is in the way of a directory of that name; choose another path",
    errno.EEXIST: "a file is in the way of a directory of that name; choose another path",
    errno.EISDIR: "a directory is in the way of a file of that name; choose another path",
    errno.ELOOP: "a link leads back to itself; remove it",
    errno.ENAMETOOLONG: "its name is too long for the disk; rename it",
}
_REFUSED = {
    errno.EACCES: "check who may access it",
    errno.EPERM: "check who may access it",
    errno.ENOSPC: "free some space or inodes there, or write elsewhere",
    errno.EDQUOT: "free some, or have the quota raised",
    errno.EROFS: "mount it for writing, or write elsewhere",
}
_KEYS = "the store refuses these credentials; renew them, or check the host's role"
_DENIED = "access denied; the credentials may not do this there"
_NO_CHANGE = "the store does not allow that; write where objects may be replaced"
_TOLD: tuple[tuple[str, type[StorageError], str], ...] = (
    ("^(ArrowInvalid|UnicodeEncodeError):", Unaddressable, "cannot be addressed there ({})"),
    ("^NoRegion:", Failing, "{}"),
    (r"^\w*NotImplementedError:", Refused, "that kind of storage cannot do this; use another place"),
    ("^(ImportError|ModuleNotFoundError):", Refused, "no driver for it is installed ({})"),
    ("^PermissionDeniedError:", Refused, f"{_DENIED} ({{}})"),
    ("^UnauthenticatedError:", NoCredentials, f"{_KEYS} ({{}})"),
    (
        "curlCode: 60|InvalidCertificate|CERTIFICATE_VERIFY_FAILED",
        Refused,
        "the store's certificate is not trusted; set SSL_CERT_FILE to the file of your CA ({})",
    ),
)
"""By the class of an error and its text: what it means, and what to say around its first line."""
_CODE = re.compile(
    r"AWS Error (?P<aws>\w+|\[code \d+\])(?: \(HTTP status (?P<status>\d+)\))?(?: during (?P<operation>\w+) operation)?"
    r"|google::cloud::Status\((?P<google>\w+)|Azure Error: \[(?P<azure>\w+)\]"
    r"|performing (?P<verb>\w+) (?s:.)*status code: (?P<answer>\d{3})"
)
_FIXES = {
    "nosuchbucket": "no such bucket; create it, or check the name",
    "containernotfound": "no such container; create it, or check the name",
    "accessdenied": _DENIED,
    "permissiondenied": "permission denied; the credentials may not do this there",
    "invalidobjectstate": "the object is archived; restore it first",
    "requesttimetooskewed": "this machine's clock is wrong; set it",
    "objectlocked": "the object is locked against changes; write where objects may be replaced",
    "methodnotallowed": _NO_CHANGE,
    **dict.fromkeys(("invalidaccesskeyid", "invalidclienttokenid", "signaturedoesnotmatch", "unrecognizedclient"), _KEYS),
    **dict.fromkeys(("missingauthenticationtoken", "expiredtoken", "tokenrefreshrequired", "invalidtoken"), _KEYS),
    **dict.fromkeys(("authenticationfailed", "authorizationfailure", "unauthenticated"), _KEYS),
    "301": "the bucket is in another region; add ?region=...",
    "401": _KEYS,
    "403": _DENIED,
    "405": _NO_CHANGE,
    "501": "the store cannot do this; where it names a checksum, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required",
}
"""What is refused, by the store's code in small letters without _, or else by the status of HTTP, and what to do."""
_GRANTS = {
    **dict.fromkeys(("GetObject", "HeadObject"), "s3:GetObject"),
    **dict.fromkeys(("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"), "s3:PutObject"),
    **dict.fromkeys(("DeleteObject", "DeleteObjects"), "s3:DeleteObject"),
    **dict.fromkeys(("ListObjectsV2", "HeadBucket"), "s3:ListBucket"),
}
"""The permission of S3's that an operation needs."""


def explained(error: BaseException, says: str = "", address: str = "") -> tuple[type[StorageError], str]:
    """What an error of a filesystem means, and it in one line with the fix.

    says: what the store says of it, beyond its text. address: that the line begins with.
    """
    text = first_line(error, address)
    by_class = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EACCES if isinstance(error, PermissionError) else 0
    number: int = getattr(error, "errno", None) or by_class
    if number in _GONE:
        return Gone, _GONE[number]
    if number in _REFUSED:
        return Refused, f"{text}; {_REFUSED[number]}"
    for pattern, kind, told in _TOLD:
        if re.search(pattern, f"{type(error).__name__}: {error}"):
            return kind, told.format(text)
    found = _CODE.search(str(error))
    groups = found.groupdict(default="") if found else {}
    code = says.partition(":")[0]
    name = code if _plain(code) in _FIXES else groups.get("aws") or groups.get("google") or groups.get("azure") or ""
    operation, status = (groups.get("operation") or groups.get("verb"), groups.get("status") or groups.get("answer"))
    by_keys = status == "400" and (operation in ("HeadObject", "HEAD") or "token" in text)  # it has no body that could be wrong
    fix = _FIXES.get(_plain(name)) or (_KEYS if by_keys else _FIXES.get(status or ""))
    _, of_aws, reason = text.partition("AWS Error ")
    said = f"AWS: {says or reason}" if of_aws else text  # without the key, which the address has already
    if fix:
        grant = f"; grant {_GRANTS[groups['operation']]}" if groups["operation"] in _GRANTS and "denied" in fix else ""
        return NoCredentials if fix == _KEYS else Refused, f"{fix}{grant} ({said})"
    if name in ("NETWORK_CONNECTION", "UNAVAILABLE"):
        return Failing, f"the store does not answer ({text}); check the address and the network"
    return Failing, f"the store fails ({said})" if name else f"storage failed ({text})"


def _plain(code: str) -> str:
    return code.replace("_", "").lower()


def first_line(error: BaseException, address: str = "") -> str:
    """The first line of a library's error, safe to print; the error's type if it has no text."""
    text = in_words(str(error.strerror or error) if isinstance(error, OSError) else str(error))
    name = getattr(error, "filename", None)
    if isinstance(name, str) and name not in address and not name.endswith(".part"):
        text = f"{text}: {name}"
    return redacted(text.strip().splitlines()[0]) if text.strip() else type(error).__name__


def _hub_explained(error: Exception, uri: str) -> tuple[type[StorageError], str]:
    """What an error of the hub's client means, and it in one line with the fix."""
    from huggingface_hub.errors import (  # only where the hub was used
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cause = error.__cause__ or error if isinstance(error, FileNotFoundError) else error
    page = "https://huggingface.co/" + "/".join(uri.removeprefix("hf://").split("?")[0].split("@")[0].split("/")[:3])
    status = getattr(getattr(cause, "response", None), "status_code", None)
    token, create = os.environ.get("HF_TOKEN"), f"create a token at {TOKENS} and set HF_TOKEN"
    no_access = f"HF_TOKEN has no access; accept the terms at {page} with its account, or create another at {TOKENS}"
    hint = "whether HF_TOKEN may see it" if token else f"if it is private, {create}"
    unreached = f"huggingface.co cannot be reached or did not answer ({first_line(cause)}); check the network"
    told: list[tuple[Any, type[StorageError], str]] = [
        (GatedRepoError, Refused, no_access if token else f"gated; accept its terms at {page}, {create}"),
        (RevisionNotFoundError, Gone, f"no such revision; see {page}"),
        (RepositoryNotFoundError, Gone, f"no such data set; check the name, or {hint}"),
        (
            HfHubHTTPError if status in (401, 403) else (),
            Refused,
            f"HF_TOKEN was refused; create a valid one at {TOKENS}" if token else create,
        ),
        (FileNotFoundError, Gone, f"no such file or folder; see {page}"),
        (OfflineModeIsEnabled, Refused, "HF_HUB_OFFLINE is set; unset it, or give a local copy of the data set"),
        (Exception, Failing, f"{unreached}, or give a local copy of the data set"),
    ]
    return next((kind, reason) for classes, kind, reason in told if isinstance(cause, classes))


@contextmanager
def storage_errors(address: str, operation: str = "") -> Iterator[None]:
    """What a filesystem raises inside the block becomes a StorageError that names the address, the reason and the fix.

    operation: what was tried, as a verb: read, write, list, delete, replace, lock.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        of_storage = isinstance(error, _OF_STORAGE) or type(error).__module__.startswith(_CLIENTS)
        if of_storage and address.startswith("hf://"):
            kind, reason = _hub_explained(error, address)
        elif of_storage:
            try:
                says = what_it_says(address) if re.search("AWS Error .*(GetObject|HeadObject)", str(error)) else ""
            except UserError as told:  # that there are no credentials, which an object for everybody does not need
                if re.search("HTTP status 40[013]|ACCESS_DENIED", str(error)):
                    raise NoCredentials(str(told)) from None
                says = ""
            kind, reason = explained(error, says, address)
        else:
            raise
        tried = f"cannot {operation}: " if operation and kind is not Gone else ""
        raise kind(f"{shown(address)}: {tried}{reason}") from None


@contextmanager
def decoding() -> Iterator[None]:
    """Around what takes bytes apart that were read by `SteadyFile`: whatever it raises is damage, but for what storage did."""
    try:
        yield
    except (UserError, Damaged):
        raise
    except (RecursionError, MemoryError):
        raise Damaged("it is nested deeper, or claims to be larger, than memory allows") from None
    except Exception as error:  # codecs raise every kind on damaged data
        raise Damaged(first_line(error)) from None


def decoded[R](parts: Iterator[R]) -> Iterator[R]:
    """The parts, with what raises between them as in `decoding`."""
    while True:
        with decoding():
            part = next(parts, None)
        if part is None:
            return
        yield part


def patiently[R](act: Callable[[], R], address: str, operation: str = "") -> R:
    """What `act` gives, asked again with growing waits while storage is failing, for RETRY_SECONDS.

    operation: as for storage_errors. Raises Gone, Refused, or at last Failing, each in one line that names the address.
    """

    def once() -> R:
        with storage_errors(address, operation):
            return act()

    try:
        return once()
    except GivenUp:
        raise
    except Failing:
        return _again(once)


def retry_seconds() -> float:
    """How long failing storage is asked again. Raises UserError for a LOUDBOX_RETRY_SECONDS that is no time."""
    return seconds_from("LOUDBOX_RETRY_SECONDS", RETRY_SECONDS)


def seconds_from(name: str, usual: float, *, above_zero: bool = False) -> float:
    """The seconds that a variable of the environment says. Raises UserError for what is no time."""
    text = os.environ.get(name) or str(usual)
    if not re.fullmatch(r"\d+(\.\d+)?", text) or (above_zero and not float(text)):
        raise UserError(f"{name}={text}: give a number of seconds{' above 0' * above_zero}, such as {usual:g}")
    return float(text)


def _again[R](act: Callable[[], R]) -> R:
    from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential  # few runs need it

    began = time.monotonic()

    def tell(state: Any) -> None:
        _teller(str(state.outcome.exception()), time.monotonic() - began)

    retrying = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, Failing) and not isinstance(error, GivenUp)),
        stop=stop_after_delay(retry_seconds()),
        wait=wait_random_exponential(0.2, MOST_SECONDS),
        before_sleep=tell,
        reraise=True,
    )
    try:
        time.sleep(0.1)
        return retrying(act)
    except GivenUp:
        raise
    except Failing as error:
        raise GivenUp(f"{error}; asked for {time.monotonic() - began:.0f} s") from None
    finally:
        _teller(None, time.monotonic() - began)


def _to_terminal(what: str | None, seconds: float) -> None:
    global _last
    if what is not None and seconds > TOLD_AFTER and time.monotonic() - _last > TOLD_AFTER:
        _last = time.monotonic()
        print(f"waiting for storage since {seconds:.0f} s: {what}", file=sys.stderr, flush=True)


_last = 0.0
_teller: Callable[[str | None, float], None] = _to_terminal


def tell_waits(teller: Callable[[str | None, float], None]) -> None:
    """From now on, this process tells `teller` what it waits for, and not the terminal.

    teller: is told what storage has answered for so many seconds; None once it answers again, or is given up.
    """
    global _teller
    _teller = teller


REFUSED_ROW = "cannot be read: storage refuses it"  # How the error of an image begins whose object alone was refused
GONE_ROW = "cannot be read: the file is gone"
_BY_STORAGE = re.compile(rf"{REFUSED_ROW}|{GONE_ROW}|has [\d,]+ bytes, had ")


def is_by_storage(error: str) -> bool:
    """Whether a row's error says that storage refused an image, or had another than was listed, by how it begins.

    A run goes on only over an unchanged data set, so what was gone is there again.
    """
    return _BY_STORAGE.match(error) is not None
