"""How a session ends: the program is left the time it needs, unless somebody waits."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import pytest

from pipeline.engines import cli_session
from pipeline.engines.cli_session import CliSession

OPENS = """#!/bin/sh
echo '{"port": 9, "session_token": "t"}'
cat > /dev/null
echo told > "$0.told"
"""
"""Gives an address, and goes on once it is told to end."""


class Broke(Exception):
    """A run that broke off."""


def program(place: Path, *lines: str) -> str:
    path = place / "program"
    path.write_text("\n".join([OPENS, *lines]))
    path.chmod(0o755)
    return str(path)


def test_after_a_run_that_ended_well_the_program_packs_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> CliSession:
        async with CliSession(program(tmp_path, "sleep 1", "echo packed >&2"), log) as session:
            assert await session.address() == {"DAGGER_SESSION_PORT": "9", "DAGGER_SESSION_TOKEN": "t"}
            return session

    monkeypatch.setattr(cli_session, "SOON", 0.1)
    with (tmp_path / "log").open("w") as log:
        session = anyio.run(main)
    assert (session._process.returncode, (tmp_path / "log").read_text()) == (0, "packed\n")


def test_after_an_error_a_program_that_hangs_is_killed_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[CliSession] = []

    async def main() -> None:
        async with CliSession(program(tmp_path, "exec sleep 60"), log) as session:
            sessions.append(session)
            await session.address()
            raise Broke

    monkeypatch.setattr(cli_session, "SOON", 1.0)
    with (tmp_path / "log").open("w") as log, pytest.raises(Broke):
        anyio.run(main)
    assert sessions[0]._process.returncode == -signal.SIGKILL
    assert (tmp_path / "program.told").exists()


def test_the_wait_for_a_program_that_hangs_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[CliSession] = []

    async def opened_and_closed() -> None:
        async with CliSession(program(tmp_path, "exec sleep 60"), log) as session:
            sessions.append(session)
            await session.address()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(opened_and_closed)
            while not (tmp_path / "program.told").exists():
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()

    monkeypatch.setattr(cli_session, "SOON", 0.1)
    with (tmp_path / "log").open("w") as log:
        anyio.run(main)
    assert sessions[0]._process.returncode == -signal.SIGKILL


def test_a_program_that_still_looks_for_the_engine_is_killed_at_once(tmp_path: Path) -> None:
    sessions: list[CliSession] = []

    async def main() -> None:
        path = tmp_path / "program"
        path.write_text("#!/bin/sh\nexec sleep 60\n")
        path.chmod(0o755)
        async with CliSession(str(path), log) as session:
            sessions.append(session)
            raise Broke

    with (tmp_path / "log").open("w") as log, pytest.raises(Broke):
        anyio.run(main)
    assert sessions[0]._process.returncode == -signal.SIGKILL
