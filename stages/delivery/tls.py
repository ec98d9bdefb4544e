"""TLS as a router ends it for users: which certificate it shows, and whether that is one that they would take."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import StageFailed, WiringError
from stages.delivery.port import check_port

if TYPE_CHECKING:
    from cryptography import x509

    from pipeline import Work

HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
"""Names of hosts in ASCII (RFC 1123, section 2.1; others as `xn--`)."""


@dataclass(frozen=True)
class Secret:
    """The value of a secret of the run (an environment variable)."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Tls:
    """HTTPS for users on `host`:`port`, beside HTTP on the router's own port. TLS 1.2 and 1.3, HTTP/1.1.

    `certificate` and `key` are PEM, each a file (a relative path is one of the project) or a `Secret`; below the certificate are
    those that vouch for it. `hosts` are the names and addresses that it has to be good for.
    """

    port: int
    certificate: Path | Secret
    key: Path | Secret
    hosts: tuple[str, ...]
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        check_port("Tls", self.port)
        wrong = [host for host in self.hosts if not (is_address(host) or HOST.fullmatch(host))]
        if wrong or not self.hosts:
            raise WiringError(
                f"Tls.hosts: {', '.join(map(repr, wrong)) or 'there are none'}",
                right='what users write into their browsers, as in ("shop.example.org", "*.example.org", "192.0.2.1")',
            )


@dataclass(frozen=True)
class Pair:
    """A certificate with those that vouch for it, and its key."""

    chain: bytes
    key: bytes = field(repr=False)

    @property
    def pem(self) -> bytes:
        """Both in one text without empty lines."""
        lines = [line.strip() for line in (self.chain + b"\n" + self.key).splitlines()]
        return b"".join(line + b"\n" for line in lines if line)

    @staticmethod
    def of(pem: bytes) -> Pair:
        """What `pem` gave. Raises ValueError for anything else."""
        if (found := re.search(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----", pem)) is None:
            raise ValueError("there is no key in it")
        return Pair(pem[: found.start()], pem[found.start() :])


@dataclass(frozen=True)
class Certificate:
    """What there is to say of a certificate: its fingerprint (SHA-256, hexadecimal), and when it is over."""

    fingerprint: str
    until: datetime


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def nothing() -> Pair:
    """For a router that nobody told where they are. Raises StageFailed."""
    raise StageFailed("nobody told the router where its certificate is", right="a router that was opened with `tls`")


def reading(tls: Tls | None, work: Work) -> Callable[[], Pair]:
    """Reads certificate and key, when they are wanted."""
    if tls is None:
        return nothing

    def read(what: Path | Secret) -> bytes:
        if isinstance(what, Secret):
            return work.project.secret(what.name).encode()
        try:
            return (work.project.root / what).read_bytes()
        except OSError as error:
            raise StageFailed(f"it cannot be read: {error.strerror}", where=str(what), right="a file in PEM") from error

    return lambda: Pair(read(tls.certificate), read(tls.key))


def checked(pair: Pair, tls: Tls, now: datetime) -> Certificate:
    """What there is to say of the pair. Raises StageFailed where users would not take it, or the router could not show it."""
    where = str(tls.certificate.name if isinstance(tls.certificate, Secret) else tls.certificate)
    leaf = _leaf(pair, where)
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        over = now > leaf.not_valid_after_utc
        raise StageFailed(
            f"the certificate is {'good no more' if over else 'not good yet'}: "
            f"from {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} to {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            where=where,
            right=f"one that is good at {now:%Y-%m-%d %H:%M} UTC",
            next="renew it, and run again",
        )
    _need_key(leaf, pair, tls)
    names = _names(leaf)
    if missing := [host for host in tls.hosts if not any(covers(name, host) for name in names)]:
        raise StageFailed(
            f"the certificate is not good for {', '.join(missing)}",
            where=where,
            right=f"one for all of Tls.hosts; this one is for {', '.join(names) or 'nobody'}",
        )
    return told(pair, where)


def told(pair: Pair, where: str = "") -> Certificate:
    """What there is to say of a certificate that was looked at before."""
    from cryptography.hazmat.primitives import hashes

    leaf = _leaf(pair, where)
    return Certificate(leaf.fingerprint(hashes.SHA256()).hex(), leaf.not_valid_after_utc)


def covers(name: str, host: str) -> bool:
    """Whether a certificate for `name` is good for `host` (RFC 9525, section 6.3: `*` is all of the first label).

    >>> covers("*.example.org", "shop.example.org"), covers("*.example.org", "example.org"), covers("*.org", "a.example.org")
    (True, False, False)
    """
    name, host = name.lower(), host.lower()
    if name == host:
        return True
    star, _, rest = name.partition(".")
    first, _, parent = host.partition(".")
    return star == "*" and bool(rest) and parent == rest and first != "*" and not is_address(host)


def _leaf(pair: Pair, where: str) -> x509.Certificate:
    try:
        from cryptography import x509
    except ImportError as error:
        raise StageFailed(
            "a router is to show a certificate, and the library to look at it is not here",
            right="cryptography",
            next="pip install 'lockgate[tls]'",
        ) from error
    try:
        return x509.load_pem_x509_certificates(pair.chain)[0]
    except ValueError as error:
        raise StageFailed(f"it is no certificate: {error}", where=where, right="a certificate in PEM") from error


def _need_key(leaf: x509.Certificate, pair: Pair, tls: Tls) -> None:
    from cryptography.hazmat.primitives import serialization

    where = str(tls.key.name if isinstance(tls.key, Secret) else tls.key)
    try:
        key = serialization.load_pem_private_key(pair.key, None)
    except (ValueError, TypeError) as error:  # TypeError: it has a passphrase
        raise StageFailed(f"it is no key: {error}", where=where, right="a private key in PEM without a passphrase") from error
    how = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*how) != leaf.public_key().public_bytes(*how):
        raise StageFailed(
            "the key is not that of the certificate",
            where=where,
            right="the key of the first certificate of its file",
        )


def _names(leaf: x509.Certificate) -> list[str]:
    """What it is good for: its alternative names; no browser looks at the common name."""
    from cryptography import x509

    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]
