"""What instances may use."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from pipeline import StageFailed
from stages.delivery.limits import Limits
from stages.delivery.local import LocalTarget
from stages.delivery.probe import CommandProbe
from stages.delivery.strategy import BlueGreen
from stages.image import Image
from tests.stages.delivery.bench import Bench
from tests.stages.delivery.conftest import release, up


def test_an_instance_is_held_to_its_open_files_and_its_address_space(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        wanted = replace(release(image), limits=Limits(memory=900, open_files=64))
        (one,) = (await up(target, wanted)).instances
        process = target.instance(wanted.group, one.port)
        assert process is not None
        rows = dict(_rows(process.pid))
        assert rows["Max open files"] == "64"
        assert rows["Max address space"] == str(900 << 20)

    anyio.run(main)


def _rows(pid: int) -> list[tuple[str, str]]:
    with open(f"/proc/{pid}/limits") as file:
        return [(line[:26].strip(), line[26:].split()[0]) for line in file.readlines()[1:]]


def test_an_instance_that_needs_more_than_it_may_have_is_not_deployed(bench: Bench, image: Image) -> None:
    async def main() -> None:
        with pytest.raises(StageFailed, match="instances ended"):
            await bench.rollout(replace(release(image), limits=Limits(memory=1))).forward(BlueGreen(ready=30))

    anyio.run(main)


def test_what_cannot_be_enforced_is_said_and_never_claimed(bench: Bench, image: Image) -> None:
    async def main() -> None:
        limits = Limits(cpu=0.5, pids=10, open_files=64)
        await bench.rollout(replace(release(image), limits=limits)).forward(BlueGreen(ready=30))
        told = [data["limits"] for kind, data in bench.notes.events if kind == "rollout.unlimited"]
        assert [sorted(one) for one in told] == [["cpu", "pids"]]

    anyio.run(main)


def test_other_limits_make_another_release(image: Image) -> None:
    one = release(image)
    assert replace(one, limits=Limits(memory=64)).group != replace(one, limits=Limits(memory=65)).group != one.group


def test_a_command_beside_a_limited_instance_has_its_files_and_environment(target: LocalTarget, image: Image) -> None:
    async def main() -> None:
        wanted = replace(release(image), limits=Limits(open_files=64))
        await up(target, wanted)
        asks = CommandProbe(("sh", "-c", 'test "$VERSION" = one && test -e app/serve.py'))
        assert await target.unready(wanted.group, asks) is None

    anyio.run(main)
