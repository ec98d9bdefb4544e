"""What a target of units promises of its own, on a real machine: limits, texts that arrive as they are, boots, and keys."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Project, StageFailed, Store, WiringError
from stages.delivery import unit
from stages.delivery.limits import Limits
from stages.delivery.probe import CommandProbe
from stages.delivery.ssh import Ssh
from stages.delivery.systemd import Systemd
from stages.image import Image, Placed
from stages.source import WorkingCopy
from tests.conftest import RunStage
from tests.stages.delivery.conftest import docker_target, release, systemd_target, up
from tests.stages.delivery.daemon import MachinePython, container_image
from tests.stages.delivery.machine import Machine
from tests.stages.delivery.place import local_target
from tests.stages.delivery.small import TOP
from tests.web import get

NASTY = """ '"`$HOME ${HOME} %i %% \\ \\n \t# ; äöü
second line """


def told(machine: Machine, command: str) -> str:
    """What a command says there that has to succeed."""
    done = machine(command)
    assert done.returncode == 0, done
    return done.stdout


@pytest.fixture
def container(run_stage: RunStage) -> Image:
    built: Image = run_stage(container_image())
    return built


def test_values_arguments_and_secrets_arrive_as_they_are(
    project: Project, store: Store, machine: Machine, container: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", NASTY[::-1])

    async def main() -> None:
        target = systemd_target(project, store, machine)
        wanted = replace(release(container, NASTY=NASTY), secrets=("SECRET",))
        (one,) = (await up(target, wanted)).instances
        assert [get(f"{one.url}/env?{name}").text for name in ("NASTY", "SECRET")] == [NASTY, NASTY[::-1]]
        shown = "import os, sys; print(ascii(sys.argv[1]), ascii(os.environ['NASTY']))"
        said = await target.run_once(wanted, ("python", "-c", shown, NASTY))
        assert said == (0, f"{NASTY!a} {NASTY!a}\n")

    anyio.run(main)


def test_limits_hold_all_processes_of_an_instance_together(
    project: Project, store: Store, machine: Machine, container: Image
) -> None:
    forks = "import os\nfor _ in range(30):\n    os.fork() or os.read(os.pipe()[0], 1)"

    async def main() -> None:
        target = systemd_target(project, store, machine)
        wanted = replace(release(container), limits=Limits(memory=64, pids=20))
        if missing := await target.unlimited(wanted):
            pytest.skip(f"limits that the kernel of this machine cannot keep: {missing}")
        roomy = replace(wanted, limits=Limits(memory=256, pids=20))
        assert await target.run_once(roomy, ("python", "-c", "held = bytearray(80 << 20); print('fits')")) == (0, "fits\n")
        code, _ = await target.run_once(wanted, ("python", "-c", "held = bytearray(80 << 20); print('fits')"))
        assert code == -9
        code, said = await target.run_once(wanted, ("python", "-c", forks))
        assert code == 1
        assert "Resource temporarily unavailable" in said

    anyio.run(main)


def test_instances_are_started_when_the_machine_is(project: Project, store: Store, machine: Machine, container: Image) -> None:
    async def main() -> None:
        target = systemd_target(project, store, machine)
        serves, rests = release(container, instances=2), release(container, version="two")
        found = await up(target, serves)
        await up(target, rests)
        await target.rest(rests.group)
        assert machine(f"systemctl stop '{target._mine}-*'").returncode == 0
        assert await target.groups() == {}
        assert machine("systemctl restart multi-user.target").returncode == 0  # what a boot starts at its end
        with anyio.fail_after(20):
            while await target.unready(serves.group, serves.ready) is not None:
                await anyio.sleep(0.05)
        assert await target.groups() == {serves.group: found}

    anyio.run(main)


def test_what_a_release_leaves_on_the_machine_is_root_s_alone_and_gone_with_it(
    project: Project, store: Store, machine: Machine, container: Image
) -> None:
    async def main() -> None:
        target = systemd_target(project, store, machine)
        wanted = release(container)
        await up(target, wanted)
        modes = machine(f"stat -c %a {target._place()} {target._place(wanted.group)} {target._place(wanted.group)}/env").stdout
        assert modes.split() == ["700", "700", "600"]
        (unit_file,) = machine(f"ls /etc/systemd/system/{target._mine}*").stdout.split()
        await target.stop(wanted.group)
        assert told(machine, f"ls {unit_file} {target._place(wanted.group)} 2>/dev/null || true") == ""
        assert told(machine, f"systemctl list-units --all --plain --no-legend '{target._mine}*.service'") == ""

    anyio.run(main)


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"host": "ssh://root@127.0.0.1:1"}, "Connection refused"), ({"ssh_config": "/dev/null"}, "Host key verification failed")],
)
def test_a_machine_that_is_not_reached_or_not_known_is_said(
    project: Project, store: Store, machine: Machine, changed: dict[str, Any], why: str
) -> None:
    target = systemd_target(project, store, machine, **changed)
    with pytest.raises(StageFailed, match=why) as caught:
        anyio.run(target.groups)
    assert caught.value.next == f"ssh {target.config.host} true"


WRONG: tuple[dict[str, Any], ...] = (
    {"host": ""},
    {"host": "-oProxyCommand=x"},
    {"address": "::1"},
    {"address": "web1.internal"},
    {"place": "relative"},
    {"place": "/a b"},
    {"zones": ("a-b",)},
    {"place": "/etc"},
    {"place": "/var/../etc"},
    {"patience": 0},
    {"patience": float("nan")},
    {"name": "../evil"},
    {"name": "team/app"},
    {"name": ""},
)


@pytest.mark.parametrize("settings", WRONG, ids=str)
def test_what_could_be_no_machine_or_name_of_a_unit_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(WiringError, match="Systemd"):
        Systemd(**{"name": "app", "host": "root@app", "address": "10.0.0.1", **settings})


def test_limits_are_said_as_systemd_takes_them() -> None:
    assert unit.bounds(Limits()) == []
    limits = Limits(memory=64, cpu=1.5, pids=20, open_files=100)
    assert unit.bounds(limits) == ["MemoryMax=64M", "MemorySwapMax=0", "CPUQuota=150%", "TasksMax=20", "LimitNOFILE=100"]


def test_files_of_an_image_and_of_others_are_no_instances(
    project: Project, store: Store, machine: Machine, run_stage: RunStage
) -> None:
    (project.root / "prod.env").write_text("A=1")
    source = WorkingCopy(include=("serve.py", "prod.env"))
    built: Image = run_stage(replace(container_image(), layers=(MachinePython(), Placed(tree=source, at="/app"))))

    async def main() -> None:
        target = systemd_target(project, store, machine)
        wanted = release(built)
        found = await up(target, wanted)
        machine(f"touch {target._place(wanted.group)}/backup.env")
        assert await target.groups() == {wanted.group: found}
        await target.stop(wanted.group)
        assert await target.groups() == {}

    anyio.run(main)


def test_two_projects_with_the_same_path_on_two_machines_have_units_of_their_own(
    project: Project, store: Store, machine: Machine, container: Image, tmp_path: Path
) -> None:
    async def main() -> None:
        first = systemd_target(project, store, machine)
        wanted = release(container)
        (one,) = (await up(first, wanted)).instances
        elsewhere = first.state.rename(tmp_path / "elsewhere")
        first.state.mkdir()
        second = systemd_target(project, store, machine)
        assert await second.groups() == {}
        await up(second, wanted)
        await second.down()
        assert get(one.url).text == "one"
        first.state.rmdir() if not list(first.state.iterdir()) else shutil.rmtree(first.state)
        elsewhere.rename(first.state)
        assert list(await first.groups()) == [wanted.group]

    anyio.run(main)


def test_another_machine_or_a_daemon_under_the_same_name_is_refused_until_all_is_taken_down(
    project: Project, store: Store, machine: Machine, container: Image
) -> None:
    async def main() -> None:
        target, wanted = systemd_target(project, store, machine), release(container)
        await up(target, wanted)
        for changed in ({"host": "root@elsewhere"}, {"place": "/var/lib/another"}, {"address": "127.0.0.2"}):
            with pytest.raises(StageFailed, match="would be left there"):
                await systemd_target(project, store, machine, **changed).start(wanted)
        with pytest.raises(StageFailed, match="with systemd by now"):
            await docker_target(project, store, "unix:///nowhere").start(wanted)
        with pytest.raises(StageFailed, match="with systemd by now"):
            await local_target(project, store).start(wanted)
        assert len(await target.down()) == 1
        moved = systemd_target(project, store, machine, place="/var/lib/another")
        await up(moved, wanted)
        await moved.stop(wanted.group)

    anyio.run(main)


@pytest.mark.parametrize("entrypoint", [("./usr/local/bin/python", "/app/serve.py"), ("python", "/app/serve.py")])
def test_a_program_is_found_as_the_image_says(
    project: Project, store: Store, machine: Machine, run_stage: RunStage, entrypoint: tuple[str, ...]
) -> None:
    built: Image = run_stage(replace(container_image(), entrypoint=entrypoint))

    async def main() -> None:
        target = systemd_target(project, store, machine)
        (one,) = (await up(target, release(built))).instances
        assert get(one.url).text == "one"

    anyio.run(main)


def test_a_unit_that_systemd_does_not_load_goes_back_and_leaves_nothing(
    project: Project, store: Store, machine: Machine, container: Image
) -> None:
    async def main() -> None:
        target, wanted = systemd_target(project, store, machine), release(container)
        await up(target, wanted)
        unit_file = f"/etc/systemd/system/{target._template(wanted.group)}.service"
        told(machine, f"echo '[Service' > {unit_file}; systemctl daemon-reload")
        assert "loaded" not in told(machine, f"systemctl show --property=LoadState '{target._template(wanted.group)}new.service'")
        await target.stop(wanted.group)
        assert await target.groups() == {}
        assert told(machine, f"ls -d {target._place(wanted.group)} /etc/systemd/system/{target._mine}* 2>/dev/null || true") == ""

    anyio.run(main)


def test_where_systemd_does_not_answer_that_is_said_and_never_taken_for_nothing_that_runs(
    project: Project, store: Store, machine: Machine, container: Image
) -> None:
    async def main() -> None:
        target, wanted = systemd_target(project, store, machine), release(container)
        found = await up(target, wanted)
        told(machine, "mount --bind /bin/false /usr/bin/systemctl")
        try:
            with pytest.raises(StageFailed):
                await target.groups()
            with pytest.raises(StageFailed):
                await target.stop(wanted.group)
        finally:
            told(machine, "umount /usr/bin/systemctl")
        assert await target.groups() == {wanted.group: found}

    anyio.run(main)


def test_what_the_pipeline_is_given_to_read_is_left_to_others(project: Project, store: Store, machine: Machine) -> None:
    target = systemd_target(project, store, machine)
    program = "import sys; from tests.stages.delivery.test_systemd import asks; asks(*sys.argv[1:])"
    words = [sys.executable, "-c", program, str(target.state), target.config.host, target.config.ssh_config]
    done = subprocess.run(words, input="one\ntwo\n", capture_output=True, text=True, check=True, cwd=TOP)
    assert done.stdout == "there\none\ntwo\n"


def asks(state: str, host: str, config: str) -> None:
    print(anyio.run(Ssh(host, Path(state), config).must, "cat; echo there"), end="")
    print(sys.stdin.read(), end="")


def test_a_command_that_does_not_end_is_ended_and_leaves_nothing(
    project: Project, store: Store, machine: Machine, container: Image
) -> None:
    hangs = CommandProbe(("python", "-c", "import time; time.sleep(600)"), within=0.5)

    async def main() -> None:
        target, wanted = systemd_target(project, store, machine), release(container)
        await up(target, wanted)
        assert "takes more than 0.5 s" in (await target.unready(wanted.group, hangs) or "")
        assert told(machine, f"systemctl list-units --all --plain --no-legend '{target._mine}-asked*'") == ""
        assert told(machine, "ls /run/*.output 2>/dev/null || true") == ""

    anyio.run(main)


def test_what_a_unit_cannot_say_is_refused_before_anything_is_changed(
    project: Project, store: Store, machine: Machine, container: Image
) -> None:
    target = systemd_target(project, store, machine)
    escapes = container.model_copy(update={"workdir": "/\nExecStartPre=+/bin/touch /pwned"})
    for wanted in (release(escapes), replace(release(container), env={"my.setting": "1"})):
        with pytest.raises(StageFailed, match=r"working directory|no variable"):
            anyio.run(target.start, wanted)
    assert not target.state.joinpath("systemd.json").exists()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1))
def test_no_argument_ends_the_line_of_its_unit(argv: list[str]) -> None:
    assert unit.command(argv).isprintable() or not set("\n\r") & set(unit.command(argv))
