"""All that can be said of an entrance, said at once."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from pipeline import Journal, Project, Store
from pipeline.engines.local import free_port
from stages.delivery.audience import Chosen, Cohort, Cookie
from stages.delivery.balance import Sticky
from stages.delivery.cache import Cache
from stages.delivery.envoy import Envoy
from stages.delivery.envoy_xds import clusters, listeners, routes
from stages.delivery.failover import Failover
from stages.delivery.haproxy import HAProxy, Slot, configuration
from stages.delivery.local import LocalTarget
from stages.delivery.rate import RateLimit
from stages.delivery.request_limits import RequestLimits
from stages.image import Image
from tests.running import run_pipeline
from tests.stages.delivery.bench import Make
from tests.stages.delivery.conftest import release, up
from tests.stages.delivery.load import Load
from tests.stages.delivery.papers import Authority, Files, fingerprint, shown
from tests.stages.delivery.small import delivery, deployment
from tests.stages.delivery.test_router import chatting, group, heard, upgraded
from tests.web import browser


def everything(make: Make) -> dict[str, Any]:
    """All options but TLS."""
    cache = {"cache": Cache()} if make(port=free_port()).called == "HAProxy" else {}
    return {
        "balance": Sticky(),
        "rate": RateLimit(requests=100_000),
        "limits": RequestLimits(body=10_000, headers=8, sending=20, connections=1000),
        "failover": Failover.WARM,
        **cache,
    }


def test_a_router_without_options_is_told_nothing_of_them() -> None:
    text = configuration(HAProxy(name="app", port=8080), "/ok", Path("/s"), Path("/p"), (Slot("g", "a:1", 256),))
    assert not re.findall(
        r"ssl|cache|stick|tune|backup|observe|hash|return|reject|set-var|http-request set|timeout http-request", text
    )
    assert text.count("balance roundrobin") == 3
    entrance, place = Envoy(name="app", port=8080), Path("/f")
    told = json.dumps([listeners(entrance, place), clusters(entrance, "/ok", place), routes(entrance, timeout=30, serves=True)])
    words = r"tls|ratelimit|buffer|cache|limit_|lb_policy|hash_policy|priorities|413|max_request_headers_kb|connection_limit"
    assert re.findall(words, told) == []
    assert json.loads(told)[0][0]["filter_chains"][0]["filters"][-1]["typed_config"]["request_headers_timeout"] == "60s"


def test_a_websocket_and_a_request_that_waits_go_on_with_all_of_it(make: Make) -> None:
    router = make(port=free_port(), **everything(make))
    asked, go = anyio.Event(), anyio.Event()

    async def main() -> None:
        polled: list[str] = []

        async def poll() -> None:
            async with browser(timeout=60) as client:
                polled.append((await client.get(f"{router.address.url}/poll")).text)

        async with contextlib.AsyncExitStack() as servers, anyio.create_task_group() as tasks:
            groups = {}
            for name in ("blue", "green"):
                server = await servers.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1"))
                groups[name] = group(name, server.extra(anyio.abc.SocketAttribute.local_port))
                tasks.start_soon(server.serve, chatting(name.encode(), asked, go))
            with anyio.fail_after(60):
                await router.split({"blue": 100}, groups)
                chat, answer = await upgraded(router)
                assert b" 101 " in answer.splitlines()[0]
                assert await heard(chat, b"one") == b"blue heard one"
                async with anyio.create_task_group() as users:
                    users.start_soon(poll)
                    await asked.wait()
                    await router.split({"green": 100}, groups)
                    assert await heard(chat, b"x" * 20_000) == b"blue heard " + b"x" * 20_000  # which is no body
                    go.set()
                await chat.aclose()
            tasks.cancel_scope.cancel()
        assert polled == ["blue"]

    anyio.run(main)


def test_a_deployment_with_all_of_it_is_planned_and_run(
    make: Make, project: Project, store: Store, journal: Journal, tmp_path: Path
) -> None:
    authority, port = Authority(), free_port()
    files = Files(tmp_path, free_port())
    files.write(authority.pair("localhost"))
    kind: type[HAProxy | Envoy] = HAProxy if make(port=port).called == "HAProxy" else Envoy
    router = kind(name="app", port=port, tls=files.tls, **everything(make))
    pipeline = delivery(replace(deployment(port, "one"), router=router), "one")
    assert run_pipeline(pipeline, project, store, journal)[0].failed == {}
    assert shown(files.port, authority.trusting) == fingerprint(files.read())


def test_no_request_is_lost_with_all_of_it_while_shares_audiences_and_certificates_change(
    target: LocalTarget, make: Make, image: Image, tmp_path: Path, posts: Path
) -> None:
    authority = Authority()
    files = Files(tmp_path, free_port())
    files.write(authority.pair("localhost"))
    router = make(port=free_port(), tls=files.tls, pair=files.read, **everything(make))

    async def main() -> tuple[Load, Load]:
        blue = await up(target, release(image, posts, version="blue", instances=2))
        green = await up(target, release(image, posts, version="green", instances=2))
        groups = {blue.name: blue, green.name: green}
        await router.split({blue.name: 100}, groups)
        chosen = Chosen(Cohort(Cookie("uid")), ((green.name, 50), (blue.name, 50)))
        with Load(router.config.port, keys="uid") as plain, Load(files.port, tls=authority.trusting) as secured:
            for number in range(30):
                if number % 3 == 2:
                    await router.split({blue.name: 100}, groups, chosen)
                else:
                    share = (0, 100, 50)[number // 3 % 3]
                    await router.split({blue.name: share, green.name: 100 - share}, groups)
                if number % 5 == 0:
                    pair = authority.pair("localhost")
                    files.write(pair)
                    await router.certify()
                    assert shown(files.port, authority.trusting) == fingerprint(pair)
                for load in (plain, secured):
                    await anyio.to_thread.run_sync(load.more, 4)
        return plain, secured

    plain, secured = anyio.run(main)
    assert plain.failures + secured.failures == []
    assert set(plain.answers) == set(secured.answers) == {"blue", "green"}
    assert sorted(posts.read_text().splitlines()) == sorted(plain.posted + secured.posted)
