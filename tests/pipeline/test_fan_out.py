"""Stages that are made of further stages, which are known once their inputs are."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from gates import Check, QualityGate
from gates.verdict import Verdict, failed, passed
from pipeline import (
    Action,
    Effect,
    FanOut,
    Journal,
    Only,
    Pipeline,
    Project,
    Resources,
    Result,
    Retry,
    Stage,
    StageFailed,
    Store,
    WiringError,
    Work,
)
from pipeline.errors import Exit
from pipeline.history import RunHistory, one
from pipeline.project import log_directory
from pipeline.run import Outcome
from pipeline.schedule import Capacity
from pipeline.settings import Settings
from tests import warm
from tests.pipeline.cli.test_cli import PYTHONPATH
from tests.pipeline.toys import Constant, FromFile, Half, Make, Number, Sends, Sum, Thing
from tests.running import run_pipeline


class Texts(Result):
    lines: tuple[str, ...]


class Lines(Stage[Texts]):
    """The lines of a file of the project."""

    path: str = "lines"

    def origin(self) -> str:
        return f"file {self.path}"

    def observe(self, project: Project) -> str:
        return (project.root / self.path).read_text()

    async def run(self, work: Work) -> Texts:
        return Texts(lines=tuple((work.project.root / self.path).read_text().splitlines()))


class Length(Stage[Number]):
    """How long a text is; leaves a line each time it runs. A text `bad` fails, `die` kills the run where a file says so."""

    text: str
    plus: tuple[Stage[Number], ...] = ()

    async def run(self, work: Work) -> Number:
        with (work.project.root / "did").open("a") as file:
            file.write(f"{work.name}\n")
        if self.text == "bad":
            raise StageFailed("a bad text")
        if self.text == "die" and (work.project.root / "deadly").exists():
            journal = Journal(work.project.home / "journal.db")
            while len(list(journal.events(work.run, kind="stage.finished"))) < 3:  # of the lines and the other parts
                await anyio.sleep(0.005)
            os.kill(os.getpid(), signal.SIGKILL)
        return Number(value=len(self.text) + sum(work[stage].value for stage in self.plus))


class Lengths(FanOut[Number, Number]):
    """The length of all lines, each counted by a stage of its own."""

    of: Stage[Texts]
    most: int = 20
    make: Callable[[str], Stage[Any]] = staticmethod(lambda text: Length(text=text))

    async def parts(self, work: Work) -> Mapping[str, Stage[Number]]:
        with (work.project.root / "asked").open("a") as file:
            file.write("for parts\n")
        return {text: self.make(text) for text in work[self.of].lines}

    async def join(self, work: Work, parts: Mapping[str, Number]) -> Number:
        return Number(value=sum(part.value for part in parts.values()))


class Weighs(Stage[Number]):
    of: Stage[Thing]

    async def run(self, work: Work) -> Number:
        return Number(value=work[self.of].value)


class Bench:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.project = Project(root=root, home=root / ".pipeline", settings=Settings())
        self.project.home.mkdir()
        self.journal = Journal(self.project.home / "journal.db")
        self.lines("a", "bb", "ccc")

    def lines(self, *texts: str) -> None:
        (self.root / "lines").write_text("".join(f"{text}\n" for text in texts))

    def run(self, whole: Stage[Any], **more: Any) -> tuple[Outcome, dict[str, Any], RunHistory]:
        made = Pipeline("thing", whole=whole, twice=Sum(parts=(whole, whole)))
        outcome, results = run_pipeline(made, self.project, Store(self.project.home / "store"), self.journal, **more)
        history = one(self.journal, outcome.run)
        assert history is not None
        return outcome, results, history

    def did(self, name: str = "did") -> list[str]:
        """What was left there since it was asked last."""
        place = self.root / name
        found = place.read_text().splitlines() if place.exists() else []
        place.unlink(missing_ok=True)
        return sorted(found)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def states(history: RunHistory) -> dict[str, str]:
    return {name: stage.state for name, stage in history.stages.items()}


def test_each_item_has_a_stage_of_its_own_and_the_whole_has_their_results(bench: Bench) -> None:
    outcome, results, history = bench.run(Lengths(of=Lines()))
    assert (outcome.exit, outcome.failed) == (Exit.PASSED, {})
    assert (results["whole"].value, results["twice"].value, results["whole[bb]"].value) == (6, 12, 2)
    assert bench.did() == ["whole[a]", "whole[bb]", "whole[ccc]"]
    assert set(states(history).values()) == {"passed"}
    assert history.stages["whole"].inputs == ["lines", "whole[a]", "whole[bb]", "whole[ccc]"]
    assert history.stages["whole[a]"].key != history.stages["whole[bb]"].key
    started = [event.stage for event in bench.journal.events(outcome.run, kind="stage.started")]
    assert sorted(started) == ["lines", "twice", "whole", "whole[a]", "whole[bb]", "whole[ccc]"]


def test_the_results_are_in_the_order_in_which_the_parts_were_given(bench: Bench) -> None:
    class Kept(Lengths):
        async def join(self, work: Work, parts: Mapping[str, Number]) -> Number:
            return Number(value=int("".join(str(part.value) for part in parts.values())))

    bench.lines("ccc", "a", "bb")
    assert bench.run(Kept(of=Lines()))[1]["whole"].value == 312


def test_where_nothing_changed_nobody_is_asked_for_parts(bench: Bench) -> None:
    bench.run(Lengths(of=Lines()))
    assert bench.did("asked") == ["for parts"]
    _, results, history = bench.run(Lengths(of=Lines()))
    assert bench.did("asked") == []
    assert states(history) == {"lines": "cached", "whole": "cached", "twice": "cached"}
    assert results["whole"].value == 6


def test_of_the_parts_only_those_run_that_changed(bench: Bench) -> None:
    bench.run(Lengths(of=Lines()))
    bench.did()
    bench.lines("a", "dddd", "ccc")
    _, results, history = bench.run(Lengths(of=Lines()))
    assert bench.did() == ["whole[dddd]"]
    assert results["whole"].value == 8
    assert states(history)["whole[a]"] == "cached"


def test_a_part_that_fails_blocks_the_whole_and_the_others_are_not_run_again(bench: Bench) -> None:
    bench.lines("a", "bad", "ccc")
    outcome, _, history = bench.run(Lengths(of=Lines()))
    assert (outcome.exit, outcome.failed) == (Exit.FAILED, {"whole[bad]": "a bad text"})
    found = states(history)
    assert (found["whole[a]"], found["whole"], found["twice"]) == ("passed", "blocked", "blocked")
    assert history.stages["whole"].reason == "whole[bad] did not pass"
    bench.did()
    bench.run(Lengths(of=Lines()))
    assert bench.did() == ["whole[bad]"]


def test_more_parts_than_there_may_be_are_refused_before_one_runs(bench: Bench) -> None:
    bench.lines(*(str(number) for number in range(21)))
    outcome, _, _ = bench.run(Lengths(of=Lines()))
    assert outcome.failed == {
        "whole": "whole would come to 21 stages or more\n  expected: at most 20, or a larger `most` of whole"
    }
    assert bench.did() == []


def test_parts_of_which_nobody_knows_the_number_are_refused_at_the_first_too_many(bench: Bench) -> None:
    class Unnumbered(dict[str, Stage[Number]]):
        def items(self) -> Any:
            return ((str(number), Constant(value=number)) for number in range(1000))

    class Whole(FanOut[Number, Number]):
        async def parts(self, work: Work) -> Mapping[str, Stage[Number]]:
            return Unnumbered()

        async def join(self, work: Work, parts: Mapping[str, Number]) -> Number:
            return Number(value=0)

    outcome, _, _ = bench.run(Whole(most=20))
    assert outcome.failed["whole"].startswith("whole would come to 21 stages or more")


def test_a_whole_may_have_no_parts(bench: Bench) -> None:
    bench.lines()
    outcome, results, _ = bench.run(Lengths(of=Lines()))
    assert (outcome.exit, results["whole"].value) == (Exit.PASSED, 0)


def test_parts_may_rest_on_further_stages_and_on_inputs_of_the_whole(bench: Bench) -> None:
    class Rests(Lengths):
        base: Stage[Number]

        async def parts(self, work: Work) -> Mapping[str, Stage[Number]]:
            shared = Half(of=self.base)
            return {text: Sum(parts=(shared, Half(of=shared), Length(text=text))) for text in work[self.of].lines}

    outcome, results, history = bench.run(Rests(of=Lines(), base=Constant(value=8)))
    assert (outcome.failed, results["whole"].value) == ({}, 3 * (4 + 2) + 6)
    names = {name for name in states(history) if name.startswith("whole[")}
    assert names == {
        *("whole[a]", "whole[a/half]", "whole[a/half-2]", "whole[a/length]", "whole[bb]", "whole[bb/half]"),
        *("whole[bb/length]", "whole[ccc]", "whole[ccc/half]", "whole[ccc/length]"),
    }
    assert history.stages["whole[a/half]"].inputs == ["constant"]


def gate(text: str) -> Stage[Any]:
    number = Constant(value=1)
    return QualityGate(artifact=Make(of=number), checks=(Check(evidence=number, rule=lambda found: passed("it", "is")),))


constant = Constant(value=1)

REFUSED: dict[str, tuple[Callable[[str], Any], str]] = {
    "an effect": (lambda text: Sends(of=Constant(value=1), file=Path("/nowhere")), r"whole\[a\], .*has a side effect \(once\)"),
    "a source": (lambda text: FromFile(path="n"), r"whole\[a\], .*reads the project or the machine"),
    "a source below": (lambda text: Half(of=FromFile(path="n")), r"whole\[a/from_file\], .*reads the project or the machine"),
    "another fan-out": (lambda text: Lengths(of=Lines()), "reads the project"),
    "an artifact below": (lambda text: Weighs(of=Make(of=Constant(value=1))), r"whole\[a/make\], .*makes an artifact, which the"),
    "a condition": (lambda text: Constant(value=1, only=Only(branch=("main",))), "has a condition"),
    "another type": (
        lambda text: Make(of=Constant(value=1)),
        "the part .a. of whole returns Thing\n  expected: Number",
    ),
    "no stage": (lambda text: 1, r"the part 'a' of whole is a int\n  expected: a Stage\[Number\]"),
    "one for all": (lambda text: constant, r"one stage is the part whole\[a\] and the part whole\[bb\]"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_run_cannot_take_in_while_it_goes_on_is_refused(bench: Bench, what: str) -> None:
    make, why = REFUSED[what]
    outcome, _, _ = bench.run(Lengths(of=Lines(), make=make))
    (said,) = outcome.failed.values()
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(said)
    assert bench.did() == []


def test_parts_may_make_artifacts_where_the_whole_is_one(bench: Bench) -> None:
    class Makes(FanOut[Thing, Thing]):
        async def parts(self, work: Work) -> Mapping[str, Stage[Thing]]:
            return {"a": Make(of=Constant(value=3))}

        async def join(self, work: Work, parts: Mapping[str, Thing]) -> Thing:
            return parts["a"]

    outcome, results = run_pipeline(
        Pipeline("thing", whole=Makes()), bench.project, Store(bench.project.home / "store"), bench.journal
    )
    assert (outcome.failed, results["whole"]) == ({}, Thing(value=3))


def test_a_gate_that_is_made_while_the_run_goes_on_is_refused(bench: Bench) -> None:
    class Gates(FanOut[Result, Thing]):
        async def parts(self, work: Work) -> Mapping[str, Stage[Result]]:
            return {"a": gate("a")}

        async def join(self, work: Work, parts: Mapping[str, Result]) -> Thing:
            return Thing(value=1)

    assert "whole[a], a part that is made while the run goes on, is a gate" in bench.run(Gates())[0].failed["whole"]


def test_a_part_takes_nothing_of_the_pipeline_that_the_whole_does_not_name(bench: Bench) -> None:
    other = Constant(value=2)
    whole = Lengths(of=Lines(), make=lambda text: Half(of=other))
    outcome, _ = run_pipeline(
        Pipeline("thing", other=other, whole=whole), bench.project, Store(bench.project.home / "store"), bench.journal
    )
    assert outcome.failed == {
        "whole": "a part of whole takes other, which is not one of the inputs of whole\n"
        "  expected: a field of Lengths that holds other, which is handed on to the part"
    }
    outcome, _, _ = bench.run(Lengths(of=Lines(), make=lambda text: Half(of=whole)))
    assert "whole is" not in outcome.failed["whole"]


def test_a_part_of_a_member_of_a_matrix_is_no_stage_of_the_pipeline() -> None:
    lines = Lines()
    made = Pipeline("thing", whole=(Lengths(of=lines, most=1), Lengths(of=lines, most=2)))
    with pytest.raises(WiringError, match=r"the parts of whole\[1\] are known while it runs"):
        made["whole[1][a]"]


def test_a_fan_out_has_no_side_effect_itself() -> None:
    with pytest.raises(WiringError, match=r"Sending has parts and a side effect \(once\)"):

        class Sending(Lengths):
            effect = Effect.ONCE


def test_a_fan_out_that_does_not_say_what_it_returns_is_refused_when_the_pipeline_is_built() -> None:
    class Open(FanOut):  # type: ignore[type-arg]
        async def parts(self, work: Work) -> Mapping[str, Stage[Number]]:
            return {}

        async def join(self, work: Work, parts: Mapping[str, Number]) -> Number:
            return Number(value=0)

    with pytest.raises(WiringError, match=r"Open does not say what its parts and itself return\n  expected: class Open\(FanOut"):
        Pipeline("thing", whole=Open())


@pytest.mark.parametrize("label", ["", " a", "a\nb", "x" * 300])
def test_a_label_that_cannot_stand_in_a_name_is_refused(bench: Bench, label: str) -> None:
    class Labelled(Lengths):
        async def parts(self, work: Work) -> Mapping[str, Stage[Number]]:
            return {label: Length(text="a")}

    assert "expected: a label that can be seen" in bench.run(Labelled(of=Lines()))[0].failed["whole"]


def test_whoever_cannot_say_what_the_parts_are_is_asked_again_as_the_stage_says(bench: Bench) -> None:
    class Hesitates(Lengths):
        async def parts(self, work: Work) -> Mapping[str, Stage[Number]]:
            if work.attempt == 1:
                raise StageFailed("not yet")
            return await super().parts(work)

    outcome, results, history = bench.run(Hesitates(of=Lines(), retry=Retry(times=1, wait=0)))
    assert (outcome.failed, results["whole"].value, history.stages["whole"].attempts) == ({}, 6, 2)


def test_a_join_that_fails_is_tried_again_without_the_parts(bench: Bench) -> None:
    class Joins(Lengths):
        async def join(self, work: Work, parts: Mapping[str, Number]) -> Number:
            if work.attempt == 1:
                raise StageFailed("not yet")
            return await super().join(work, parts)

    outcome, results, _ = bench.run(Joins(of=Lines(), retry=Retry(times=1, wait=0)))
    assert (outcome.failed, results["whole"].value) == ({}, 6)
    assert bench.did() == ["whole[a]", "whole[bb]", "whole[ccc]"]
    assert bench.did("asked") == ["for parts"]


def test_what_a_part_takes_is_an_input_of_which_the_whole_takes_the_result(bench: Bench) -> None:
    class After(Lengths):
        async def parts(self, work: Work) -> Mapping[str, Stage[Number]]:
            return {"a": Half(of=self.after[0])}  # no part of the key of the whole, which would be cached over a change of it

    other = Constant(value=2)
    outcome, _, _ = bench.run(After(of=Lines(), after=(other,)))
    assert "a part of whole takes constant, which whole only comes after" in outcome.failed["whole"]
    waits = Lengths(of=Lines(), after=(other,), make=lambda text: Length(text=text, after=(other,)))
    assert bench.run(waits)[0].failed == {}


class Signed(Result):
    """What only a class that there is not may issue."""

    issuer: ClassVar[str] = "nowhere.Signs"


class Forges(Stage[Signed]):
    async def run(self, work: Work) -> Signed:
        return Signed()


class Undoes(Stage[Number]):
    async def run(self, work: Work) -> Number:
        return Number(value=1)

    async def undo(self, work: Work, result: Any) -> None: ...


class OfAny(FanOut[Result, Number]):
    make: Callable[[], Stage[Any]]

    async def parts(self, work: Work) -> Mapping[str, Stage[Result]]:
        return {"a": self.make()}

    async def join(self, work: Work, parts: Mapping[str, Result]) -> Number:
        return Number(value=1)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Forges, r"whole[a] returns Signed, which only nowhere.Signs may issue"),
        (Undoes, r"whole[a] defines undo and has no side effect"),
    ],
)
def test_a_part_is_checked_as_the_stages_of_a_pipeline_are(bench: Bench, make: Callable[[], Stage[Any]], why: str) -> None:
    outcome, _, _ = bench.run(OfAny(make=make))
    assert why in outcome.failed["whole"]


def test_a_part_that_would_never_fit_fails_the_whole(bench: Bench) -> None:
    large = Resources(memory=200)
    whole = Lengths(of=Lines(), make=lambda text: Length(text=text, resources=large))
    outcome, _, _ = bench.run(whole, capacity=Capacity(cpu=2, memory=100))
    assert (outcome.exit, "whole[a] needs 200 MiB of memory" in outcome.failed["whole"]) == (Exit.FAILED, True)
    assert bench.run(whole, capacity=Capacity(cpu=2, memory=200))[1]["whole"].value == 6


class Counts(Stage[Number]):
    """How often it ran before."""

    async def run(self, work: Work) -> Number:
        with (work.project.root / "counts").open("a+") as file:
            file.seek(0)
            before = len(file.read())
            file.write("x")
        return Number(value=before)


class Fleeting(Number):
    def reusable(self) -> bool:
        return False


class CountsAnew(Stage[Fleeting]):
    async def run(self, work: Work) -> Fleeting:
        return Fleeting(value=(await Counts().run(work)).value)


@pytest.mark.parametrize("make", [CountsAnew, lambda: Sum(parts=(CountsAnew(),))])
def test_a_whole_that_rests_on_what_no_later_run_may_take_is_made_again(bench: Bench, make: Callable[[], Stage[Any]]) -> None:
    class Last(FanOut[Number, Number]):
        async def parts(self, work: Work) -> Mapping[str, Stage[Number]]:
            return {"a": make()}

        async def join(self, work: Work, parts: Mapping[str, Number]) -> Number:
            return Number(value=parts["a"].value)

    assert [bench.run(Last())[1]["whole"].value for _ in range(3)] == [0, 1, 2]


def test_evidence_that_a_judge_said_no_to_is_made_again_with_its_parts(bench: Bench) -> None:
    def some(found: Number) -> Verdict:
        return passed("some", "some") if found.value else failed("some", "none", wanted="some")

    bench.lines("a")
    whole = Lengths(of=Lines(), make=lambda text: Counts())
    pipeline, store = Pipeline("thing", whole=whole, check=Check(evidence=whole, rule=some)), Store(bench.project.home / "store")
    exits = [run_pipeline(pipeline, bench.project, store, bench.journal)[0].exit for _ in range(3)]
    assert exits == [Exit.FAILED, Exit.PASSED, Exit.PASSED]


def test_a_whole_that_is_to_run_again_has_its_parts_run_again(bench: Bench) -> None:
    bench.run(Lengths(of=Lines()))
    bench.did()
    _, _, history = bench.run(Lengths(of=Lines()), again=frozenset({"whole"}))
    assert bench.did() == ["whole[a]", "whole[bb]", "whole[ccc]"]
    assert states(history)["lines"] == "cached"


def test_what_a_part_takes_is_for_the_part_to_weigh(bench: Bench) -> None:
    class Worrying(Number):
        def concern(self) -> str:
            return "no"

    class Worries(Stage[Worrying]):
        async def run(self, work: Work) -> Worrying:
            return Worrying(value=1)

    bench.lines("a")
    outcome, results, _ = bench.run(Lengths(of=Lines(), make=lambda text: Sum(parts=(Worries(),))))
    assert (outcome.failed, results["whole"].value) == ({}, 1)


def test_the_parts_and_the_join_are_of_one_attempt_with_one_log(bench: Bench) -> None:
    class Prints(Lengths):
        async def parts(self, work: Work) -> Mapping[str, Stage[Number]]:
            await work.execute(Action(argv=("echo", "parts")))
            if work.attempt == 1:
                raise StageFailed("not yet")
            return await super().parts(work)

        async def join(self, work: Work, parts: Mapping[str, Number]) -> Number:
            await work.execute(Action(argv=("echo", "join")))
            if work.attempt == 2:
                raise StageFailed("not yet")
            return await super().join(work, parts)

    outcome, _, history = bench.run(Prints(of=Lines(), retry=Retry(times=2, wait=0)))
    assert (outcome.failed, history.stages["whole"].attempts) == ({}, 3)
    logs = {path.name: path.read_text().strip() for path in log_directory(bench.project.home, outcome.run, "whole").iterdir()}
    assert logs == {"1-1.log": "parts", "2-1.log": "parts", "2-2.log": "join", "3-1.log": "join"}


def test_what_a_stage_returned_when_it_last_ran_may_divide_its_work(bench: Bench) -> None:
    seen: list[Any] = []

    class Remembers(Lengths):
        async def parts(self, work: Work) -> Mapping[str, Stage[Number]]:
            seen.append(work.latest(self))
            return await super().parts(work)

    bench.run(Remembers(of=Lines()))
    bench.run(Remembers(of=Lines()))
    bench.lines("a")
    bench.run(Remembers(of=Lines()))
    shutil.rmtree(bench.project.home / "store")
    bench.lines("b")
    bench.run(Remembers(of=Lines()))
    assert seen == [None, Number(value=6), None]


DELIVERY = """
from pipeline import Pipeline
from tests.pipeline.test_fan_out import Lengths, Lines
from tests.pipeline.toys import Half
lines = Lines()
whole = Lengths(of=lines)
pipeline = Pipeline("thing", lines=lines, whole=whole, half=Half(of=whole))
"""


@pytest.fixture
def place(bench: Bench) -> Callable[..., Any]:
    (bench.root / "pyproject.toml").write_text('[tool.pipeline]\nengine = "host"\n')
    (bench.root / "delivery.py").write_text(DELIVERY)

    def call(*words: str) -> Any:
        return warm.run(
            ["-m", "pipeline", *words], cwd=bench.root, env={**os.environ, "PYTHONPATH": PYTHONPATH, "COLUMNS": "120"}
        )

    return call


def test_a_run_killed_in_a_part_goes_on_with_the_parts_that_had_not_ended(bench: Bench, place: Callable[..., Any]) -> None:
    bench.lines("a", "bb", "die")
    (bench.root / "deadly").touch()
    assert place("run", "--jobs", "1").returncode == -signal.SIGKILL
    assert bench.did() == ["whole[a]", "whole[bb]", "whole[die]"]
    (bench.root / "deadly").unlink()
    done = place("resume", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert bench.did() == ["whole[die]"]
    assert "✓ whole" in done.stdout


def test_parts_are_shown_logged_and_explained(bench: Bench, place: Callable[..., Any]) -> None:
    planned = place("plan").stdout
    assert "whole[" not in planned
    done = place("run", "--output", "json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    (grown,) = [event for event in events if event["kind"] == "stage.expanded"]
    assert [part["name"] for part in grown["stages"]] == ["whole[a]", "whole[bb]", "whole[ccc]"]
    assert [part["type"] for part in grown["stages"]] == ["Length"] * 3
    assert "whole[bb]" in place("report").stdout
    assert place("logs", "whole[bb]").returncode == 0
    done = place("explain", "whole[bb]")
    assert (
        done.returncode,
        "whole[bb] is no stage of the pipeline: the parts of whole are known while it runs" in done.stderr,
    ) == (
        2,
        True,
    )
    bench.lines("a", "dddd", "ccc")
    said = place("run").stdout
    assert "✓ whole[dddd]" in said
    assert "≡ whole[a]: 1 (cached: nothing it depends on changed" in said


@hypothesis(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=st.lists(st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "eeeee"]), unique=True, max_size=5), max_size=4))
def test_whatever_the_items_are_each_is_worked_on_once(tmp_path_factory: pytest.TempPathFactory, runs: list[list[str]]) -> None:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    known, wholes = set[str](), set[tuple[str, ...]]()
    for texts in runs:
        bench.lines(*texts)
        _, results, _ = bench.run(Lengths(of=Lines()))
        assert results["whole"].value == sum(map(len, texts))
        fresh = set(texts) - known if tuple(texts) not in wholes else set()
        assert bench.did() == sorted(f"whole[{text}]" for text in fresh)
        known |= fresh
        wholes.add(tuple(texts))
