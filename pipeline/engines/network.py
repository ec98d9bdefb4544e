"""What reaches actions that declare network: proxies, certificate authorities and package indexes."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator, Mapping

CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "PIP_CERT")
"""Variables that name a file of trusted certificate authorities."""

VARIABLES = (
    *CERTIFICATES,
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_SYSTEM_CERTS",
    "UV_NATIVE_TLS",
)


def network_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of the environment that an action needs to reach what its user reaches."""
    return {name: environment[name] for name in VARIABLES if environment.get(name)}


USER = re.compile(r"(?:^|//)([^/\s]*)@")
"""Who is named in an address, with the password if there is one."""


def names_user(value: str) -> bool:
    """Whether an address in `value` may hold a password or a token."""
    return "@" in value


def passwords(environment: Mapping[str, str]) -> Iterator[str]:
    """What of the environment of a network no log may show: addresses that name a user, and passwords on their own."""
    for value in environment.values():
        for address in filter(names_user, value.split()):
            yield address
            for user in USER.findall(address):
                yield user
                password = user.partition(":")[2] or user
                yield password
                yield urllib.parse.unquote(password)
