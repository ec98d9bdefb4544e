"""What Envoy is told, as data: its bootstrap and the four files by which it can be told something else while it runs.

One cluster has the instances of all groups; the groups are its localities, and their shares the weights of these. So a
split is one file that Envoy takes as a whole, each share is met by turns and not by chance, and a request that one group
failed can be tried again on another one. Retried is what never reached an instance; what may have been begun, only where that
changes nothing (RFC 9110, idempotent methods). Each request has a connection to its instance of its own, as on a kept one
nobody can tell whether the instance was still there to process it.
API: Envoy's v3 xDS, JSON mapping; files that are replaced by rename (`watched_directory`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.digest import of_text
from stages.delivery.audience import BUCKETS
from stages.delivery.entrance import Entrance
from stages.delivery.envoy_audience import CLIENT, Rule
from stages.delivery.envoy_entrance import TYPE, balanced, connected, filters, keyed, managed, too_large
from stages.delivery.failover import Failover
from stages.delivery.model import Address, Group
from stages.delivery.probe import AGAIN, HttpProbe, Ready, probe
from stages.delivery.router import BOUNDS
from stages.delivery.tls import Pair

Message = dict[str, Any]
"""A message of Envoy's API as JSON."""

SERVICE = "service"
CHOSEN = "chosen"
"""The cluster of those in an audience; of a cohort, of those that are picked from it."""
COPIES = "copies"
"""The cluster that gets copies of requests."""
SPARE = 1
"""The priority of those that serve when nobody is well who has a share."""
IDLE = {"health_status": "DRAINING"}
"""How an instance gets nothing new, and answers what it has. Envoy goes on asking whether it is well.

To have no weight is not enough: when nobody is well who has one, Envoy gives requests to whoever is well.
"""
LAST = 1_000_000
"""Percent by which more could be served than is, so that the last instance that is well serves all (overprovisioning)."""
LEAVING = "leaving"
"""The part of a group's locality whose instances get nothing new, and answer what they have."""
PUBLIC = "public"
SECURED = "secured"
"""The listener for HTTPS."""
SHOWN = "certificate"
"""The name under which Envoy asks for the certificate."""
ROUTES = "routes"
STATS = "lockgate"
"""What the names of the figures that this library has Envoy count begin with."""
INSIDE, OUTSIDE = "in", "out"
"""How requests of an audience and those of everybody else are told apart where they are counted."""

SAFE = "GET|HEAD|OPTIONS"
REPEATABLE = "TRACE|PUT|DELETE"

LONGER = 1e9
"""Milliseconds: what took longer than all bounds is counted up to here."""


@dataclass(frozen=True)
class Part:
    """A group as Envoy knows it: where its instances are (`host:port`), its share in percent, and those that get none of it.

    One without a share that is `spare` serves when nobody is well who has one.
    """

    group: str
    addresses: tuple[str, ...]
    share: int = 0
    leaving: tuple[str, ...] = ()
    spare: bool = False


@dataclass(frozen=True)
class File:
    """One of the files that Envoy watches, and the name under which it tells which version of it it has."""

    name: str
    stat: str
    mode: int = 0o666
    """As for open(2)."""

    @property
    def taken(self) -> str:
        """The text that tells which version Envoy has."""
        return f"{self.stat}.version_text"

    @property
    def refused(self) -> str:
        """The counter of versions that Envoy did not take."""
        return f"{self.stat}.update_rejected"

    def content(self, *resources: Message) -> bytes:
        """The file's content; its version is the digest of what it says."""
        said = json.dumps(resources)
        return f'{{"version_info": "{of_text(said)[:16]}", "resources": {said}}}\n'.encode()


LISTENERS = File("listeners.json", "listener_manager.lds")
CLUSTERS = File("clusters.json", "cluster_manager.cds")
ROUTING = File("routes.json", f"http.{PUBLIC}.rds.{ROUTES}")
SPLIT = File("split.json", f"cluster.{SERVICE}")
PICKED = File("chosen.json", f"cluster.{CHOSEN}")
MIRROR = File("mirror.json", f"cluster.{COPIES}")
CERTIFICATE = File("certificate.json", f"sds.{SHOWN}", 0o600)


def version(content: bytes) -> str:
    found: str = json.loads(content)["version_info"]
    return found


def parts(content: bytes) -> tuple[Part, ...]:
    """The groups in a file of splits. Raises ValueError, TypeError or LookupError for anything else."""
    (resource,) = json.loads(content)["resources"]
    return assigned_parts(resource)


def assigned_parts(assignment: Message) -> tuple[Part, ...]:
    """The groups of a ClusterLoadAssignment, as a file has it and as Envoy tells it."""
    found: dict[str, Part] = {}
    for locality in assignment.get("endpoints", []):
        group, leaves = locality["locality"]["zone"], bool(locality["locality"].get("sub_zone"))
        addresses = tuple(_written(one["endpoint"]["address"]["socket_address"]) for one in locality["lb_endpoints"])
        part = found.get(group, Part(group, ()))
        share, spare = int(locality.get("load_balancing_weight", 0)), locality.get("priority", 0) == SPARE
        if leaves:
            found[group] = replace(part, leaving=addresses)
        else:
            found[group] = replace(part, addresses=addresses, share=0 if spare else share, spare=spare)
    return tuple(found.values())


def shares(parts: Sequence[Part]) -> dict[str, int]:
    """Each group's share of all, in percent."""
    total = sum(part.share for part in parts)
    return {part.group: round(100 * part.share / total) if total else 0 for part in parts}


def wanted_parts(weights: Mapping[str, int], groups: Mapping[str, Group]) -> tuple[Part, ...]:
    """Every group that runs, with its share."""
    return tuple(
        Part(name, _summaries(groups[name].staying), weights.get(name, 0), _summaries(groups[name].leaving))
        for name in sorted(groups)
        if groups[name].instances
    )


def widened(before: Sequence[Part], after: Sequence[Part]) -> tuple[Part, ...]:
    """The split as it is, and beside it without a share whatever is new in the next one: Envoy looks first who is well."""
    old, new = {part.group: part for part in before}, {part.group: part for part in after}
    found = []
    for name in sorted(old | new):
        was, will = old.get(name, Part(name, ())), new.get(name, Part(name, ()))
        leaving = set(was.leaving) - set(will.addresses)  # what had no new request gets none now
        addresses = {*was.addresses, *will.addresses, *will.leaving} - leaving
        found.append(Part(name, tuple(sorted(addresses)), was.share, tuple(sorted(leaving)), was.spare))
    return tuple(found)


def warmed(before: Sequence[Part], after: Sequence[Part]) -> tuple[Part, ...]:
    """The same split, in which those are spare that had a share before, or were spare already; none while nobody is to serve."""
    if not any(part.share for part in after):
        return tuple(after)
    had = {part.group for part in before if part.share or part.spare}
    return tuple(replace(part, spare=not part.share and part.group in had and bool(part.addresses)) for part in after)


def _summaries(addresses: Iterable[Address]) -> tuple[str, ...]:
    return tuple(sorted(address.summary() for address in addresses))


def assignment(parts: Iterable[Part], cluster: str = SERVICE) -> Message:
    """Where the instances of each group are, and its share. Without one, a group gets nothing new, whoever is ill, and keeps what
    it has.

    Where there are spare ones, they serve when nobody is well of those before them, and not as soon as only some are ill.
    """
    parts = tuple(parts)
    spared = any(part.spare for part in parts)
    return {
        "@type": f"{TYPE}config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster,
        "endpoints": [
            {
                "locality": {"zone": part.group, **({"sub_zone": LEAVING} if leaves else {})},
                **_weighed(part, leaves=leaves),
                **({"priority": SPARE} if part.spare and not leaves else {}),
                "lb_endpoints": [
                    {
                        "endpoint": {"address": _address(*_split(address))},
                        "metadata": {"filter_metadata": {STATS: {"group": part.group}}},
                        **({} if _serves(part, leaves=leaves) else IDLE),
                    }
                    for address in addresses
                ],
            }
            for part in parts
            for leaves, addresses in ((False, part.addresses), (True, part.leaving))
            if addresses
        ],
        **({"policy": {"overprovisioning_factor": LAST}} if spared else {}),
    }


def _weighed(part: Part, *, leaves: bool) -> Message:
    return {"load_balancing_weight": int(part.spare) or part.share} if _serves(part, leaves=leaves) else {}


def _serves(part: Part, *, leaves: bool) -> bool:
    return bool(part.share or part.spare) and not leaves


def copies_to(address: Address | None) -> Message:
    """Where copies go."""
    place = [{"lb_endpoints": [{"endpoint": {"address": _address(address.host, address.port)}}]}] if address else []
    return {
        "@type": f"{TYPE}config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": COPIES,
        "endpoints": place,
    }


def routes(entrance: Entrance, *, timeout: float, serves: bool, copied: int = 0, rule: Rule | None = None) -> Message:
    """All requests to whoever serves, else to the router's page; `copied` percent of the safe ones go to who gets copies too.

    Those of an audience are matched first.
    """
    limits = {"timeout": "0s", "idle_timeout": f"{timeout:g}s", **keyed(entrance.balance)}
    once = {"cluster": SERVICE, **limits, "retry_policy": _retried("reset-before-request", entrance.failover)}
    again = {**once, "retry_policy": _retried("reset", entrance.failover)}
    share = {"numerator": copied, "denominator": "HUNDRED"}
    mirrored = {
        "request_mirror_policies": [
            {"cluster": COPIES, "runtime_fraction": {"default_value": share}, "disable_shadow_host_suffix_append": True}
        ]
    }
    safe = {**again, **(mirrored if copied else {})}
    nobody = [{"match": {"prefix": "/"}, "direct_response": {"status": 503}}]
    somebody = [
        {"match": {"prefix": "/", "headers": [_method(SAFE)]}, "route": safe},
        {"match": {"prefix": "/", "headers": [_method(REPEATABLE)]}, "route": again},
        {"match": {"prefix": "/"}, "route": once},
    ]
    members = [_of_audience(route, rule) for route in somebody] if rule else []
    others = [{**route, "metadata": _counted_as(OUTSIDE)} for route in somebody]
    found = [*too_large(entrance.limits), *members, *others]
    return {
        "@type": f"{TYPE}config.route.v3.RouteConfiguration",
        "name": ROUTES,
        "request_headers_to_remove": ["x-envoy-external-address"],
        "virtual_hosts": [{"name": PUBLIC, "domains": ["*"], "routes": found if serves else nobody}],
    }


def _of_audience(route: Message, rule: Rule) -> Message:
    """The same for who is in an audience. Of a cohort, the buckets below its share are picked: so it grows."""
    match = {**route["match"], **rule.match, "headers": [*route["match"].get("headers", ()), *rule.match.get("headers", ())]}
    action = {name: value for name, value in route["route"].items() if name != "cluster"}
    if rule.key is None:
        place: Message = {"cluster": CHOSEN}
    else:
        sides = [{"name": CHOSEN, "weight": rule.share}, {"name": SERVICE, "weight": BUCKETS - rule.share}]
        place = {"hash_policy": [rule.key], "weighted_clusters": {"use_hash_policy": True, "clusters": sides}}
    return {"match": match, "route": {**action, **place}, "metadata": _counted_as(INSIDE)}


def by_hash(routes: bytes) -> bool:
    """Whether a file of routes has a cohort, so that the rest of the audience is served as everybody else."""
    (resource,) = json.loads(routes)["resources"]
    return any("weighted_clusters" in one.get("route", {}) for host in resource["virtual_hosts"] for one in host["routes"])


def _counted_as(side: str) -> Message:
    return {"filter_metadata": {STATS: {"audience": side}}}


def listeners(entrance: Entrance, files: Path) -> tuple[Message, ...]:
    """Where users come in: by HTTP, and by HTTPS where there is a certificate."""
    plain = listener(entrance, entrance.host, entrance.port, files)
    if (tls := entrance.tls) is None:
        return (plain,)
    secured = listener(entrance, tls.host, tls.port, files)
    (chain,) = secured["filter_chains"]
    shown = {"name": SHOWN, "sds_config": _watched(files, CERTIFICATE)}
    context = {
        "@type": f"{TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [shown],
            "alpn_protocols": ["http/1.1"],
        },
    }
    ends = {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}
    return plain, {**secured, "name": SECURED, "filter_chains": [{**chain, **ends}]}


def certificate(pair: Pair) -> Message:
    """The certificate that is shown, and its key."""
    return {
        "@type": f"{TYPE}extensions.transport_sockets.tls.v3.Secret",
        "name": SHOWN,
        "tls_certificate": {
            "certificate_chain": {"inline_string": pair.chain.decode()},
            "private_key": {"inline_string": pair.key.decode()},
        },
    }


def listener(entrance: Entrance, host: str, port: int, files: Path) -> Message:
    """Where users come in. Who they are is told in `x-forwarded-for`; nothing they say is taken for an order to Envoy."""
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": f"{TYPE}extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": True,
            "upstream_log": _counted(),
        },
    }
    upgraded = filters(entrance, upgraded=True)
    manager = {
        "@type": f"{TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": PUBLIC,
        "rds": {"route_config_name": ROUTES, "config_source": _watched(files, ROUTING)},
        "http_filters": [*filters(entrance), router],
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},  # nobody
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": "60s",
        "request_headers_timeout": "60s",
        "common_http_protocol_options": {"idle_timeout": "30s"},
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": f"{host}:{port}"},
        "upgrade_configs": [{"upgrade_type": "websocket", **({"filters": [*upgraded, router]} if entrance.limits.body else {})}],
        "local_reply_config": {"mappers": [_page(entrance.maintenance)]},
        **managed(entrance.limits),
    }
    come_from = {
        "object_key": CLIENT,
        "factory_key": "envoy.network.ip",
        "format_string": {"text_format_source": {"inline_string": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"}},
    }
    remember = {"@type": f"{TYPE}extensions.filters.network.set_filter_state.v3.Config", "on_new_connection": [come_from]}
    chain = [
        *connected(entrance.limits),
        {"name": "envoy.filters.network.set_filter_state", "typed_config": remember},
        {"name": "envoy.http", "typed_config": manager},
    ]
    return {
        "@type": f"{TYPE}config.listener.v3.Listener",
        "name": PUBLIC,
        "address": _address(host, port),
        "enable_reuse_port": False,  # or another Envoy could share the port, and nobody would notice
        "filter_chains": [{"filters": chain}],
    }


ANY = [{"start": 100, "end": 600}]
"""All statuses."""


def health_check(ready: Ready) -> Message:
    """How Envoy sees who can serve: by HTTP where instances say so by HTTP, else by a connection that is accepted."""
    asked = probe(ready)
    # A cluster that takes the place of another one is used after as many answers as it has instances. Who was quick is not to
    # be asked twice before who is slow has answered once, or that one gets no traffic though it is well.
    often = f"{asked.seldom:g}s"
    how: Message = {"tcp_health_check": {}}
    if isinstance(asked, HttpProbe):
        first, last = asked.statuses
        expected = [{"start": first, "end": last + 1}]
        # else one bad answer were enough, however many failures it takes
        how = {"http_health_check": {"path": asked.path, "expected_statuses": expected, "retriable_statuses": ANY}}
    return {
        "timeout": f"{asked.within:g}s",
        "reuse_connection": False,  # a kept one would hold up an instance that is asked to end
        "interval": often,
        "no_traffic_interval": often,
        "unhealthy_interval": f"{asked.within + AGAIN:g}s",
        "unhealthy_edge_interval": f"{AGAIN:g}s",
        "unhealthy_threshold": asked.failures,
        "healthy_threshold": 1,
        **how,
    }


def clusters(entrance: Entrance, ready: Ready, files: Path) -> tuple[Message, ...]:
    """Who serves, and who is there for an audience, asked by `ready`; and who gets copies."""
    most = {"max_connections": 1 << 20, "max_pending_requests": 1 << 20, "max_requests": 1 << 20, "max_retries": 1 << 20}
    one_request = {
        f"{TYPE.removeprefix('type.googleapis.com/')}extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{TYPE}extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"max_requests_per_connection": 1},
            "explicit_http_config": {"http_protocol_options": {}},
        }
    }
    common = {
        "@type": f"{TYPE}config.cluster.v3.Cluster",
        "type": "EDS",
        "connect_timeout": "2s",
        "circuit_breakers": {"thresholds": [most]},
        "typed_extension_protocol_options": one_request,
    }
    service = {
        **common,
        **balanced(entrance.balance),
        "name": SERVICE,
        "eds_cluster_config": {"eds_config": _watched(files, SPLIT)},
        "ignore_health_on_host_removal": True,
        "common_lb_config": {
            "locality_weighted_lb_config": {},
            "healthy_panic_threshold": {"value": 0},
            "ignore_new_hosts_until_first_hc": True,  # else one that was not asked yet passes for one that is ill
            "update_merge_window": "0s",  # else a share that changes soon after another one did is passed on a second later
        },
        "health_checks": [health_check(ready)],
        "outlier_detection": {
            # only who cannot be reached: who answers with errors is for the judge to see
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 5,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "interval": "1s",
            "base_ejection_time": "1s",
            "max_ejection_percent": 50,
        },
    }
    chosen = {**service, "name": CHOSEN, "eds_cluster_config": {"eds_config": _watched(files, PICKED)}}
    return service, chosen, {**common, "name": COPIES, "eds_cluster_config": {"eds_config": _watched(files, MIRROR)}}


def bootstrap(admin: Path, files: Path) -> Message:
    """What Envoy is started with: where it is asked, and where the files are that say the rest."""
    return {
        "node": {"id": "lockgate", "cluster": "lockgate"},
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "dynamic_resources": {"lds_config": _watched(files, LISTENERS), "cds_config": _watched(files, CLUSTERS)},
        "stats_flush_on_admin": True,  # histograms of the workers are put together whenever figures are asked for
        "stats_config": {"histogram_bucket_settings": [{"match": {"prefix": STATS}, "buckets": [*BOUNDS, LONGER]}]},
    }


def _watched(files: Path, file: File) -> Message:
    """A file that is read again when it is replaced."""
    source = {"path": str(files / file.name), "watched_directory": {"path": str(files)}}
    return {"resource_api_version": "V3", "path_config_source": source, "initial_fetch_timeout": "10s"}


def _counted() -> list[Message]:
    """Each try of a request: how many of which group with which status, and how long those took that did not fail."""
    group = {"name": "group", "value_format": f"%METADATA(UPSTREAM_HOST:{STATS}:group)%"}
    side = {"name": "audience", "value_format": f"%METADATA(ROUTE:{STATS}:audience)%"}
    status = {"name": "status", "value_format": "%RESPONSE_CODE%"}
    tries = {"stat": {"name": "tries", "tags": [group, side, status]}, "value_fixed": 1}
    took = {"stat": {"name": "took", "tags": [group, side]}, "unit": "Milliseconds", "value_format": "%DURATION%"}
    answered = {"and_filter": {"filters": [_status("GE", 100), _status("LE", 499)]}}
    config = {"@type": f"{TYPE}extensions.access_loggers.stats.v3.Config", "stats_scope": {"prefix": STATS}}
    name = "envoy.access_loggers.stats"
    return [
        {"name": name, "typed_config": {**config, "counters": [tries]}},
        {"name": name, "filter": answered, "typed_config": {**config, "histograms": [took]}},
    ]


def _status(comparison: str, status: int) -> Message:
    value = {"default_value": status, "runtime_key": f"{STATS}.none"}
    return {"status_code_filter": {"comparison": {"op": comparison, "value": value}}}


def _page(page: str) -> Message:
    """Envoy's own answers of 503 are the page."""
    return {
        "filter": _status("EQ", 503),
        "headers_to_add": [{"header": {"key": "retry-after", "value": "5"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
        "body_format_override": {
            "text_format_source": {"inline_string": page.replace("%", "%%")},
            "content_type": "text/html; charset=utf-8",
        },
    }


def _retried(on: str, failover: Failover) -> Message:
    """On another instance, where there is one; a request that reached no instance in any case.

    Who is spare is asked after two that failed.
    """
    spare = {
        "@type": f"{TYPE}extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        "update_frequency": 2,
    }
    next_rank = {"retry_priority": {"name": "envoy.retry_priorities.previous_priorities", "typed_config": spare}}
    return {
        **(next_rank if failover is Failover.WARM else {}),
        "retry_on": f"connect-failure,refused-stream,{on}",
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.1s"},
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": f"{TYPE}extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        "host_selection_retry_max_attempts": 10,
    }


def _method(names: str) -> Message:
    return {"name": ":method", "string_match": {"safe_regex": {"regex": names}}}


def _address(host: str, port: int) -> Message:
    return {"socket_address": {"address": host, "port_value": port}}


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _written(address: Message) -> str:
    return f"{address['address']}:{address['port_value']}"
