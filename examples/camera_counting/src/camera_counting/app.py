"""The HTTP interface."""

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import TypeVar

import psycopg
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from psycopg_pool import ConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from camera_counting import page, schema
from camera_counting.camera import Camera, CameraError, PersonSize, check_id
from camera_counting.counter import Counter
from camera_counting.counts import Counts, Pool, UnknownCameraError
from camera_counting.frame import MAX_BYTES, ImageError, ImageTooLargeError
from camera_counting.metrics import Metrics

T = TypeVar("T")

# Seconds to wait for a connection: a frame is worth a retry, a probe wants an answer.
_DATABASE_TIMEOUT = 2.0
_PROBE_TIMEOUT = 1.0

_MAX_FRAME_ID = 128


class RequestError(ValueError):
    """A parameter or header of the request is missing or wrong."""


# What an error of this kind is called in the metrics, and its HTTP status.
# The first match counts.
_ERRORS: tuple[tuple[type[Exception], str, int], ...] = (
    (RequestError, "request", 422),
    (ImageTooLargeError, "too_large", 413),
    (ImageError, "image", 422),
    (CameraError, "camera", 422),
    (UnknownCameraError, "unknown_camera", 404),
    (psycopg.OperationalError, "database", 503),
)


class Endpoints:
    """The request handlers and what they share."""

    def __init__(self, pool: Pool, commit: str) -> None:
        self._pool = pool
        self._counts = Counts(pool)
        self._counter = Counter(self._counts)
        self._metrics = Metrics()
        self._version = {"version": version("camera-counting"), "commit": commit}
        self._page = page.render(page.STATIC)
        # Image work is bound by the CPU, and more threads than cores would only queue
        # in memory. Probes and totals run elsewhere and never wait behind frames.
        self._workers = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="frames")

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncGenerator[None, None]:
        # Does not wait: without a database the service starts and reports not ready.
        self._pool.open()
        try:
            yield
        finally:
            self._workers.shutdown()
            self._pool.close()

    async def put_background(self, request: Request) -> Response:
        """Store the reference image of a camera and the size of a person in it."""
        size = PersonSize(_pixels(request, "person_width"), _pixels(request, "person_height"))
        camera = Camera(request.path_params["id"], size, await _body(request))
        await self._work(partial(self._counter.learn, camera))
        return Response(status_code=204)

    async def post_frame(self, request: Request) -> Response:
        """Count the people in a frame."""
        camera_id: str = request.path_params["id"]
        check_id(camera_id)
        # Without a name every frame is a new one.
        frame_id = request.headers.get("X-Frame-Id") or uuid.uuid4().hex
        if len(frame_id) > _MAX_FRAME_ID:
            raise RequestError(f"X-Frame-Id is longer than {_MAX_FRAME_ID} characters")
        image = await _body(request)
        with self._metrics.frame_seconds.time():
            boxes, recorded = await self._work(
                partial(self._counter.count, camera_id, frame_id, image)
            )
        if not recorded.repeated:
            self._metrics.frames.labels(camera_id).inc()
            self._metrics.people.labels(camera_id).inc(len(boxes))
        return JSONResponse(
            {
                "frame": frame_id,
                "count": len(boxes),
                "boxes": [asdict(box) for box in boxes],
                "total": recorded.total,
                "repeated": recorded.repeated,
            }
        )

    def get_cameras(self, _: Request) -> Response:
        """Totals of all cameras."""
        cameras = [
            {
                "id": each.id,
                "frames": each.frames,
                "total": each.total,
                "last_count": each.last_count,
                "last_frame_at": each.last_frame_at and each.last_frame_at.isoformat(),
            }
            for each in self._counts.totals()
        ]
        return JSONResponse({"cameras": cameras}, headers={"Cache-Control": "no-store"})

    async def get_healthz(self, _: Request) -> Response:
        """The process is alive and its event loop turns."""
        return JSONResponse({"status": "alive"})

    def get_readyz(self, _: Request) -> Response:
        """The database answers and has the schema this version needs."""
        try:
            schema.check(self._pool, _PROBE_TIMEOUT)
        except schema.SchemaError as error:
            return JSONResponse({"status": "not ready", "reason": str(error)}, 503)
        except psycopg.Error as error:
            return JSONResponse({"status": "not ready", "reason": f"database: {error}"}, 503)
        return JSONResponse({"status": "ready"})

    def get_metrics(self, _: Request) -> Response:
        """Metrics in the Prometheus text format."""
        return PlainTextResponse(self._metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def get_version(self, _: Request) -> Response:
        """Version of the package and the commit it was built from."""
        return JSONResponse(self._version)

    async def get_page(self, _: Request) -> Response:
        """The live page."""
        return HTMLResponse(
            self._page,
            headers={
                "Cache-Control": "no-cache",
                "Content-Security-Policy": "default-src 'self'",
            },
        )

    async def refuse(self, _: Request, error: Exception) -> Response:
        """Answer a known error with its status and one line of JSON."""
        reason, status = next(
            (reason, status) for kind, reason, status in _ERRORS if isinstance(error, kind)
        )
        self._metrics.errors.labels(reason).inc()
        return JSONResponse({"error": f"{reason}: {error}"}, status)

    async def _work(self, task: Callable[[], T]) -> T:
        """Run image work in a thread of its own, away from the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, task)


def create_app(database_url: str, commit: str) -> Starlette:
    """The application, counting into the database at this URL."""
    pool: Pool = ConnectionPool(
        database_url,
        min_size=1,
        max_size=8,
        open=False,
        timeout=_DATABASE_TIMEOUT,
        # Longer backoff would keep the service down after the database is back.
        reconnect_timeout=_DATABASE_TIMEOUT,
        # A connection that died with a database restart is replaced, not handed out.
        check=ConnectionPool.check_connection,
    )
    endpoints = Endpoints(pool, commit)
    return Starlette(
        routes=[
            Route("/cameras/{id}/background", endpoints.put_background, methods=["PUT"]),
            Route("/cameras/{id}/frames", endpoints.post_frame, methods=["POST"]),
            Route("/cameras", endpoints.get_cameras),
            Route("/healthz", endpoints.get_healthz),
            Route("/readyz", endpoints.get_readyz),
            Route("/metrics", endpoints.get_metrics),
            Route("/version", endpoints.get_version),
            Route("/", endpoints.get_page),
            Mount("/static", page.Assets(page.STATIC)),
        ],
        exception_handlers={kind: endpoints.refuse for kind, _, _ in _ERRORS},
        lifespan=endpoints.lifespan,
    )


def _pixels(request: Request, name: str) -> int:
    """A query parameter that is a number of pixels."""
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise RequestError(f"query parameter {name} must be a number of pixels")
    return int(text)


async def _body(request: Request) -> bytes:
    """The request body, refused as soon as it is too large."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BYTES:
            raise ImageTooLargeError(f"image is larger than {MAX_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)
