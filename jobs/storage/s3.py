"""S3: its client of pyarrow's, for all data, and of obstore's, which writes on condition and keeps what the store says."""

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qsl, quote, unquote
from urllib.request import Request, urlopen

from pyarrow import ArrowInvalid
from pyarrow.fs import FileSystem

from jobs.storage.address import Parts, parts_of, path_of, redacted, shown
from vit_actor.errors import UserError

SCHEMES = ("s3", "s3a")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
CONNECT_SECONDS, REQUEST_SECONDS = 10.0, 30.0
_SAID = re.compile(r"<Code>\s*(\w+)\s*</Code>(?:.*?<Message>\s*(.*?)\s*</Message>)?", re.DOTALL)


class NoRegion(OSError):
    """AWS does not say in which region a bucket is. Asking again may help."""

    def __init__(self, reason: object) -> None:
        super().__init__(f"AWS does not say in which region the bucket is ({reason}); add ?region=eu-west-1 to the address")


@dataclass(frozen=True)
class Access:
    """Where a bucket is, and with whose keys: empty for those that the environment, a profile or the host's role has."""

    bucket: str
    key: str
    secret: str
    region: str | None
    endpoint: str | None

    @classmethod
    def of(cls, parts: Parts) -> Self:
        """From a URI. Raises UserError for a setting that S3 does not have, or keys of the environment that no client can use."""
        settings = dict(parse_qsl(parts.query or "", keep_blank_values=True))
        if unknown := settings.keys() - {"region", "scheme", "endpoint_override"}:
            raise UserError(f"{shown(str(parts))}: ?{min(unknown)}= is no setting of s3://; write a ? of a name as %3F")
        user, _, bucket = parts.authority.rpartition("@")
        key, _, secret = (unquote(part) for part in user.partition(":"))
        for name in () if key else KEYS:
            if not (value := os.environ.get(name, "")).isascii() or not value.isprintable():
                raise UserError(f"{name} holds a character that no key has, such as the end of a line; set it again")
        given = [name for name in KEYS[:2] if os.environ.get(name)]
        if len(given) == 1 and not key:
            raise UserError(f"of {' and '.join(KEYS[:2])} only {given[0]} is set; set both, or neither")
        endpoint = next(filter(None, [settings.get("endpoint_override"), *map(os.environ.get, ENDPOINTS)]), None)
        if endpoint and "://" not in endpoint:
            endpoint = f"{settings.get('scheme', 'https')}://{endpoint}"
        set_for_all = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        region = settings.get("region") or (None if endpoint else set_for_all or _region(bucket))
        return cls(bucket, key, secret, region, endpoint)


@lru_cache(maxsize=16)
def _region(bucket: str) -> str:
    """As AWS tells everybody; pyarrow's `resolve_s3_region` would ask for minutes where there is no network."""
    if not re.fullmatch(r"[\w.-]+", bucket):
        raise ArrowInvalid("no bucket has such a name")
    try:
        with urlopen(Request(f"https://s3.amazonaws.com/{quote(bucket)}", method="HEAD"), timeout=CONNECT_SECONDS) as answer:
            code, headers = answer.status, answer.headers
    except HTTPError as error:  # as for most buckets, which are not everybody's
        code, headers = error.code, error.headers
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise NoRegion(getattr(reason, "strerror", None) or reason) from None
    region: str | None = headers["x-amz-bucket-region"]
    if region is None:
        raise OSError("AWS Error NO_SUCH_BUCKET") if code == 404 else NoRegion(f"HTTP {code}")
    return region


def open_s3(parts: Parts) -> FileSystem:
    """pyarrow's client of a bucket."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    access = Access.of(parts)
    return S3FileSystem(
        access_key=access.key or None,
        secret_key=access.secret or None,
        region=access.region,
        endpoint_override=access.endpoint,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=3),
        allow_delayed_open=True,  # one request for a small file
    )


def object_store(address: str) -> tuple[Any, str] | None:
    """(obstore's client of a bucket, the key in it); None for an address that is not of S3."""
    parts = parts_of(address)
    if parts is None or parts.scheme not in SCHEMES:
        return None
    from obstore.store import S3Store  # here, because few runs need it

    access = Access.of(parts)
    names = {"key": "access_key_id", "secret": "secret_access_key", "region": "region", "endpoint": "endpoint"}
    given: dict[str, Any] = {theirs: value for ours, theirs in names.items() if (value := getattr(access, ours))}
    if not (access.key or os.environ.get("AWS_ACCESS_KEY_ID")):
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
        from obstore.auth.boto3 import Boto3CredentialProvider

        try:
            given["credential_provider"] = Boto3CredentialProvider()
        except BotoCoreError as error:
            raise UserError(f"{shown(address)}: {redacted(str(error))}; correct AWS_PROFILE, or the files of ~/.aws") from None
        except ValueError:
            fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the host's role"
            raise UserError(f"{shown(address)}: there are no credentials; {fix}") from None
    limits: dict[str, Any] = {"client_options": {"allow_http": True, "timeout": "4s"}, "retry_config": {"max_retries": 1}}
    return S3Store(access.bucket, **given, **limits), path_of(address)


def what_it_says(address: str) -> str:
    """The store's own code and words about an object that cannot be read; pyarrow leaves them out. Empty where it has none.

    Raises UserError where there are no credentials.
    """
    try:
        found = object_store(address)
        if not found or not found[1]:
            return ""
        from obstore import get_range

        get_range(*found, start=0, length=1)
    except UserError:
        raise
    except Exception as error:  # it says no more than what went wrong already
        return redacted(in_words(str(error))) if _SAID.search(str(error)) else ""
    return ""


def in_words(text: str) -> str:
    """An answer of S3's in a text as `Code: Message`; any other text as it is."""
    said = _SAID.search(text)
    return ": ".join(part for part in said.groups() if part) if said else text
