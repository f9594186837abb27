"""What an error of storage means is decided in one place, and what fails is asked again for a while."""

import errno
import os
from collections.abc import Callable
from email.message import Message
from functools import partial
from pathlib import Path
from socket import gaierror
from unittest.mock import Mock
from urllib.error import HTTPError, URLError

import pyarrow as pa
import pytest

from jobs.storage import failure
from jobs.storage.address import parts_of
from jobs.storage.failure import (
    GONE_ROW,
    REFUSED_ROW,
    Failing,
    GivenUp,
    Gone,
    NoCredentials,
    Refused,
    Unaddressable,
    is_by_storage,
    patiently,
    storage_errors,
)
from jobs.storage.files import SteadyFile, open_storage
from jobs.storage.s3 import ENDPOINTS, Access, object_store
from vit_actor.errors import UserError

ADDRESS = "s3://key:HUSH@bucket/data"
AWS = "When reading information for key 'k' in bucket 'b': AWS Error {} during {} operation: no"
OBSTORE = "Generic S3 error: Error performing {} http://store/k in 1ms - Server returned non-2xx status code: {}: no"
WHERE = "s3://bucket/data?region=eu-west-1&endpoint_override=http://127.0.0.1:1"


@pytest.fixture
def without_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No credentials of S3's, in the environment, in files or of a host's role."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def told_of(act: Callable[[], object], kind: type[Exception], address: str) -> str:
    """The line of an error of that kind, which the error that is raised becomes."""
    with pytest.raises(failure.StorageError) as raised, storage_errors(address, "read"):
        act()
    assert type(raised.value) is kind
    return str(raised.value)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"SSL_CERT_FILE": "/nowhere"}, "SSL_CERT_FILE=/nowhere: no file of certificates"),
        ({"SSL_CERT_FILE": "/tmp"}, "SSL_CERT_FILE=/tmp: no file of certificates"),
        ({"AWS_CA_BUNDLE": "/etc/passwd"}, "no file of certificates; name your CA's, or unset it"),
        ({"SSL_CERT_DIR": "/nowhere"}, "SSL_CERT_DIR=/nowhere: no directory of certificates"),
        ({"HTTPS_PROXY": "HUSH:://"}, "HTTPS_PROXY holds no address of a proxy; give http://HOST:PORT"),
        ({"all_proxy": "ftp://HUSH"}, "all_proxy holds no address of a proxy"),
        ({"AWS_ACCESS_KEY_ID": "HUSH\n", "AWS_SECRET_ACCESS_KEY": "x"}, "AWS_ACCESS_KEY_ID holds a character that no key has"),
        ({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": ""}, "only AWS_ACCESS_KEY_ID is set; set both, or neither"),
        ({"AWS_PROFILE": "nowhere"}, "The config profile (nowhere) could not be found; correct AWS_PROFILE"),
    ],
    ids=str,
)
def test_a_setting_of_the_environment_with_which_no_store_can_be_reached_is_named(
    without_keys: pytest.MonkeyPatch, environment: dict[str, str], told: str
) -> None:
    for name, value in environment.items():
        without_keys.setenv(name, value)
    with pytest.raises(UserError) as refused:
        object_store(WHERE if "AWS_PROFILE" in environment else open_storage(WHERE)[1])
    assert told in str(refused.value)
    assert "HUSH" not in str(refused.value)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (FileExistsError(errno.EEXIST, "File exists"), Gone, "in the way"),
        (FileNotFoundError(errno.ENOENT, "No such file"), Gone, "no such file or directory"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), Gone, "a file is in the way"),
        (OSError(errno.ELOOP, "Too many levels"), Gone, "a link leads back to itself"),
        (PermissionError(errno.EACCES, "Permission denied"), Refused, "check who may access it"),
        (OSError(errno.ENOSPC, "No space left on device"), Refused, "free some space or inodes"),
        (OSError(errno.EROFS, "Read-only file system"), Refused, "mount it for writing"),
        (OSError(errno.EIO, "Input/output error"), Failing, "Input/output error"),
        (OSError(errno.ESTALE, "Stale file handle"), Failing, "Stale file handle"),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), Failing, "timed out"),
        (OSError("curlCode: 28, timeout"), Failing, "curlCode: 28"),
        (pa.ArrowInvalid("Empty path component"), Unaddressable, "cannot be addressed"),
        (ImportError("install adlfs"), Refused, "no driver for it is installed"),
        (OSError(AWS.format("ACCESS_DENIED", "ListObjectsV2")), Refused, "grant s3:ListBucket"),
        (OSError(AWS.format("ACCESS_DENIED", "DeleteObject")), Refused, "grant s3:DeleteObject"),
        (OSError(AWS.format("NO_SUCH_BUCKET", "ListObjectsV2")), Refused, "no such bucket"),
        (OSError(AWS.format("UNKNOWN (HTTP status 400)", "HeadObject")), NoCredentials, "refuses these credentials"),
        (OSError(OBSTORE.format("HEAD", 400)), NoCredentials, "refuses these credentials"),
        (OSError(OBSTORE.format("PUT", 501)), Refused, "the store cannot do this"),
        (OSError(OBSTORE.format("PUT", 503)), Failing, "status code: 503"),
        (OSError(AWS.format("EXPIRED_TOKEN", "PutObject")), NoCredentials, "refuses these credentials"),
        (OSError(AWS.format("SLOW_DOWN", "PutObject")), Failing, "AWS: SLOW_DOWN"),
        (OSError(AWS.format("UNKNOWN (HTTP status 503)", "PutObject")), Failing, "HTTP status 503"),
        (OSError(AWS.format("NETWORK_CONNECTION", "PutObject")), Failing, "does not answer"),
        (OSError(AWS.format("NETWORK_CONNECTION", "PutObject") + " curlCode: 60, SSL peer"), Refused, "set SSL_CERT_FILE"),
        (OSError(AWS.format("UNKNOWN (HTTP status 501)", "PutObject")), Refused, "AWS_REQUEST_CHECKSUM_CALCULATION"),
        (OSError("400: <Error><Code>BadDigest</Code><Message>not it</Message></Error>"), Failing, "(BadDigest: not it)"),
        (OSError("google::cloud::Status(PERMISSION_DENIED: no)"), Refused, "permission denied"),
        (OSError("google::cloud::Status(UNAVAILABLE: no)"), Failing, "does not answer"),
        (OSError("Azure Error: [AuthenticationFailed] no"), NoCredentials, "refuses these credentials"),
    ],
)
def test_an_error_means_one_thing_told_in_one_line(error: Exception, kind: type[Exception], says: str) -> None:
    told = told_of(Mock(side_effect=error), kind, ADDRESS)
    assert told.startswith("s3://bucket/data: ")
    assert says in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("code", "operation", "kind"),
    [
        *((code, "GetObject", Failing) for code in ("NETWORK_CONNECTION", "SLOW_DOWN", "UNKNOWN (HTTP status 503)")),
        ("ACCESS_DENIED", "GetObject", NoCredentials),
        ("UNKNOWN (HTTP status 400)", "HeadObject", NoCredentials),
    ],
)
def test_only_what_is_refused_is_for_want_of_credentials(
    without_keys: pytest.MonkeyPatch, code: str, operation: str, kind: type[Exception]
) -> None:
    told = told_of(Mock(side_effect=OSError(AWS.format(code, operation))), kind, "s3://bucket/data?region=eu-west-1")
    assert ("there are no credentials" in told) is (kind is NoCredentials)


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (HTTPError("", 404, "", Message(), None), Refused, "no such bucket"),
        (HTTPError("", 503, "", Message(), None), Failing, "the bucket is (HTTP 503); add ?region=eu-west-1 to the address"),
        (URLError(TimeoutError("timed out")), Failing, "the bucket is (timed out); add"),
        (URLError(gaierror(-2, "Name or service not known")), Failing, "the bucket is (Name or service not known); add"),
        (TimeoutError("timed out"), Failing, "the bucket is (timed out); add"),
    ],
)
def test_where_a_bucket_is_is_asked_of_aws_unless_the_environment_says_it(
    monkeypatch: pytest.MonkeyPatch, answer: Exception, kind: type[Exception], says: str
) -> None:
    def ask(*_: object, **__: object) -> None:
        raise answer

    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", *ENDPOINTS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("jobs.storage.s3.urlopen", ask)
    parts = parts_of("s3://bucket/data")
    assert parts
    assert says in told_of(partial(Access.of, parts), kind, "s3://bucket/data")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert Access.of(parts).region == "eu-central-1"


def test_what_fails_a_few_times_is_asked_again_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str | None] = []
    monkeypatch.setattr(failure, "_teller", lambda what, seconds: told.append(what))
    ask = Mock(side_effect=[OSError(errno.EIO, "Input/output error"), OSError(errno.ESTALE, "Stale file handle"), b"data"])
    assert patiently(ask, "/data", "read") == b"data"
    assert told == ["/data: cannot read: storage failed (Stale file handle)", None]


def test_what_fails_for_good_is_given_up_after_the_time_by_the_innermost_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOUDBOX_RETRY_SECONDS", "0.5")
    ask = Mock(side_effect=OSError(errno.EIO, "Input/output error"))
    with pytest.raises(GivenUp, match=r"^/data: cannot read: storage failed \(Input/output error\); asked for \d s$"):
        patiently(lambda: patiently(ask, "/data", "read"), "/elsewhere")
    once = ask.call_count
    assert once > 1
    with pytest.raises(GivenUp):
        patiently(ask, "/data")
    assert ask.call_count <= 3 * once


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), FileNotFoundError(errno.ENOENT, "no")])
def test_what_is_refused_or_gone_is_asked_once(error: OSError) -> None:
    ask = Mock(side_effect=error)
    with pytest.raises(failure.StorageError):
        patiently(ask, "/data")
    ask.assert_called_once()


def test_a_file_that_is_not_as_it_was_listed_or_shrinks_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(100)))
    with pytest.raises(Gone, match=r"changed while the run read it; restore it first \(99 bytes became 100\)"):
        SteadyFile(str(path), 99)
    monkeypatch.setenv("LOUDBOX_RETRY_SECONDS", "0.3")
    with SteadyFile(str(path), 100) as file:
        assert file.read_at(10, 95) == bytes(range(95, 100))
        os.truncate(path, 50)
        with pytest.raises(Gone, match="100 bytes became 50"):
            file.read_at(10, 45)
        path.write_bytes(bytes(range(100)))
        assert file.read_at(10, 45) == bytes(range(45, 55))


def test_a_row_says_whether_storage_refused_or_changed_its_image_or_the_data_is_at_fault() -> None:
    by_storage = [f"{REFUSED_ROW} (s3://b/x: the object is archived)", GONE_ROW, "has 10 bytes, had 12 when the run listed it"]
    by_data = ["a link to has 10 bytes, had 12", "cannot be read: its name is not valid UTF-8", "the tar is damaged: no header"]
    assert [error for error in by_storage + by_data if is_by_storage(error)] == by_storage
