"""What HAProxy is told of an entrance: lines of its configuration. Pure.

Format: HAProxy Configuration Manual 2.8, sections 5.1 (`bind`) and 4.2.
"""

from __future__ import annotations

from stages.delivery.audience import Header
from stages.delivery.balance import Balance, Hashing, LeastConnections, RoundRobin, Sticky
from stages.delivery.cache import Cache
from stages.delivery.certificate import FILE
from stages.delivery.entrance import Entrance
from stages.delivery.haproxy_audience import fetched, quoted
from stages.delivery.request_limits import RequestLimits

CACHE = "answers"
FRESH = "(^|[ ,])(max-age|s-maxage)="
"""How an answer says how long it may be kept (RFC 9111, section 4.2.1), beside `Expires`."""
VERSIONS = "cache.map"
"""A file beside the configuration, from where HAProxy is started: nobody's answers are kept until it is told whose."""
VERSION, NOBODY = "version", "nobody"
"""The one key of the map, and its value while no release has all the traffic."""
ROOM = 12
"""KiB of headers that fit without more (`tune.bufsize` is 16)."""
USER, NEW = "txn.user", "txn.new"
"""Variables: who asks, and that it is somebody who was given a name only now."""


def entered(entrance: Entrance) -> str:
    """Where the frontend listens, and what instances hear of how users came. The certificate lies beside this file."""
    lines = [f"bind {entrance.host}:{entrance.port}"]
    if tls := entrance.tls:
        lines += [
            f"bind {tls.host}:{tls.port} ssl crt {FILE} alpn http/1.1 ssl-min-ver TLSv1.2",
            "http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]",
        ]
    return indented(lines)


def refused(entrance: Entrance) -> list[str]:
    """What the frontend answers by itself: no server is asked, and so nothing of it counts for a release."""
    limits, lines = entrance.limits, list[str]()
    if limits.connections is not None:
        lines += [f"tcp-request connection reject if {{ fe_conn gt {limits.connections} }}"]
    if (rate := entrance.rate) is not None:
        period = f"{round(1000 * rate.seconds)}ms"
        lines += [
            f"stick-table type string len 128 size 100k expire {2 * rate.after}s store gpc0_rate({period})",
            "http-request set-var(txn.client) src",
            *(_by_header(rate.by) if isinstance(rate.by, Header) else ()),
            "http-request track-sc0 var(txn.client)",
            f"{_answer(429, 'Too many requests')} hdr Retry-After {rate.after} if {{ sc0_gpc0_rate ge {rate.requests} }}",
            "http-request sc-inc-gpc0(0)",  # what was refused does not count
        ]
    if limits.headers is not None:
        lines += [f"{_answer(431, 'Too large headers')} if {{ req.hdrs,length gt {1024 * limits.headers} }}"]
    if limits.body is not None:
        lines += [
            f"{_answer(413, 'Too large')} if {{ req.body_size gt {limits.body} }}",
            f"{_answer(411, 'Say how large it is')} if {{ req.hdr_cnt(transfer-encoding) gt 0 }}",
        ]
    return lines


def _by_header(header: Header) -> list[str]:
    found = f"req.fhdr({header.name})"
    # A hash is as long for a long value as for another, and no value can be made that is taken for somebody's address.
    return [f"http-request set-var(txn.client) {found},sha1,hex if {{ {found},length gt 0 }}"]


def _answer(status: int, text: str) -> str:
    return f'http-request return status {status} content-type text/plain string "{text}"'


def tuned(limits: RequestLimits) -> str:
    """Lines of the section `global`: headers have to fit into a buffer, beside the first line and what HAProxy adds."""
    headers = limits.headers or 0
    return indented([f"tune.bufsize {(headers + 4) * 1024}"] if headers > ROOM else [])


def timed(limits: RequestLimits) -> str:
    """Lines of the section `defaults`."""
    return indented([f"timeout http-request {round(1000 * limits.sending)}ms"] if limits.sending is not None else [])


def storing(cache: Cache | None) -> str:
    """The section of the cache."""
    if cache is None:
        return ""
    sizes = [f"total-max-size {cache.size}", f"max-object-size {cache.largest * 1024}"]
    return f"cache {CACHE}\n{indented([*sizes, f'max-age {cache.longest}', 'process-vary on'])}\n"


def cached(cache: Cache | None) -> list[str]:
    """Look first, then ask. The key has the release and the scheme in it, by a path that is there for that moment only.

    What was asked for one release is not kept when another one has the traffic by then.
    """
    if cache is None:
        return []
    look = f"str({VERSION}),map_str({VERSIONS},{NOBODY})"
    on = f"{{ var(txn.version) -m found }} !{{ var(txn.version) -m str {NOBODY} }}"
    own = "!{ srv_name -m beg spare }"  # not what a release answers in the place of this one (`Failover.WARM`)
    still = f"{on} {{ var(txn.version),strcmp(txn.by_now) eq 0 }} !{{ res.hdr(set-cookie) -m found }} {own}"
    return [
        f"http-request set-var(txn.version) {look} if {{ method GET }}",
        "http-request set-var(txn.asked) pathq",
        f"http-request set-pathq /%[var(txn.version)]/%[ssl_fc]%[pathq] if {on}",
        f"http-request cache-use {CACHE} if {on}",
        f"http-request set-pathq %[var(txn.asked)] if {on}",
        f"http-response set-var(txn.by_now) {look}",
        f"http-response cache-store {CACHE} if {still} {{ res.hdr(cache-control) -m reg -i {quoted(FRESH)} }}",
        f"http-response cache-store {CACHE} if {still} {{ res.hdr(expires) -m found }}",
    ]


def balanced(balance: Balance) -> str:
    """How a backend finds a server."""
    match balance:
        case RoundRobin():
            return indented(["balance roundrobin"])
        case LeastConnections():
            return indented(["balance random(2)"])
        case Hashing(key=key):
            found = fetched(key)
        case Sticky():
            found = f"var({USER})"
    return indented([f"balance hash {found}", "hash-type consistent sdbm avalanche"])


def recognised(balance: Balance) -> list[str]:
    """How the frontend tells users from each other, where they are to stay on an instance."""
    if not isinstance(balance, Sticky):
        return []
    lasts = f"; Max-Age={balance.lasts}" if balance.lasts else ""
    given = f"{balance.cookie}=%[var({NEW})]; Path=/; HttpOnly; SameSite=Lax{lasts}"
    without = f"if !{{ req.cook({balance.cookie}),length gt 0 }}"
    return [
        f"http-request set-var({USER}) req.cook({balance.cookie})",
        f"http-request set-var({NEW}) uuid {without}",
        f"http-request set-var({USER}) var({NEW}) {without}",
        f'http-response add-header Set-Cookie "{given}" if {{ var({NEW}) -m found }}',
    ]


def indented(lines: list[str]) -> str:
    return "".join(f"    {line}\n" for line in lines)
