"""The program around an action: what it refuses to do, whom it takes for ready, and how it ends what it started."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.engines import host, sandbox
from pipeline.engines.local import free_port
from tests.pipeline.engines.answering import ASKS_WHO, STARTING, answering, http


def run(place: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """The sandbox around a command that leaves a file."""
    spec = {"parent": os.getpid(), "leave": [], "binds": [], "services": [], "env": {"PATH": os.defpath}, "cwd": str(place)}
    (place / "spec.json").write_text(json.dumps({**spec, "argv": ["touch", "ran"], **more}))
    command = [*host.LAUNCHER, str(place / "spec.json")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_description_is_gone_once_it_was_read_for_it_may_hold_secrets(tmp_path: Path) -> None:
    assert run(tmp_path).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["ran"]


def test_what_an_action_leaves_is_ended_whatever_its_name(tmp_path: Path) -> None:
    """The system shows 15 bytes of a name, and so may cut within a letter."""
    program = tmp_path / "Prüfung-für-ähm"
    shutil.copy(shutil.which("sleep") or "", program)
    left = run(tmp_path, argv=["sh", "-c", '"$0" 600 >/dev/null 2>&1 & echo $!', str(program)])
    assert (left.returncode, left.stderr) == (0, "")
    assert not Path(f"/proc/{left.stdout.strip()}").exists()


def test_nothing_is_run_for_a_parent_that_is_gone(tmp_path: Path) -> None:
    assert run(tmp_path, parent=1).returncode == sandbox.FAILED
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_isolated_is_not_run_and_the_step_that_failed_is_named(tmp_path: Path) -> None:
    if "mount" not in host.best_level():
        pytest.skip("this system lets nobody mount")
    done = run(tmp_path, leave=["net", "mount"], binds=[[str(tmp_path / "none"), str(tmp_path)]])
    assert done.returncode == sandbox.FAILED
    assert done.stderr == f"sandbox: [Errno 2] bind {os.fsencode(tmp_path)!r}: No such file or directory\n"
    assert not (tmp_path / "ran").exists()


def test_a_command_that_cannot_be_described_to_the_system_is_the_sandboxs_own_failure(tmp_path: Path) -> None:
    done = run(tmp_path, argv=["touch", "a\0b"])
    assert (done.returncode, done.stderr) == (sandbox.FAILED, "sandbox: ValueError: embedded null byte\n")


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ({"argv": ["nothing-such"]}, 127, "nothing-such: no such program"),
        ({"cwd": "/nowhere"}, 127, "/nowhere: no such directory"),
        ({"argv": ["/etc/passwd"]}, 126, "/etc/passwd: not executable"),
    ],
)
def test_a_command_that_cannot_be_started_is_said_as_a_shell_would(
    tmp_path: Path, more: dict[str, Any], code: int, said: str
) -> None:
    done = run(tmp_path, **more)
    assert (done.returncode, done.stderr) == (code, f"{said}\n")


def test_postgresql_is_ready_when_it_lets_a_session_in() -> None:
    with answering(STARTING, b"", ASKS_WHO) as server:
        service = {"ready": "postgresql", "port": server.port}
        assert [sandbox.answers(service) for _ in range(4)] == [False, False, True, True]
    assert not sandbox.answers(service)


def test_a_server_of_http_is_ready_when_it_answers_200() -> None:
    with answering(
        b"220 no HTTP here\r\n\r\n", http("503 Service Unavailable"), http("204 No Content"), http("200 OK")
    ) as server:
        service = {"ready": "/healthy", "port": server.port}
        assert [sandbox.answers(service) for _ in range(4)] == [False, False, False, True]
    assert server.asked[3].startswith(b"GET /healthy HTTP/1.1\r\n")


def test_without_a_check_a_port_that_accepts_is_enough() -> None:
    with answering(b"") as server:
        assert sandbox.answers({"ready": "", "port": server.port})
    assert not sandbox.answers({"ready": "", "port": free_port()})


def test_a_service_that_does_not_end_when_asked_is_killed_with_its_group() -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(9999)"
    with subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        sandbox.end(child, patience=0.1)
        assert child.returncode == -signal.SIGKILL
