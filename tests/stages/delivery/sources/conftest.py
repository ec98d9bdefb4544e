"""Fixtures of sources: a real Prometheus that scrapes very often, and pages of figures that tests change."""

from __future__ import annotations

import http.server
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipeline.engines.local import free_port
from tests.web import get

PROGRAM = shutil.which("prometheus")


class Prometheus:
    """A Prometheus that scrapes what `targets` names, ten times a second."""

    def __init__(self, place: Path, targets: Path) -> None:
        self.place, self.port, self._targets = place, free_port(), targets
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert PROGRAM is not None
        self.place.mkdir(exist_ok=True)
        config = self.place / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 100ms, scrape_timeout: 100ms}\n"
            f"scrape_configs: [{{job_name: app, file_sd_configs: [{{files: ['{self._targets}'], refresh_interval: 1s}}]}}]\n"
        )
        argv = [PROGRAM, f"--config.file={config}", f"--storage.tsdb.path={self.place}/data"]
        with (self.place / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, f"--web.listen-address=127.0.0.1:{self.port}"], cwd=self.place, stdout=log, stderr=log
            )
        while not self._ready():
            assert self.process.poll() is None, (self.place / "log").read_text()
            time.sleep(0.02)

    def _ready(self) -> bool:
        try:
            return get(f"{self.url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    """Not started yet; it scrapes what tests/…/targets.json or the target's own file names."""
    if PROGRAM is None:
        pytest.skip("no prometheus program")
    found = Prometheus(tmp_path / "prometheus", tmp_path / "targets.json")
    yield found
    found.kill()


class Pages:
    """A server of pages that the test writes: path to status and text."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, str]] = {}
        pages = self.pages

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, text = pages.get(self.path, (404, ""))
                self.send_response(status)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *values: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_port

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def pages() -> Iterator[Pages]:
    found = Pages()
    yield found
    found.stop()
