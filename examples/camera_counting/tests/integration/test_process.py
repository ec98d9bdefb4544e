"""The service as a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from scene import PERSON_HEIGHT, PERSON_WIDTH, frame, jpeg

pytestmark = pytest.mark.integration


@pytest.fixture
def service(database: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "camera_counting", "serve"],
        env=os.environ
        | {"DATABASE_URL": database, "PORT": str(port), "CAMERA_COUNTING_COMMIT": "c0ffee"},
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            while not ready(client):
                assert process.poll() is None, "the service ended"
                time.sleep(0.05)
            yield process, client
    finally:
        process.kill()
        process.wait()


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.ConnectError:  # it does not listen yet
        return False


def test_sigterm_lets_requests_in_flight_finish(
    service: tuple[subprocess.Popen[bytes], httpx.Client],
) -> None:
    process, client = service
    assert client.get("/version").json()["commit"] == "c0ffee"
    size = {"person_width": PERSON_WIDTH, "person_height": PERSON_HEIGHT}
    client.put("/cameras/gate/background", params=size, content=jpeg(frame())).raise_for_status()

    def slowly() -> Iterator[bytes]:
        """An upload that is half done when the signal arrives."""
        image = jpeg(frame())
        yield image[:1000]
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        yield image[1000:]

    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(client.post, "/cameras/gate/frames", content=slowly()).result()
    assert response.status_code == 200
    assert process.wait(10) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{client.base_url}/healthz")
