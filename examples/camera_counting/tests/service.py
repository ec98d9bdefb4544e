"""Runs the application behind a real HTTP server inside the test process."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import httpx
import uvicorn

from camera_counting.app import create_app


@contextmanager
def serving(database_url: str) -> Generator[httpx.Client]:
    """A client of an application that counts into this database."""
    app = create_app(database_url, commit="0123abc")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
