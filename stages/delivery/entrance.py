"""Where users come in, and what routers do for them beside sending each release its share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline import WiringError
from pipeline.numbers import need_numbers
from stages.delivery.balance import Balance, RoundRobin
from stages.delivery.cache import Cache
from stages.delivery.failover import Failover
from stages.delivery.name import check_name
from stages.delivery.page import MAINTENANCE
from stages.delivery.port import check_port
from stages.delivery.rate import RateLimit
from stages.delivery.request_limits import NO_LIMITS, RequestLimits
from stages.delivery.tls import Tls


@dataclass(frozen=True, kw_only=True)
class Entrance:
    """What can be said of any router: users come to it by HTTP at `host`:`port`."""

    mirrors: ClassVar[bool] = False
    """Whether it can send copies of requests to somebody else too."""

    name: str
    port: int
    host: str = "127.0.0.1"
    maintenance: str = MAINTENANCE
    """The page (HTML) that users get with status 503 while nobody serves."""
    tls: Tls | None = None
    """HTTPS at a port of its own."""
    balance: Balance = RoundRobin()  # noqa: RUF009 - frozen
    """Which instance a request goes to."""
    rate: RateLimit | None = None
    """How often each client may ask."""
    limits: RequestLimits = NO_LIMITS
    """How large a request may be, how long it may be on its way, and how many may be connected."""
    cache: Cache | None = None
    """What is given again without asking an instance; HAProxy alone can."""
    failover: Failover = Failover.PAGE
    """Where users go when nobody is left who should serve them."""

    def __post_init__(self) -> None:
        check_name(type(self).__name__, self.name)
        check_port(f"{type(self).__name__} {self.name}", self.port)
        need_numbers(self)
        if self.tls and (self.tls.host, self.tls.port) == (self.host, self.port):
            raise WiringError(
                f"{type(self).__name__} {self.name}: HTTP and HTTPS on one port, {self.port}", right="another port for Tls"
            )
