"""Settings of the environment that every client of the network reads, told by name where they cannot work."""

import os
import re
from functools import cache

from vit_actor.errors import UserError

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


def check_network_settings() -> None:
    """Raise UserError for certificates that are not there, and for a proxy that is no address of one."""
    for name in PROXIES:
        if not re.fullmatch(
            r"(((https?|socks[45][ah]?)://)?[^/\s]+/?)?", os.environ.get(name, "")
        ):  # not printed: maybe a password
            raise UserError(f"{name} holds no address of a proxy; give http://HOST:PORT, or unset it")
    for name in CERTIFICATES:
        if (value := os.environ.get(name)) and not _has_certificates(name, value):
            kind = "directory" if name == "SSL_CERT_DIR" else "file"
            raise UserError(f"{name}={value}: no {kind} of certificates; name your CA's, or unset it")


@cache
def _has_certificates(name: str, value: str) -> bool:
    if name == "SSL_CERT_DIR":
        return any(map(os.path.isdir, value.split(":")))
    try:
        with open(value, "rb") as file:
            return b"CERTIFICATE-----" in file.read()
    except OSError:
        return name != "SSL_CERT_FILE" and os.path.isdir(value)  # some clients take a directory too
