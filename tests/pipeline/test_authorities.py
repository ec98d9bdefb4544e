"""Whom TLS is to trust."""

from __future__ import annotations

from ssl import CERT_REQUIRED, SSLContext

import pytest

from pipeline.authorities import authorities


@pytest.mark.parametrize("url", ["https://example.org", "https://127.0.0.1:8443/x", "HTTPS://example.org"])
def test_an_address_with_tls_is_held_against_what_everybody_trusts(url: str) -> None:
    assert authorities(url) is True


def test_plain_http_loads_no_authority_and_a_way_from_there_to_tls_would_trust_nobody() -> None:
    found = authorities("http://127.0.0.1:8080")
    assert isinstance(found, SSLContext)
    assert found.get_ca_certs() == []
    assert (found.verify_mode, found.check_hostname) == (CERT_REQUIRED, True)
