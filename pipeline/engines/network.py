"""What reaches actions that declare network: proxies, certificate authorities and package indexes."""

from __future__ import annotations

from collections.abc import Mapping

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
