"""Asking a running Envoy: its administration interface, on a socket that only its user can reach.

Format: Envoy's "Administration interface" (`/stats`, `/clusters`, `/config_dump`), JSON.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import checkpoint

from pipeline import StageFailed
from pipeline.authorities import authorities
from stages.delivery.envoy_xds import CHOSEN, SERVICE, STATS, Part, assigned_parts

if TYPE_CHECKING:
    import httpx

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


@dataclass(frozen=True)
class Admin:
    """The administration interface behind a socket."""

    client: httpx.AsyncClient

    async def figures(self, pattern: str) -> dict[str, Any]:
        """Counters, gauges and texts whose names fit the regular expression (RE2)."""
        return (await self._stats(pattern))[0]

    async def traffic(self) -> tuple[Mapping[str, int], Mapping[str, list[dict[str, Any]]]]:
        """This library's own figures since Envoy started: counters, and the buckets of histograms."""
        return await self._stats(f"^{STATS}\\.")

    async def parts(self) -> dict[str, tuple[Part, ...]]:
        """The groups of each cluster and their shares."""
        dumped = (await self._get("/config_dump", include_eds="", resource="dynamic_endpoint_configs")).json()
        found = [one["endpoint_config"] for one in dumped.get("configs", [])]
        told = {one.get("cluster_name"): one for one in found}
        return {cluster: assigned_parts(told.get(cluster, {})) for cluster in (SERVICE, CHOSEN)}

    async def hosts(self) -> dict[str, list[Host]]:
        """The instances of all groups in each cluster."""
        told = (await self._get("/clusters", format="json")).json()
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
        told = (await self._get("/stats", format="json", histogram_buckets="disjoint", filter=pattern)).json()["stats"]
        plain = {one["name"]: one["value"] for one in told if "name" in one}
        histograms = [histogram for one in told for histogram in one.get("histograms", ())]
        return plain, {one["name"]: one["buckets"] for one in histograms}

    async def _get(self, path: str, **query: str) -> httpx.Response:
        import httpx

        try:
            answer = await self.client.get(path, params=query)
        except httpx.HTTPError as error:
            raise StageFailed(f"Envoy does not answer: {type(error).__name__}: {error}", right="an Envoy that runs") from error
        if answer.status_code != 200:
            raise StageFailed(f"Envoy answers {path} with {answer.status_code}: {answer.text[:200].strip()}")
        return answer


@asynccontextmanager
async def admin(socket: Path) -> AsyncIterator[Admin]:
    import httpx

    url = "http://envoy"
    transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=authorities(url))
    async with httpx.AsyncClient(transport=transport, base_url=url, timeout=WITHIN, trust_env=False) as client:
        yield Admin(client)


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


def unwell(hosts: Sequence[Host], groups: Sequence[str]) -> list[str]:
    """Those of the groups that cannot be given traffic: an instance was not asked yet, or none is well."""
    waiting = {host.group for host in hosts if not host.asked}
    well = {host.group for host in hosts if host.well}
    return [group for group in groups if group in waiting or group not in well]
