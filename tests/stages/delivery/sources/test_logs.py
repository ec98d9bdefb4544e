"""Lines of logs that real files get while they are followed."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import WiringError, Work
from stages.delivery.sources.logs import LONGEST, File, LogMetrics, LogShare
from stages.delivery.strategy import BlueGreen
from stages.delivery.target import Logs
from stages.image import Image
from tests.stages.delivery.bench import Bench
from tests.stages.delivery.conftest import release
from tests.stages.delivery.load import Load
from tests.stages.delivery.sources.watching import Seen


class Directory:
    """A target whose groups are directories of logs."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def open(self, work: Work) -> Logs:
        return self

    def logs(self, group: str) -> list[Path]:
        return sorted((self.place / group).glob("*.log"))

    def say(self, group: str, text: str, name: str = "1.log") -> None:
        (self.place / group).mkdir(exist_ok=True)
        with (self.place / group / name).open("a") as file:
            file.write(text)


def share(target: Directory) -> LogShare:
    return LogShare(name="orders", target=target, of="^order ", bad=r"given up$", every=0.01)


def test_finished_lines_count_from_the_beginning_of_the_watch_in_the_logs_of_all_instances(tmp_path: Path) -> None:
    target = Directory(tmp_path)
    target.say("one", "order given up\n" * 50 + "order ")
    target.say("two", "")

    async def main() -> None:
        async with LogMetrics(share(target), print, target).watch({"one"}, {"two"}) as counted:
            seen = Seen(counted)
            await seen.known()
            target.say("one", "given up\norder done\nnothing\norder given up\norder given ")
            target.say("two", "order given up\n", name="2.log")
            await seen.reach((1, 2), (1, 1))
            target.say("one", "up\n")
            target.say("two", "order done\n")
            await seen.reach((2, 3), (1, 2))

    anyio.run(main)


def test_a_log_that_is_rotated_or_truncated_is_followed_on(tmp_path: Path) -> None:
    target = Directory(tmp_path)
    for group in ("one", "two"):
        target.say(group, "order done\n" * 3)

    async def main() -> None:
        async with LogMetrics(share(target), print, target).watch({"one"}, {"two"}) as counted:
            seen = Seen(counted)
            await seen.known()
            with (tmp_path / "one/1.log").open("a") as still_open:
                os.rename(tmp_path / "one/1.log", tmp_path / "one/1.old")
                still_open.write("order given up\n")
            target.say("one", "order done\n")
            target.say("two", "order done\n")
            await seen.reach((1, 2), (0, 1))
            os.truncate(tmp_path / "two/1.log", 0)
            target.say("two", "order given up\n")
            target.say("one", "order done\n")
            await seen.reach((1, 3), (1, 2))

    anyio.run(main)


def test_a_group_without_a_log_is_unknown(tmp_path: Path) -> None:
    target = Directory(tmp_path)
    target.say("one", "order done\n")

    async def main() -> None:
        said: list[str] = []
        async with LogMetrics(share(target), said.append, target).watch({"one"}, {"two"}) as counted:
            assert counted.shares() == [None, None]
        assert said == ["orders: two has no log"]

    anyio.run(main)


def test_what_instances_of_a_target_say_is_counted(bench: Bench, image: Image) -> None:
    async def main() -> None:
        one = release(image, instances=2, GIVES_UP="2")
        await bench.rollout(one).forward(BlueGreen())
        followed = LogShare(name="orders", target=Directory(Path()), of="^order ", bad=r"given up$", every=0.05)
        async with LogMetrics(followed, print, bench.target).watch({one.group}) as counted:
            seen = Seen(counted, sides=1)
            with Load(bench.router.config.port, posts=False) as load:
                await anyio.to_thread.run_sync(load.more, 20)
            await seen.until(lambda: seen.sums[0][1] >= load.sent)
        ((bad, all_of_them),) = seen.sums
        assert all_of_them == load.sent
        assert all_of_them // 2 - 2 <= bad <= all_of_them // 2

    anyio.run(main)


@given(
    texts=st.lists(st.text(alphabet="ab\né", max_size=5).map(str.encode), max_size=12), begins=st.text(alphabet="x\n", max_size=3)
)
def test_however_a_line_is_written_it_is_told_once_and_whole(
    texts: list[bytes], begins: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_text(begins)
    file = File(path, from_its_end=True)
    told = []
    for text in texts:
        with path.open("ab") as log:
            log.write(text)
        told += list(file.lines())
    file.close()
    whole = b"".join(texts).decode().split("\n")[:-1]
    assert told == (whole if begins.endswith("\n") or not begins else whole[1:])


def test_a_line_without_an_end_takes_no_memory_and_its_beginning_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"begin" + b"x" * (3 << 20) + b"\nnext\n")
    file = File(path)
    lines = list(file.lines())
    file.close()
    assert [line[:5] for line in lines] == ["begin", "next"]
    assert len(lines[0]) == LONGEST


def test_a_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WiringError, match="'\\('"):
        LogShare(name="orders", target=Directory(tmp_path), of="(", bad="")
