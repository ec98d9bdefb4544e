"""Countries as networks, from a MaxMind database (GeoLite2, GeoIP2, or another of their format with `country`)."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from pipeline import StageFailed
from stages.delivery.audience import Chosen, Region


def resolved(chosen: Chosen | None) -> Chosen | None:
    """The audience with the networks of its countries, where it has any. Raises StageFailed."""
    if chosen is None or not isinstance(chosen.audience, Region) or chosen.audience.database is None:
        return chosen
    region = chosen.audience
    return replace(chosen, audience=replace(region, networks=(*region.networks, *networks(region.database, region.countries))))


def networks(database: Path | None, countries: Collection[str]) -> tuple[str, ...]:
    """The networks (CIDR) whose country is one of these, as few as say it. Raises StageFailed."""
    import maxminddb

    found: dict[str, list[ipaddress.IPv4Network | ipaddress.IPv6Network]] = {code: [] for code in countries}
    try:
        with maxminddb.open_database(str(database)) as reader:
            for network, record in reader:
                code = _country(record)
                if code in found:
                    found[code].append(network)
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        raise StageFailed(
            f"the database of countries cannot be read: {error}", where=str(database), right="an .mmdb file"
        ) from error
    if missing := sorted(code for code, where in found.items() if not where):
        raise StageFailed(f"the database knows no network in {', '.join(missing)}", where=str(database), right="another country")
    every = [network for where in found.values() for network in where]
    four = ipaddress.collapse_addresses(one for one in every if isinstance(one, ipaddress.IPv4Network))
    six = ipaddress.collapse_addresses(one for one in every if isinstance(one, ipaddress.IPv6Network))
    return (*map(str, four), *map(str, six))


def _country(record: object) -> str:
    country = record.get("country") if isinstance(record, dict) else None
    code = country.get("iso_code") if isinstance(country, dict) else None
    return code if isinstance(code, str) else ""
