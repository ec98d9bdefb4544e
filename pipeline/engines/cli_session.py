"""A session with a Dagger engine, opened by the program `dagger` while the SDK is still being imported.

The SDK starts the same program in the same way, but only once it is imported, which takes longer than opening a session.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Self

import anyio

ENDS = 300.0
"""Seconds the program has to end; it may still be packing up caches. As long as the SDK gives it."""
SOON = 5.0
"""Seconds it has when nobody wants to wait: the run was cancelled or broke off."""


class CliSession:
    """The program, holding a session open as long as the context lasts. What it has to say goes to `log`."""

    def __init__(self, program: str, log: IO[str]) -> None:
        self._process = subprocess.Popen(
            [program, "session"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        self._thread = ThreadPoolExecutor(1)
        self._opened = self._thread.submit(self._open)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the session and wait for the program: until it has packed up, or soon after an error or when this is cancelled.

        While it still looks for the engine it is killed at once.
        """
        try:
            if kind is None:
                await anyio.to_thread.run_sync(self._ends, ENDS, abandon_on_cancel=True)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._end)
            self._thread.shutdown()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()

    async def address(self) -> dict[str, str]:
        """The variables by which the SDK joins the session. Raises OSError when there is none."""
        return await anyio.to_thread.run_sync(self._opened.result, abandon_on_cancel=True)

    def _open(self) -> dict[str, str]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        try:
            said = json.loads(line)
            port, token = int(said["port"]), str(said["session_token"])
        except (ValueError, TypeError, KeyError) as error:
            raise OSError(f"`dagger session` gave no address but {line.strip()!r}") from error
        with contextlib.suppress(OSError, http.client.HTTPException):  # where it cannot answer, the SDK finds out and says so
            _wake(port, token)
        return {"DAGGER_SESSION_PORT": str(port), "DAGGER_SESSION_TOKEN": token}

    def _ends(self, within: float) -> bool:
        """Tell the program to end, and whether it does."""
        if self._process.stdin is not None:
            self._process.stdin.close()  # that is how it is told
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _end(self) -> None:
        opened = self._opened.done() and self._opened.exception() is None
        if not self._ends(SOON if opened else 0.0):
            self._process.kill()
            self._process.wait()


def _wake(port: int, token: str) -> None:
    """Ask something: the engine prepares a session at its first question."""
    user = base64.b64encode(f"{token}:".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {user}"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", "/query", json.dumps({"query": "{version}"}), headers)
        connection.getresponse().read()
