"""What a target of units promises of its own, on a real machine: limits, texts that arrive as they are, boots, and keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from pipeline import Project, StageFailed, Store, WiringError
from stages.delivery import unit
from stages.delivery.limits import Limits
from stages.delivery.systemd import Systemd
from stages.image import Image
from tests.conftest import RunStage
from tests.stages.delivery.conftest import release, systemd_target, up
from tests.stages.delivery.daemon import container_image
from tests.stages.delivery.machine import Machine
from tests.web import get

NASTY = """ '"`$HOME ${HOME} %i %% \\ \\n \t# ; äöü
second line """


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
        assert machine(f"ls {unit_file} {target._place(wanted.group)}").stdout == ""
        assert machine(f"systemctl list-units --all --plain --no-legend '{target._mine}*.service'").stdout == ""

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
    {"place": "relative"},
    {"place": "/a b"},
    {"zones": ("a-b",)},
)


@pytest.mark.parametrize("settings", WRONG, ids=str)
def test_what_could_be_no_machine_or_name_of_a_unit_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(WiringError, match="Systemd"):
        Systemd(**{"name": "app", "host": "root@app", "address": "10.0.0.1", **settings})


def test_limits_are_said_as_systemd_takes_them() -> None:
    assert unit.bounds(Limits()) == []
    limits = Limits(memory=64, cpu=1.5, pids=20, open_files=100)
    assert unit.bounds(limits) == ["MemoryMax=64M", "MemorySwapMax=0", "CPUQuota=150%", "TasksMax=20", "LimitNOFILE=100"]
