"""Asking a running Envoy: its administration interface, on a socket that only its user can reach.

Format: Envoy's "Administration interface" (`/stats`, `/clusters`, `/config_dump`), JSON.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import anyio
from anyio import aclose_forcefully
from anyio.lowlevel import checkpoint

from pipeline import StageFailed
from stages.delivery.envoy_xds import CHOSEN, SERVICE, STATS, Part, assigned_parts
from stages.delivery.private import unanswered

if TYPE_CHECKING:
    import h11
    from anyio.abc import SocketStream

DROPPED = "server.dropped_stat_flushes"
"""How often figures were asked for before the workers had reported for who asked before."""

WITHIN = 5.0
"""Seconds in which Envoy has to answer."""


@dataclass(frozen=True)
class Host:
    """An instance as Envoy sees it. `asked` is whether it was ever asked if it is well; `active` are requests it has."""

    group: str
    address: str
    asked: bool
    well: bool
    active: int


@dataclass
class Admin:
    """The administration interface behind a socket, mostly for one who asks one thing after the other.

    By h11 alone: a switch waits for several answers, and a whole HTTP client takes longer over one than Envoy does.
    """

    socket: Path
    _kept: tuple[SocketStream, h11.Connection] | None = None
    """The connection, between two questions."""

    async def figures(self, pattern: str) -> dict[str, Any]:
        """Counters, gauges and texts whose names fit the regular expression (RE2)."""
        return (await self._stats(pattern))[0]

    async def traffic(self) -> tuple[Mapping[str, int], Mapping[str, list[dict[str, Any]]]]:
        """This library's own figures since Envoy started: counters, and the buckets of histograms."""
        return await self._stats(f"^{STATS}\\.")

    async def parts(self) -> dict[str, tuple[Part, ...]]:
        """The groups of each cluster and their shares."""
        dumped = await self._get("/config_dump", include_eds="", resource="dynamic_endpoint_configs")
        found = [one["endpoint_config"] for one in dumped.get("configs", [])]
        told = {one.get("cluster_name"): one for one in found}
        return {cluster: assigned_parts(told.get(cluster, {})) for cluster in (SERVICE, CHOSEN)}

    async def hosts(self) -> dict[str, list[Host]]:
        """The instances of all groups in each cluster."""
        told = await self._get("/clusters", format="json")
        return {cluster: hosts(told, cluster) for cluster in (SERVICE, CHOSEN)}

    async def everywhere(self) -> None:
        """Return once each worker of Envoy does as it was told before: Envoy passes on what it uses, and a worker may be busy.

        Whoever asks for figures has all workers report what they counted, which each does after what it was told earlier; who
        asks before all have reported has none report, and that is counted.
        """
        reported, before = 0, -1
        while reported < 2:  # the first has them report, the second finds that they have
            dropped = (await self.figures(f"^{re.escape(DROPPED)}$"))[DROPPED]
            reported = reported + 1 if dropped == before else 0
            before = dropped
            await checkpoint()

    async def _stats(self, pattern: str) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
        told = (await self._get("/stats", format="json", histogram_buckets="disjoint", filter=pattern))["stats"]
        plain = {one["name"]: one["value"] for one in told if "name" in one}
        histograms = [histogram for one in told for histogram in one.get("histograms", ())]
        return plain, {one["name"]: one["buckets"] for one in histograms}

    async def _get(self, path: str, **query: str) -> Any:
        """The JSON of an answer. Raises StageFailed."""
        import h11

        try:
            with anyio.fail_after(WITHIN):
                status, body = await self._asked(f"{path}?{urlencode(query)}")
        except (OSError, h11.ProtocolError, anyio.BrokenResourceError) as error:
            why = unanswered(error, WITHIN)
            raise StageFailed(f"Envoy does not answer: {why}", where=str(self.socket), right="an Envoy that runs") from error
        said = body[:200].decode(errors="replace").strip()
        if status != 200:
            raise StageFailed(f"Envoy answers {path} with {status}: {said}")
        try:
            return json.loads(body)
        except ValueError as error:
            raise StageFailed(f"Envoy answers {path} with what is no JSON: {said}", where=str(self.socket)) from error

    async def _asked(self, target: str) -> tuple[int, bytes]:
        """Status and body, over the connection that was kept; where that has ended meanwhile, over a new one."""
        import h11

        kept, self._kept = self._kept, None
        if kept is not None:
            with contextlib.suppress(_Ended):
                return await self._over(*kept, target)
        return await self._over(await anyio.connect_unix(str(self.socket)), h11.Connection(h11.CLIENT), target)

    async def _over(self, stream: SocketStream, http: h11.Connection, target: str) -> tuple[int, bytes]:
        """Status and body. The connection is kept for the next question when this one came to its end."""
        import h11

        status, body, keeps = 0, bytearray(), False
        try:
            ask = http.send(h11.Request(method="GET", target=target, headers=[("Host", "envoy")]))
            http.receive_data(await _begins(stream, (ask or b"") + (http.send(h11.EndOfMessage()) or b"")))
            while not isinstance(event := http.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    http.receive_data(await _more(stream))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += event.data
            keeps = self._kept is None and http.our_state is http.their_state is h11.DONE
            if keeps:  # of several that were asked at once, the first to answer
                http.start_next_cycle()
                self._kept = stream, http
        finally:
            if not keeps:
                await aclose_forcefully(stream)
        return status, bytes(body)

    async def close(self) -> None:
        if self._kept is not None:
            await aclose_forcefully(self._kept[0])
            self._kept = None


class _Ended(anyio.BrokenResourceError):
    """The connection ended before any of the answer was there."""


async def _begins(stream: SocketStream, question: bytes) -> bytes:
    """What comes first of an answer. Raises _Ended where nothing does."""
    try:
        await stream.send(question)
        return await stream.receive()
    except (anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise _Ended from error


async def _more(stream: SocketStream) -> bytes:
    """What comes next; nothing where that was the end, which h11 wants to be told."""
    try:
        return await stream.receive()
    except anyio.EndOfStream:
        return b""


@asynccontextmanager
async def admin(socket: Path) -> AsyncIterator[Admin]:
    found = Admin(socket)
    try:
        yield found
    finally:
        await found.close()


def hosts(told: dict[str, Any], cluster: str = SERVICE) -> list[Host]:
    """The instances of a cluster in what `/clusters` answers."""
    found: dict[str, Any] = next((one for one in told.get("cluster_statuses", ()) if one["name"] == cluster), {})
    return [_host(one) for one in found.get("host_statuses", ())]


def _host(told: dict[str, Any]) -> Host:
    figures = {one["name"]: int(one.get("value", 0)) for one in told["stats"]}
    health = told["health_status"]
    bad = ("failed_active_health_check", "failed_outlier_check", "pending_active_hc", "active_hc_timeout")
    place = told["address"]["socket_address"]
    return Host(
        group=told.get("locality", {}).get("zone", ""),
        address=f"{place['address']}:{place['port_value']}",
        asked=not health.get("pending_active_hc", False),
        well=not any(health.get(one) for one in bad),
        active=figures.get("rq_active", 0) + figures.get("rq_pending_active", 0),
    )


def ill(hosts: Sequence[Host], groups: Collection[str]) -> bool:
    """Whether all instances of the groups were asked, and none of those that there are is well."""
    found = [host for host in hosts if host.group in groups]
    return bool(found) and all(host.asked and not host.well for host in found)


def unwell(hosts: Sequence[Host], groups: Sequence[str]) -> list[str]:
    """Those of the groups that cannot be given traffic: an instance was not asked yet, or none is well."""
    waiting = {host.group for host in hosts if not host.asked}
    well = {host.group for host in hosts if host.well}
    return [group for group in groups if group in waiting or group not in well]
