"""Settings of the environment that every client of the network reads, told by name where they cannot work."""

import os
import re
from functools import cache

from vit_actor.errors import UserError

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


def check_network_settings() -> None:
    """Raise UserError for certificates that are not there, and for a proxy that is no address of one."""
    for name in (*CERTIFICATES, *PROXIES):
        if value := os.environ.get(name):
            _check(name, value)


@cache
def _check(name: str, value: str) -> None:
    if name in PROXIES:  # which may hold a password
        if not re.fullmatch(r"((https?|socks[45][ah]?)://)?[^/\s]+/?", value):
            raise UserError(f"{name} holds no address of a proxy; give http://HOST:PORT, or unset it")
        return
    if name == "SSL_CERT_DIR":
        found, wanted = any(map(os.path.isdir, value.split(":"))), "directory"
    else:  # some clients take a directory too
        found, wanted = _has_certificates(value) or (name != "SSL_CERT_FILE" and os.path.isdir(value)), "file"
    if not found:
        raise UserError(f"{name}={value}: no {wanted} of certificates; name your CA's, or unset it")


def _has_certificates(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"CERTIFICATE-----" in file.read()
    except OSError:
        return False
