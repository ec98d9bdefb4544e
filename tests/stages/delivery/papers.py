"""Certificates for tests, made on the spot, and what a server shows of one."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stages.delivery.tls import Pair, Tls

DAY = timedelta(days=1)


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@dataclass
class Authority:
    """Who vouches for certificates; users trust it."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.certificate = self._signed("authority", self.key.public_key(), (), authority=True)

    def pair(
        self,
        *hosts: str,
        since: timedelta = -DAY,
        until: timedelta = 30 * DAY,
        key: ec.EllipticCurvePrivateKey | None = None,
        curve: type[ec.EllipticCurve] = ec.SECP256R1,
    ) -> Pair:
        """A certificate for hosts, good from `since` to `until` from now. `key` is told as its key in place of its own."""
        own = ec.generate_private_key(curve())
        found = self._signed("app", own.public_key(), hosts, since=since, until=until)
        return Pair(found.public_bytes(serialization.Encoding.PEM), pem(key or own))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def trusting(self) -> ssl.SSLContext:
        """What users connect with."""
        return ssl.create_default_context(cadata=self.pem.decode())

    def _signed(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        hosts: tuple[str, ...],
        *,
        since: timedelta = -DAY,
        until: timedelta = 30 * DAY,
        authority: bool = False,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + since)
            .not_valid_after(now + until)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([alternative(host) for host in hosts]), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@dataclass
class Files:
    """Certificate and key as files, and how a router is told of them."""

    place: Path
    port: int
    hosts: tuple[str, ...] = ("localhost",)

    @property
    def tls(self) -> Tls:
        return Tls(port=self.port, certificate=self.place / "app.crt", key=self.place / "app.key", hosts=self.hosts)

    @property
    def read(self) -> Callable[[], Pair]:
        return lambda: Pair((self.place / "app.crt").read_bytes(), (self.place / "app.key").read_bytes())

    def write(self, pair: Pair) -> None:
        (self.place / "app.crt").write_bytes(pair.chain)
        (self.place / "app.key").write_bytes(pair.key)


def fingerprint(pair: Pair) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pair.chain.decode())).hexdigest()


def shown(port: int, trusting: ssl.SSLContext) -> str:
    """The fingerprint of the certificate that is shown to who connects now."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        trusting.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        return hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()
