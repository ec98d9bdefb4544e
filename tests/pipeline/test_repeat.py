"""Runs with nothing to do: known again only where everything is as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import Facts, Only, Pipeline, Stage
from pipeline.plan import World, skips
from pipeline.repeat import fingerprint
from tests.pipeline.toys import Constant, Half, Sends, Sum


def world(**more: Any) -> World:
    given: dict[str, Any] = {"facts": Facts(), "engine": "host", "platform": "here", "observed": {}}
    return World(**{"lookup": {}.get, "last": {}.get, **given, **more})


def print_of(pipeline: Pipeline, world_: World | None = None, *wanted: Stage[Any]) -> str | None:
    chosen = pipeline.upstream(wanted) if wanted else frozenset(pipeline)
    there = world_ or world()
    return fingerprint(pipeline, chosen, skips(pipeline, chosen, there), there)


def wired(value: int = 1, plus: int = 0, *, name: str = "thing", **more: Any) -> Pipeline:
    source, other = Constant(value=value), Constant(value=7)
    return Pipeline(name, source=source, other=other, half=Half(of=source), total=Sum(parts=(source, other), plus=plus), **more)


def test_the_same_pipeline_in_the_same_world_has_the_same_print() -> None:
    assert print_of(wired()) == print_of(wired()) is not None


def test_whatever_a_plan_follows_from_is_in_the_print() -> None:
    source, other = Constant(value=1), Constant(value=7)
    crossed = Pipeline("thing", source=source, other=other, half=Half(of=other), total=Sum(parts=(source, other), plus=0))
    turned = Pipeline("thing", source=source, other=other, half=Half(of=source), total=Sum(parts=(other, source), plus=0))
    base = wired()
    prints = [
        print_of(base),
        print_of(wired(value=2)),
        print_of(wired(plus=1)),
        print_of(wired(name="other-thing")),
        print_of(wired(more=Constant(value=1))),
        print_of(crossed),
        print_of(turned),
        print_of(base, world(platform="elsewhere")),
        print_of(base, world(engine="dagger")),
        print_of(base, world(observed={base["source"]: "x"})),
        print_of(base, None, base["half"]),
        print_of(wired(more=Constant(value=1, only=Only(branch=("main",))))),
    ]
    assert None not in prints
    assert len(set(prints)) == len(prints)


def test_what_follows_from_more_has_no_print(tmp_path: Path) -> None:
    source = Constant(value=1)
    assert print_of(Pipeline("thing", send=Sends(of=source, file=tmp_path))) is None
    assert print_of(wired(), world(again=frozenset({"half"}))) is None


@pytest.mark.parametrize("branch", ["main", "topic"])
def test_an_effect_that_is_skipped_keeps_nobody_from_it(tmp_path: Path, branch: str) -> None:
    send = Sends(of=Constant(value=1), file=tmp_path, only=Only(branch=("main",)))
    found = print_of(Pipeline("thing", send=send), world(facts=Facts(branch=branch)))
    assert (found is None) == (branch == "main")
