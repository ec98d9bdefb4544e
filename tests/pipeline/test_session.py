"""A project opened for work, and whose state directory it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import Event, database
from pipeline.cli.main import main
from pipeline.database import MUCH
from pipeline.errors import ConfigError
from pipeline.session import Session

PIPELINE = """
from pipeline import Pipeline
from tests.pipeline.toys import Constant
pipeline = Pipeline("{name}", deploy=Constant(value=1))
"""


def project(root: Path, name: str) -> Path:
    root.mkdir()
    (root / "pyproject.toml").write_text("[tool.pipeline]\nengine = 'host'\n")
    (root / "delivery.py").write_text(PIPELINE.format(name=name))
    return root


LONG = """
from pipeline import Pipeline, Result, Stage, Work


class Text(Result):
    text: str


class Writes(Stage[Text]):
    number: int

    async def run(self, work: Work) -> Text:
        return Text(text=str(self.number) * 5_000)


pipeline = Pipeline("long", writes=tuple(Writes(number=number) for number in range(100, 100 + MANY)))
"""


def opened(root: Path, home: Path) -> Session:
    return Session.open(root, {"PIPELINE_HOME": str(home)})


def claimed(root: Path, home: Path) -> Session:
    """Opened by a run."""
    found = opened(root, home)
    found.claim()
    return found


def test_the_state_of_one_pipeline_is_refused_to_another_and_both_are_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    claimed(project(tmp_path / "a", "shop"), home)
    with pytest.raises(ConfigError, match="the state of the pipeline 'shop', and this one is 'billing'") as caught:
        opened(project(tmp_path / "b", "billing"), home)
    assert "set PIPELINE_HOME to another directory" in caught.value.next
    claimed(tmp_path / "a", home)  # it is still its own
    claimed(tmp_path / "b", tmp_path / "another")


def test_who_only_plans_claims_nothing_and_who_runs_first_has_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first, second = opened(project(tmp_path / "a", "shop"), home), opened(project(tmp_path / "b", "billing"), home)
    second.claim()
    with pytest.raises(ConfigError, match="the state of the pipeline 'billing', and this one is 'shop'"):
        first.claim()


def test_one_pipeline_checked_out_twice_or_moved_keeps_its_state(tmp_path: Path) -> None:
    home = tmp_path / "home"
    claimed(project(tmp_path / "a", "shop"), home)
    opened(project(tmp_path / "b", "shop"), home)
    (tmp_path / "b").rename(tmp_path / "c")
    assert claimed(tmp_path / "c", home).project.home == home


def test_a_pipeline_that_was_renamed_takes_its_state_along_when_people_say_so(tmp_path: Path) -> None:
    root, home = project(tmp_path / "a", "shop"), tmp_path / "home"
    claimed(root, home)
    (root / "delivery.py").write_text(PIPELINE.format(name="store"))
    with pytest.raises(ConfigError, match="this one is 'store'") as caught:
        opened(root, home)
    assert f"echo store > {home / 'owner'}" in caught.value.next
    (home / "owner").write_text("store\n")
    claimed(root, home)


def test_what_says_whose_state_it_is_may_be_damaged(tmp_path: Path) -> None:
    home = tmp_path / "home"
    claimed(project(tmp_path / "a", "shop"), home)
    (home / "owner").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"the state of the pipeline '..', and this one is 'shop'"):
        opened(tmp_path / "a", home)
    (home / "owner").unlink()
    os.mkfifo(home / "owner")  # to read it would be to wait
    with pytest.raises(ConfigError, match="no file says whose state this is"):
        opened(tmp_path / "a", home)


def test_what_a_full_disk_left_of_a_state_directory_is_made_whole(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitignore").touch()
    opened(project(tmp_path / "a", "shop"), home)
    assert (home / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("many", [1, 100])
def test_who_opens_journal_and_store_after_a_run_does_not_wait_for_what_it_has_written(tmp_path: Path, many: int) -> None:
    root = project(tmp_path / "a", "long")
    (root / "delivery.py").write_text(LONG.replace("MANY", str(many)))
    assert main(["run", "-C", str(root)]) == 0
    waiting = [path.stat().st_size for path in root.rglob("*-wal")]
    assert len(waiting) == (2 if many == 1 else 1)  # of little nobody takes up anything: that takes its time
    assert max(waiting) < MUCH
    found = opened(root, root / ".pipeline")
    assert len(list(found.journal.events(kind="stage.finished"))) == many
    assert found.plan().settled()


def test_a_journal_that_was_left_is_opened_again_by_who_writes_or_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MUCH", 0)
    session = claimed(project(tmp_path / "a", "shop"), tmp_path / "home")
    session.journal.append(Event(run="r", kind="a"))
    session.leave()
    assert not list((tmp_path / "home").glob("*-wal"))
    session.journal.check()
    session.journal.append(Event(run="r", kind="b"))
    session.journal.check()
    session.leave()
    assert [event.kind for event in session.journal.events()] == ["a", "b"]
