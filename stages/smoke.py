"""Smoke checks: the first questions to a deployed service."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import anyio

from gates.probes import Probe, ProbeReport
from pipeline import Effect, Stage, Work
from pipeline.authorities import authorities
from stages.delivery.model import Served
from stages.delivery.probing import beginning

if TYPE_CHECKING:
    import httpx

LARGEST = 1 << 24
"""Bytes of an answer that are waited for."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A GET and what its answer must be: the status, and a text the body contains."""

    path: str
    status: int = 200
    contains: str = ""


class SmokeChecks(Stage[ProbeReport]):
    """Asks each request of the deployed service once, through the router. An answer that never comes is a failed probe."""

    effect: ClassVar[Effect] = Effect.RETRYABLE

    deployment: Stage[Served]
    requests: tuple[Request, ...]
    wait: float = 10.0
    """Seconds an answer may take."""

    async def run(self, work: Work) -> ProbeReport:
        import httpx

        url = work[self.deployment].address.url
        async with httpx.AsyncClient(base_url=url, timeout=self.wait, trust_env=False, verify=authorities(url)) as client:
            return ProbeReport(url=url, probes=tuple([await ask(client, request, self.wait) for request in self.requests]))


async def ask(client: httpx.AsyncClient, request: Request, wait: float) -> Probe:
    """Ask once; what the answer says of the request, that has to be there whole after so many seconds."""
    import httpx

    started, missing = time.monotonic(), "beginning"
    try:
        with anyio.fail_after(wait):
            async with client.stream("GET", request.path) as answer:
                missing = "end"
                body = await beginning(answer.aiter_bytes(), LARGEST)
        passed, said = judged(request, answer.status_code, text(body, answer.charset_encoding))
    except httpx.HTTPError as error:
        passed, said = False, f"{type(error).__name__}: {error}"
    except TimeoutError:
        passed, said = False, f"the answer had no {missing} after {wait:g} s"
    return Probe(name=f"GET {request.path}", passed=passed, said=said, milliseconds=round(1000 * (time.monotonic() - started), 3))


def text(body: bytes, charset: str | None) -> str:
    """What an answer says, by the character set that it names, if it is one and can be read by it."""
    try:
        return body.decode(charset or "utf-8", errors="replace")
    except (LookupError, ValueError):  # some know no replacement, as "idna" and "punycode"
        return body.decode(errors="replace")


def judged(request: Request, status: int, body: str) -> tuple[bool, str]:
    """Whether an answer is the one that was wanted, and a sentence on it."""
    if status != request.status:
        return False, f"answered {status}, wanted {request.status}: {body.strip()[:200]}"
    if request.contains and request.contains not in body:
        return False, f"the answer does not contain {request.contains!r}: {body.strip()[:200]}"
    return True, f"answered {status}"
