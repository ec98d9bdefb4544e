"""Users of a service: they send requests until they are told to stop, and remember every answer."""

from __future__ import annotations

import http.client
import itertools
import ssl
import threading
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Self


class Load:
    """Three users on one port: one keeps its connection, one takes a new one for each request, one sends POSTs on a kept one.

    `keys` is a cookie that tells one of 500 users from another, `headers` go with each request. With `tls` they come by HTTPS.
    """

    def __init__(
        self,
        port: int,
        *,
        path: str = "/",
        posts: bool = True,
        pause: float = 0.02,
        keys: str = "",
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.posted: list[str] = []
        """What was sent in POSTs and answered."""
        self._keys, self._headers, self._users = keys, dict(headers or {}), itertools.count()
        self._tls = tls
        self._port, self._path, self._pause, self._done = port, path, pause, threading.Event()
        users = [self._keeping, self._fresh, *([self._posting] if posts else [])]
        self._threads = [threading.Thread(target=user) for user in users]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    @property
    def sent(self) -> int:
        return self.answers.total() + len(self.failures)

    def more(self, number: int) -> None:
        """Return after so many further requests."""
        wanted, until = self.sent + number, time.monotonic() + 60
        while self.sent < wanted:
            assert time.monotonic() < until, f"only {self.sent} of {wanted} requests"
            time.sleep(0.01)

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection("localhost", self._port, timeout=30, context=self._tls)
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)

    def _keeping(self) -> None:
        connection = self._connection()
        while not self._done.wait(self._pause):
            self._ask(connection, "GET", self._path)
        connection.close()

    def _fresh(self) -> None:
        while not self._done.wait(self._pause):
            connection = self._connection()
            self._ask(connection, "GET", self._path)
            connection.close()

    def _posting(self) -> None:
        connection = self._connection()
        while not self._done.wait(self._pause):
            name = f"post {len(self.posted)} {len(self.failures)}"
            if self._ask(connection, "POST", self._path, name):
                self.posted.append(name)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> bool:
        started = time.monotonic()
        try:
            cookie = {"Cookie": f"{self._keys}=user {next(self._users) % 500}"} if self._keys else {}
            connection.request(method, path, body=body, headers={**self._headers, **cookie})
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self.failures.append(f"{method}: {type(error).__name__}: {error} after {time.monotonic() - started:.3f} s")
            return False
        if answer.status != 200:
            self.failures.append(f"{method}: {answer.status} {text[:100]!r} after {time.monotonic() - started:.3f} s")
            return False
        self.answers[text] += 1
        return True
