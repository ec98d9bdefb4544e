"""Instances as processes of this machine."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from pipeline import Project, StageFailed, Store
from pipeline.engines.local import free_port
from pipeline.scratch import Scratch
from stages.delivery import process
from stages.delivery.down import down, left
from stages.delivery.local import LocalTarget
from stages.delivery.lock import alone
from stages.delivery.private import sockets
from stages.delivery.process import Process
from stages.image import Image
from tests.conftest import RunStage
from tests.stages.delivery.conftest import docker_target, release, up
from tests.stages.delivery.place import local_target
from tests.stages.delivery.small import TOP, image_stage
from tests.web import browser


async def gone(pid: int) -> None:
    with anyio.fail_after(10):
        while process._items(pid):
            await anyio.sleep(0.01)


def test_a_release_runs_as_so_many_instances_and_is_found_again(
    target: LocalTarget, image: Image, project: Project, store: Store
) -> None:
    async def main() -> None:
        wanted = release(image, instances=2)
        found = await up(target, wanted)
        assert len(found.instances) == 2
        assert await local_target(project, store).groups() == {wanted.group: found}
        async with browser() as client:
            assert [(await client.get(one.url)).text for one in found.instances] == ["one", "one"]

    anyio.run(main)


def test_processes_of_the_name_are_not_left_behind_for_another_target(
    target: LocalTarget, project: Project, store: Store, image: Image
) -> None:
    async def main() -> None:
        await up(target, release(image))
        with pytest.raises(StageFailed, match="instances of app are processes of this machine by now"):
            await docker_target(project, store, "unix:///nowhere").start(release(image))

    anyio.run(main)


def test_starting_again_starts_nothing(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        wanted = release(image, instances=2)
        first = await up(target, wanted)
        pids = [one.pid for one in process.running(str(target.state))]
        assert await target.start(wanted) == first
        assert [one.pid for one in process.running(str(target.state))] == pids

    anyio.run(main)


def test_starting_again_replaces_the_instances_that_are_missing(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        wanted = release(image, instances=2)
        await up(target, wanted)
        kept, killed = process.running(str(target.state))
        os.kill(killed.pid, signal.SIGKILL)
        await gone(killed.pid)
        assert await target.ended(wanted) == "1 of 2 instances ended; last words: it said nothing"
        await up(target, wanted)
        assert await target.ended(wanted) is None
        pids = {one.pid for one in process.running(str(target.state))}
        assert kept.pid in pids
        assert len(pids - {kept.pid, killed.pid}) == 1

    anyio.run(main)


def test_an_instance_that_was_started_and_not_journalled_is_found_by_its_mark(
    target: LocalTarget, image: Image, project: Project, store: Store
) -> None:
    """As after a crash between starting the process and writing it down: nothing but the process itself knows."""

    async def main() -> None:
        wanted = release(image)
        await target._unpacked(wanted)
        await target.begin(wanted, free_port())
        again = local_target(project, store)
        found = await up(again, wanted)
        assert len(found.instances) == 1

    anyio.run(main)


def test_half_an_unpacked_image_is_not_taken_for_the_whole(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        wanted = release(image)
        (target.state / wanted.group / "rootfs.unfinished" / "app").mkdir(parents=True)
        await up(target, wanted)
        assert not (target.state / wanted.group / "rootfs.unfinished").exists()

    anyio.run(main)


def test_what_one_release_or_command_writes_beside_itself_no_other_sees(target: LocalTarget, image: Image) -> None:
    spoil = "import pathlib; [path.write_text('raise SystemExit') for path in pathlib.Path('app').glob('*.py')]"

    async def main() -> None:
        one, two = release(image, version="one"), release(image, version="two")
        assert await target.run_once(one, ("python", "-c", spoil)) == (0, "")
        await up(target, one)
        for path in (target.state / one.group / "rootfs" / "app").glob("*.py"):
            path.write_text("raise SystemExit")
        await up(target, two)
        assert sorted(await target.groups()) == sorted([one.group, two.group])

    anyio.run(main)


def test_a_group_that_is_stopped_leaves_nothing(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        wanted = release(image, instances=2)
        await up(target, wanted)
        await target.stop(wanted.group)
        await target.stop(wanted.group)
        assert await target.groups() == {}
        assert list(target.state.iterdir()) == []

    anyio.run(main)


def test_what_a_group_left_whose_instances_died_goes_with_the_next_that_is_stopped(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        one, two = release(image, version="one"), release(image, version="two")
        await up(target, one)
        (died,) = process.running(str(target.state))
        os.kill(died.pid, signal.SIGKILL)
        await gone(died.pid)
        await up(target, two)
        await target.stop(two.group)
        assert list(target.state.iterdir()) == []

    anyio.run(main)


def test_stopping_a_group_stops_no_other(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        one, two = release(image, version="one"), release(image, version="two")
        await up(target, one)
        await up(target, two)
        await target.stop(one.group)
        assert list(await target.groups()) == [two.group]

    anyio.run(main)


def test_stopping_waits_for_the_requests_in_flight(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        wanted = release(image)
        found = await up(target, wanted)
        answers: list[str] = []

        async def ask() -> None:
            async with browser() as client:
                answers.append((await client.get(f"{found.instances[0].url}/slow?1", headers={"Connection": "close"})).text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            while not established(found.instances[0].port):
                await anyio.sleep(0.01)
            await target.stop(wanted.group)
        assert answers == ["one"]

    anyio.run(main)


def established(port: int) -> bool:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[3] == "01" and int(row[1].rpartition(":")[2], 16) == port for row in rows)


def test_a_group_that_ignores_sigterm_is_killed(target: LocalTarget, image: Image, project: Project, store: Store) -> None:
    async def main() -> None:
        wanted = release(image, STUBBORN="1")
        await up(target, wanted)
        (stubborn,) = process.running(str(target.state))
        await process.stop(stubborn, patience=0.2)
        assert not process.alive(stubborn)
        assert await target.groups() == {}

    anyio.run(main)


def test_children_that_outlive_the_first_of_the_family_are_ended_too(tmp_path: Path) -> None:
    async def main() -> None:
        script = (
            "import os, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN) if os.fork() == 0 else None; signal.pause()"
        )
        await process.start(f"{tmp_path}:", (sys.executable, "-c", script), {}, cwd=tmp_path, log=tmp_path / "log")
        (first,) = process.running(f"{tmp_path}:")
        with anyio.fail_after(10):
            while len(list(process._marked(f"{tmp_path}:"))) < 2:
                await anyio.sleep(0.01)
        await process.stop(first, patience=0.5)
        assert list(process._marked(f"{tmp_path}:")) == []

    anyio.run(main)


def test_a_number_that_belongs_to_another_process_now_is_not_the_process(tmp_path: Path) -> None:
    """As after the kernel gave the number away: same pid, no such mark. It is not alive, and stopping it harms nobody."""

    async def main() -> None:
        await process.start(f"{tmp_path}/other:", ("sleep", "60"), {"PATH": os.defpath}, cwd=tmp_path, log=tmp_path / "log")
        (other,) = process.running(f"{tmp_path}/other:")
        former = Process(other.pid, f"{tmp_path}/former:", {})
        assert not process.alive(former)
        await process.stop(former)
        assert process.alive(other)
        await process.stop(other)

    anyio.run(main)


def state_of(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat")
    return stat.read_text().rpartition(")")[2].split()[0] if stat.exists() else ""


def started(*argv: str, place: Path) -> int:
    """The number of a process that goes on."""
    return anyio.run(functools.partial(process.start, "it:", argv, {"PATH": os.environ["PATH"]}, cwd=place, log=place / "log"))


def test_a_zombie_is_not_alive(tmp_path: Path) -> None:
    async def main() -> None:
        await process.start(f"{tmp_path}:", ("sleep", "60"), {"PATH": os.defpath}, cwd=tmp_path, log=tmp_path / "log")
        (found,) = process.running(f"{tmp_path}:")
        os.kill(found.pid, signal.SIGKILL)
        with anyio.fail_after(10):
            while state_of(found.pid) != "Z":
                await anyio.sleep(0.01)
        assert not process.alive(found)
        assert list(process.running(f"{tmp_path}:")) == []
        await process.stop(found)
        assert state_of(found.pid) == ""  # its parent took leave of it

    anyio.run(main)


def test_a_program_that_is_just_becoming_another_one_is_there(tmp_path: Path) -> None:
    """Meanwhile the system tells of no environment."""
    script = 'exec sh -c "$0" "$0"'
    pid = started("sh", "-c", script, script, place=tmp_path)
    found = Process(pid, "it:", {})
    try:
        assert all(process.alive(found) for _ in range(300))
    finally:
        anyio.run(process.stop, found, 5.0)
    assert not process.alive(found)


def test_a_name_that_the_system_cut_within_a_letter_hides_nobody(tmp_path: Path) -> None:
    program = tmp_path / "Prüfung-für-ähm"  # 15 bytes of it are shown
    shutil.copy(shutil.which("sleep") or "", program)

    async def main() -> None:
        pid = await process.start(f"{tmp_path}:", (str(program), "60"), {"PATH": os.defpath}, cwd=tmp_path, log=tmp_path / "log")
        with pytest.raises(UnicodeDecodeError):
            await anyio.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        (found,) = process.running(f"{tmp_path}:")
        await process.stop(found)
        assert not process.alive(found)

    anyio.run(main)


class Late:
    """The system shows the environment of what was started only after that many looks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
        self.left, self._shown = looks, process._items
        monkeypatch.setattr(process, "_items", self)

    def __call__(self, pid: int, part: bytes = b"") -> list[bytes]:
        self.left -= 1
        return self._shown(pid, part) if self.left < 0 else []


def test_to_wait_until_a_program_can_be_found_again_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late, turns = Late(monkeypatch, 100), list[int]()

    async def beside() -> None:
        while late.left > 0:
            turns.append(late.left)
            await anyio.sleep(0.001)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(beside)
            await process.start(f"{tmp_path}:", ("sleep", "60"), {"PATH": os.defpath}, cwd=tmp_path, log=tmp_path / "log")
        (found,) = process.running(f"{tmp_path}:")
        await process.stop(found)

    anyio.run(main)
    assert len(set(turns)) > 10


def test_who_is_cancelled_while_a_program_starts_has_its_number_and_starts_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, pids = Late(monkeypatch, 100), list[int]()

    async def starts(scope: anyio.CancelScope) -> None:
        with scope:
            for _ in range(2):
                argv, env = ("sleep", "60"), {"PATH": os.defpath}
                pids.append(await process.start(f"{tmp_path}:", argv, env, cwd=tmp_path, log=tmp_path / "log"))

    async def main() -> None:
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as group:
            group.start_soon(starts, scope)
            while late.left == 100:
                await anyio.sleep(0.001)
            scope.cancel()
        (found,) = process.running(f"{tmp_path}:")
        assert (pids, scope.cancelled_caught) == ([found.pid], True)
        await process.stop(found)

    anyio.run(main)


START_AS_NOBODY = """
import os, sys
from pathlib import Path
import anyio
from stages.delivery import process
process.SHOWN = 0.2

async def main():
    os.setgid(65534)
    os.setuid(65534)
    try:
        await process.start("it:", tuple(sys.argv[1:]), {}, cwd=Path("/"), log=Path("/dev/null"))
    except process.StageFailed as error:
        print(error)

anyio.run(main)
try:
    print("left", os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print("all have ended")
"""


def start_as_nobody(name: str, mode: int, *words: str) -> str:
    """What is said where a user without rights starts a copy of that program, of root's, with that mode."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        os.chmod(place, 0o755)
        program = Path(place, name)
        shutil.copy(shutil.which(name) or "", program)
        program.chmod(mode)
        if mode & stat.S_ISUID and os.statvfs(place).f_flag & os.ST_NOSUID:
            pytest.skip("no program below /tmp has rights of its own: it is mounted nosuid")
        command = [sys.executable, "-c", START_AS_NOBODY, str(program), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has programs that others may run and not read")
def test_a_program_that_could_not_be_found_again_is_ended_and_refused() -> None:
    """The system shows nothing of one that its user may run and not read."""
    said = start_as_nobody("sleep", 0o711, "600")
    assert "does not show its environment" in said
    assert "all have ended" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes programs that have its rights")
def test_of_a_program_that_could_not_be_found_again_and_has_other_rights_it_is_said_that_it_goes_on() -> None:
    said = start_as_nobody("setpriv", 0o4755, "--reuid", "0", "sleep", "600")
    found = re.search(r"process (\d+) goes on, with rights of its own", said)
    assert found, said
    assert "left (0, 0)" in said
    os.kill(int(found[1]), signal.SIGKILL)


def test_a_program_that_writes_over_its_environment_still_belongs_to_its_family(tmp_path: Path) -> None:
    async def main() -> None:
        script = "import os, subprocess; subprocess.run(['sleep', '60'], env={})"
        await process.start(
            f"{tmp_path}:", (sys.executable, "-c", script), {"PATH": os.defpath}, cwd=tmp_path, log=tmp_path / "log"
        )
        (first,) = process.running(f"{tmp_path}:")
        with anyio.fail_after(10):
            while len(list(process._family(first))) < 2:
                await anyio.sleep(0.01)
        (child,) = [pid for pid in process._family(first) if pid != first.pid]
        await process.stop(first)
        await gone(child)

    anyio.run(main)


def test_a_program_that_is_not_there_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="/no/such cannot be started: No such file"):
        started("/no/such", place=tmp_path)


def test_a_port_that_somebody_else_took_is_not_ready_although_it_answers(
    target: LocalTarget, image: Image, tmp_path: Path
) -> None:
    async def main() -> None:
        first, second = release(image, version="one"), release(image, version="two")
        (address,) = (await up(target, first)).instances
        env = {"PATH": os.defpath, "PORT": str(address.port)}
        mark = f"{target.state}:{second.group}:{address.port}"
        await process.start(mark, ("sleep", "60"), env, cwd=tmp_path, log=tmp_path / "log")
        assert await target.unready(second.group, "/readyz") == f"it does not listen on 127.0.0.1:{address.port}"
        assert await target.unready(first.group, "/readyz") is None

    anyio.run(main)


def test_why_a_group_is_not_ready_is_told(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        assert await target.unready("nobody", "/readyz") == "none of its instances runs"
        wanted = release(image, UNREADY="1")
        await target.start(wanted)
        with anyio.fail_after(30):
            while "listen" in (reason := await target.unready(wanted.group, "/readyz") or ""):
                await anyio.sleep(0.02)
        assert reason.endswith("/readyz answers 503: ready?")

    anyio.run(main)


def test_the_last_words_of_an_instance_that_ended_are_told(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        wanted = release(image, CRASHES="1")
        await target.start(wanted)
        with anyio.fail_after(10):
            while not (reason := await target.ended(wanted) or "").endswith("cannot go on"):
                await anyio.sleep(0.02)
        assert reason == "1 of 1 instances ended; last words: cannot go on"

    anyio.run(main)


def test_secrets_are_masked_in_what_an_instance_says(target: LocalTarget, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setenv("TOKEN", "s3cret-s3cret")
        both = release(image, UNREADY="1"), release(image, CRASHES="1")
        unready, crashes = (replace(one, secrets=("TOKEN",)) for one in both)
        await target.start(unready)
        monkeypatch.setenv("TOKEN", "another-one")  # what the instance has is what it can give away
        with anyio.fail_after(30):
            while "listen" in (reason := await target.unready(unready.group, "/readyz") or ""):
                await anyio.sleep(0.02)
        assert reason.endswith("/readyz answers 503: ***")
        await target.start(crashes)
        with anyio.fail_after(10):
            while "cannot" not in (reason := await target.ended(crashes) or ""):
                await anyio.sleep(0.02)
        assert reason == "1 of 1 instances ended; last words: cannot go on***"

    anyio.run(main)


def test_a_command_of_the_image_runs_to_its_end_and_leaves_nothing(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        script = "import os, sys; print(os.environ['VERSION'], os.path.exists('app/serve.py')); sys.exit(3)"
        assert await target.run_once(release(image), ("python", "-c", script)) == (3, "one True\n")
        assert list(target.state.iterdir()) == []

    anyio.run(main)


FORKS = (
    "import os, pathlib, subprocess, sys, time; child = subprocess.Popen(['sleep', '600'], env={}); "
    "made = pathlib.Path(os.environ['PIDS'] + '.new'); made.write_text(f'{os.getpid()} {child.pid}'); "
    "made.rename(os.environ['PIDS']); print('began', flush=True); time.sleep(float(sys.argv[1]))"
)
"""A command that leaves a child with no mark in its environment; it says who they are and takes so many seconds."""


def test_a_command_that_is_cancelled_ends_with_all_it_started(target: LocalTarget, image: Image, tmp_path: Path) -> None:
    async def main() -> None:
        pids = tmp_path / "pids"
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(target.run_once, release(image, PIDS=str(pids)), ("python", "-c", FORKS, "600"))
                while not pids.exists():
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
        assert [process._stat(int(pid)) for pid in pids.read_text().split()] == [[], []]
        assert list(target.state.iterdir()) == []

    anyio.run(main)


@pytest.mark.parametrize("then", ["a command", "a release"])
def test_a_command_that_a_killed_run_left_ends_before_anything_begins(target: LocalTarget, image: Image, then: str) -> None:
    async def main() -> None:
        left = Scratch(target.state, ".once-")
        mark, env = f"{left.path}:", {"PATH": os.environ["PATH"]}
        pid = await process.start(mark, ("sleep", "600"), env, cwd=left.path, log=left.path / "log")
        os.close(left._lock)  # as the system does when its process is killed
        if then == "a command":
            code, said = await target.run_once(release(image, PID=str(pid)), ("sh", "-c", "kill -0 $PID 2>&1"))
            assert (code, "No such process" in said) == (1, True)
        else:
            await target.start(release(image))
        assert not process._items(pid)
        assert not left.path.exists()

    anyio.run(main)


def test_a_command_ends_although_something_it_started_keeps_its_output_open(
    target: LocalTarget, image: Image, tmp_path: Path
) -> None:
    async def main() -> None:
        pids = tmp_path / "pids"
        with anyio.fail_after(30):
            done = await target.run_once(release(image, PIDS=str(pids)), ("python", "-c", FORKS, "0"))
        assert done == (0, "began\n")
        assert [process._stat(int(pid)) for pid in pids.read_text().split()] == [[], []]

    anyio.run(main)


def test_a_command_that_runs_is_taken_down_with_everything_else(
    target: LocalTarget, image: Image, project: Project, tmp_path: Path
) -> None:
    async def main() -> None:
        pids, done = tmp_path / "pids", []

        async def run() -> None:
            done.append(await target.run_once(release(image, PIDS=str(pids)), ("python", "-c", FORKS, "600")))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                while not pids.exists():
                    await anyio.sleep(0.01)
                assert await target.groups() == {}  # it is no instance of any
                command = [sys.executable, "-m", "stages.delivery.down", str(project.root)]
                said = await anyio.run_process(command, env={**os.environ, "PIPELINE_HOME": str(project.home)}, cwd=TOP)
                assert said.stdout == b"took down 1 process\n"
        assert done == [(-signal.SIGTERM, "began\n")]

    anyio.run(main)


def test_secrets_reach_the_instances_and_no_name(target: LocalTarget, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setenv("TOKEN", "s3cret-s3cret")
        wanted = type(release(image))(image=image, env={"VERSION": "one"}, secrets=("TOKEN",))
        await up(target, wanted)
        (found,) = process.running(str(target.state))
        assert found.env["TOKEN"] == "s3cret-s3cret"
        group = wanted.group
        monkeypatch.setenv("TOKEN", "another-one")
        assert wanted.group == group

    anyio.run(main)


def test_everything_of_a_project_is_taken_down_the_instances_after_the_router(project: Project, tmp_path: Path) -> None:
    async def main() -> None:
        for kind in ("service/db", "deploy/app:r-1:80", "router/app", "another/thing"):
            mark = f"{project.home}/state/{kind}:"
            await process.start(mark, ("sleep", "60"), {"PATH": os.defpath}, cwd=tmp_path, log=tmp_path / "log")
        await process.start(
            f"{tmp_path}/home-2/state/x:", ("sleep", "60"), {"PATH": os.defpath}, cwd=tmp_path, log=tmp_path / "log"
        )
        ended = [Path(mark).relative_to(project.home / "state").parts[0] for mark in await down(project)]
        assert ended[:2] == ["router", "deploy"]
        assert set(ended[2:]) == {"another", "service"}
        (other,) = process.running(f"{tmp_path}/")
        await process.stop(other)

    anyio.run(main)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes processes of somebody else")
def test_a_process_that_cannot_be_ended_is_told_and_all_others_are_ended(project: Project, tmp_path: Path) -> None:
    """Root without the right to signal everybody, and one of a family that is somebody else's by now."""
    theirs = ("sh", "-c", "setpriv --reuid 65534 --clear-groups sleep 600 & exec sleep 600")
    mark = f"{project.home}/state/deploy/app:r-%d:80:"

    async def main() -> None:
        for number, argv in enumerate((theirs, ("sleep", "600"), ("sleep", "600"))):
            await process.start(mark % number, argv, dict(os.environ), cwd=tmp_path, log=tmp_path / "log")
        first = next(one for one in left(project) if one.mark == mark % 0)
        with anyio.fail_after(10):
            while not any(os.stat(f"/proc/{pid}").st_uid for pid in process._family(first)):
                await anyio.sleep(0.01)
        command = ["setpriv", "--bounding-set=-kill", sys.executable, "-m", "stages.delivery.down", str(project.root)]
        env = {**os.environ, "PIPELINE_HOME": str(project.home)}
        said = await anyio.run_process(command, check=False, env=env, cwd=TOP)
        assert said.returncode == 1
        why = f"process {first.pid} (deploy/app:r-0:80:) cannot be ended: Operation not permitted\n  next: the same command again"
        assert said.stderr.decode().startswith(why)
        assert [one.mark for one in left(project)] == [mark % 0]

    anyio.run(main)


def test_what_a_killed_router_left_elsewhere_goes_too(project: Project) -> None:
    state = project.home / "state" / "router" / "app"
    state.mkdir(parents=True)
    sockets(state).mkdir()
    (sockets(state) / "admin.sock").touch()
    assert anyio.run(down, project) == []
    assert not sockets(state).exists()


def test_only_one_at_a_time_holds_a_lock_and_the_next_says_that_it_waits(tmp_path: Path) -> None:
    async def main() -> None:
        said: list[str] = []
        inside: list[str] = []

        async def second() -> None:
            async with alone(tmp_path, said.append):
                inside.append("second")

        async with anyio.create_task_group() as tasks, alone(tmp_path, said.append):
            tasks.start_soon(second)
            with anyio.fail_after(10):
                while not said:
                    await anyio.sleep(0.01)
            assert inside == []
        assert inside == ["second"]
        assert said == ["another run is at work here; waiting for it to finish"]

    anyio.run(main)


def test_a_lock_is_free_again_when_its_holder_was_killed(tmp_path: Path) -> None:
    script = (
        "import anyio, os, pathlib, signal\nfrom stages.delivery.lock import alone\n"
        "async def main():\n    async with alone(pathlib.Path(os.environ['PLACE']), print):\n        os.kill(os.getpid(), 9)\n"
        "anyio.run(main)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PLACE": str(tmp_path), "PYTHONPATH": str(root)}, check=False
    )
    assert done.returncode == -signal.SIGKILL

    async def main() -> None:
        with anyio.fail_after(5):
            async with alone(tmp_path, lambda _: pytest.fail("waits for the dead")):
                pass

    anyio.run(main)


def test_who_listens_on_a_port_is_known(tmp_path: Path) -> None:
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", 0))
        mine.listen()
        port = mine.getsockname()[1]
        assert f"socket:[{next(process._listeners(port))}]" in process._files(os.getpid())
        assert not process.listens(Process(os.getpid(), f"{tmp_path}:", {}), port)
    assert not list(process._listeners(port))


LEAVES = """
if os.fork() == 0:
    if os.fork() == 0:
        os.execve("/bin/sleep", ["sleep", "600"], {**os.environ, "PORT": "unix", "ZONE": "elsewhere"})
    os._exit(0)
os.wait()

"""


def test_what_an_instance_left_is_no_instance_whatever_its_environment_says_and_ends_with_it(
    target: LocalTarget, project: Project, run_stage: RunStage
) -> None:
    program = project.root / "serve.py"
    program.write_text(program.read_text().replace("asked = itertools", LEAVES + "asked = itertools", 1))
    leaving: Image = run_stage(image_stage())

    async def main() -> None:
        wanted = release(leaving, instances=2)
        found = await up(target, wanted)
        assert len(found.instances) == 2
        assert len([one for one in process.running(f"{target.state}:") if one.env["PORT"] == "unix"]) == 2
        assert await target.ended(wanted) is None
        await target.stop(wanted.group)
        assert list(process.running(f"{target.state}:")) == []

    anyio.run(main)
