"""Actions: what their name covers, and what their results say when they are not what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import Action, ActionResult, Blob, CommandFailed, LockgateError, Service, Store, Tree
from pipeline.action import Output

BLOB, TREE = Blob(digest="a" * 64, size=1), Tree(digest="b" * 64, files=1, size=1)
SERVICE = Service(name="db", argv=("postgres", "-D", "data", "-p", "1"), port=5432)
WHOLE: dict[str, Any] = {
    "argv": ("tool", "check"), "inputs": {"src": TREE, "f": BLOB}, "tools": {"site": TREE}, "env": {"A": "1"},
    "outputs": ("report",), "image": "python:3", "network": True, "secrets": {"T": "token"}, "services": (SERVICE,),
}  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        {"argv": ("tool", "check", "")},
        {"inputs": {"src": TREE, "f": Blob(digest="c" * 64, size=1)}},
        {"inputs": {"src": TREE, "g": BLOB}},
        {"tools": {}},
        {"env": {"A": "2"}},
        {"outputs": ()},
        {"image": ""},
        {"cwd": "src"},
        {"network": False},
        {"secrets": {"T": "other"}},
        {"services": (SERVICE.model_copy(update={"env": {"PGDATA": "x"}}),)},
        {"dockerfile": "Dockerfile"},
    ],
)
def test_everything_an_output_may_depend_on_is_part_of_the_name_of_an_action(other: dict[str, Any]) -> None:
    assert Action(**WHOLE).digest() == Action(**WHOLE).digest()
    assert Action(**{**WHOLE, **other}).digest() != Action(**WHOLE).digest()


def test_caches_are_no_part_of_it() -> None:
    assert Action(**WHOLE, caches={".cache": "kept"}).digest() == Action(**WHOLE).digest()


def test_a_service_is_shown_by_its_name_and_how_its_command_begins() -> None:
    assert SERVICE.summary() == "db: postgres -D data"
    assert SERVICE.address("127.0.0.1", 1) == {"DB_HOST": "127.0.0.1", "DB_PORT": "1"}


@pytest.fixture
def result(tmp_path: Path) -> ActionResult:
    store = Store(tmp_path)
    outputs = {"f": Output("f", store.put(b"x"), store), "d": Output("d", store.tree([]), store)}
    return ActionResult(
        action=Action(argv=("tool", "check", "-v", "src", "more")),
        exit_code=3,
        log=tmp_path / "log",
        tail="first\n  last words \n\n",
        outputs=outputs,
        seconds=1.0,
        network="refused",
    )


def test_an_exit_code_that_was_not_allowed_is_said_with_the_last_words_and_what_was_allowed(result: ActionResult) -> None:
    assert result.require(3) is result
    with pytest.raises(CommandFailed) as caught:
        result.require(1, 2)
    assert str(caught.value) == "`tool check -v src ...` ended with exit code 3: last words\n  expected: exit code 0 or 1 or 2"
    assert (caught.value.exit_code, caught.value.tail) == (3, result.tail)


def test_an_output_that_was_not_left_is_the_failure_of_the_command(result: ActionResult) -> None:
    with pytest.raises(CommandFailed, match=r"(?s)exit code 3: last words.*expected: the file report.xml"):
        result.output("report.xml")


def test_a_command_that_said_nothing_is_said_to_have_said_nothing() -> None:
    assert "exit code 1: it printed nothing" in str(CommandFailed(("true",), 1, " \n"))


def test_a_file_is_not_taken_for_a_directory_nor_a_directory_for_a_file(result: ActionResult) -> None:
    assert result.output("f").read() == b"x"
    assert result.output("d").tree.files == 0
    with pytest.raises(LockgateError, match="the output 'd' is a directory"):
        result.output("d").read()
    with pytest.raises(LockgateError, match="the output 'f' is a file"):
        _ = result.output("f").tree
