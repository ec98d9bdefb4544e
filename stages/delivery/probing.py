"""Asking an instance whether it is well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import anyio

from pipeline import StageFailed
from pipeline.authorities import authorities
from stages.delivery.model import Address
from stages.delivery.probe import CommandProbe, GrpcProbe, HttpProbe, Probe, TcpProbe

Run = Callable[[tuple[str, ...]], Awaitable[tuple[int, bytes]]]
"""Runs a command where the instance is; its exit code and what it said. Leaves nothing when it is cancelled."""

MOST = 1 << 16
"""Bytes of an answer that are waited for."""


Ask = Callable[[], Awaitable[str | None]]
"""Asks one instance: why it is not well, or None."""


async def unready(asks: Iterable[Ask]) -> str | None:
    """Why the first that is not well is not, asked one after the other; None where all are."""
    for ask in asks:
        if (reason := await ask()) is not None:
            return reason
    return None


async def unable(asks: Iterable[Ask]) -> str | None:
    """Why none of those that are asked, all at once, is well; None as soon as one is."""
    reasons: list[str] = []
    well = False

    async with anyio.create_task_group() as tasks:

        async def ask(one: Ask) -> None:
            nonlocal well
            if (reason := await one()) is None:
                well = True
                tasks.cancel_scope.cancel()
            else:
                reasons.append(reason)

        for one in asks:
            tasks.start_soon(ask, one)
    return None if well else (reasons or ["none of its instances runs"])[0]


async def failure(probe: Probe, address: Address, run: Run) -> str | None:
    """Why the instance is not well, or None. What it says is quoted as it is, secrets and all."""
    with anyio.move_on_after(probe.within):
        match probe:
            case HttpProbe():
                return await _http(probe, address)
            case TcpProbe():
                return None if await accepts(address) else f"it does not listen on {address.summary()}"
            case GrpcProbe():
                return await _grpc(probe, address)
            case CommandProbe():
                code, said = await run(probe.command)
                return f"{probe} ends with {code}: {said.decode(errors='replace').strip()[-200:]}" if code else None
    return f"{probe} takes more than {probe.within:g} s"


async def accepts(address: Address) -> bool:
    """Whether anybody listens there: cheaper to find out than who does."""
    try:
        await (await anyio.connect_tcp(address.host, address.port)).aclose()
    except OSError:
        return False
    return True


async def _http(probe: HttpProbe, address: Address) -> str | None:
    import httpx

    url = address.url + probe.path
    async with httpx.AsyncClient(timeout=probe.within, trust_env=False, verify=authorities(url)) as client:
        try:
            async with client.stream("GET", url) as answer:
                said = await beginning(answer.aiter_bytes(), MOST)
        except httpx.HTTPError as error:
            return f"{url}: {type(error).__name__}"
    first, last = probe.statuses
    if first <= answer.status_code <= last:
        return None
    return f"{url} answers {answer.status_code}: {said.decode(errors='replace')[:2000]}"


async def beginning(pieces: AsyncIterator[bytes], most: int) -> bytes:
    """All that is said, or a little more than so many bytes: an answer may have no end."""
    said = bytearray()
    async for piece in pieces:
        said += piece
        if len(said) > most:
            break
    return bytes(said)


async def _grpc(probe: GrpcProbe, address: Address) -> str | None:
    try:
        import grpc
        from grpc_health.v1 import health_pb2
    except ImportError as error:
        raise StageFailed(
            "an instance is to be asked by gRPC, and the library for it is not here",
            right="grpcio-health-checking",
            next="pip install 'lockgate[grpc]'",
        ) from error
    method = "/grpc.health.v1.Health/Check"

    def ask() -> str | None:
        with grpc.insecure_channel(address.summary(), (("grpc.enable_http_proxy", 0),)) as channel:
            check = channel.unary_unary(
                method,
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                status = check(health_pb2.HealthCheckRequest(service=probe.service), timeout=probe.within).status
            except grpc.RpcError as error:
                code = error.code().name if isinstance(error, grpc.Call) else type(error).__name__
                return f"{probe} at {address.summary()}: {code}"
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
        return None if name == "SERVING" else f"{probe} at {address.summary()}: {name}"

    return await anyio.to_thread.run_sync(ask)
