"""Settings of the environment that every client of the network reads, told by name where they cannot work."""

import os
import re

from vit_actor.errors import UserError

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def check_network_settings() -> None:
    """Raise UserError for certificates that are not there, and for a proxy that is no address of one."""
    for name in CERTIFICATES:
        path = os.environ.get(name)
        wanted = "directory" if name.endswith("DIR") else "file"
        if path and not (os.path.isdir(path) if wanted == "directory" else _has_certificates(path)):
            raise UserError(f"{name}={path}: no {wanted} of certificates; name your CA's, or unset it")
    for name in [*PROXIES, *map(str.lower, PROXIES)]:
        proxy = os.environ.get(name)  # which may hold a password
        if proxy and not re.fullmatch(r"((https?|socks[45][ah]?)://)?[^/\s]+/?", proxy):
            raise UserError(f"{name} holds no address of a proxy; give http://HOST:PORT, or unset it")


def _has_certificates(path: str) -> bool:
    """Whether it is a file of some, or a directory, which some clients take too."""
    try:
        with open(path, "rb") as file:
            return b"CERTIFICATE-----" in file.read()
    except IsADirectoryError:
        return path != os.environ.get("SSL_CERT_FILE")
    except OSError:
        return False
