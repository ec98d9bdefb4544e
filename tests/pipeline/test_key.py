"""Keys: what they are made of, and that nothing that matters is left out."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from pipeline import Result, Stage, WiringError, Work
from pipeline.digest import canonical
from pipeline.key import code, components, plain, text
from stages.ruff import Lint
from tests import warm
from tests.pipeline.toys import Constant, Number, Sum

ROOT = Path(__file__).parents[2]


class Colour(Enum):
    RED = 1


@dataclass(frozen=True)
class Limit:
    at_most: int


class Model(Result):
    x: int


class Rule(BaseModel):
    name: str


class AtMost(Rule):
    most: int


class Policy(BaseModel):
    rules: tuple[Rule, ...] = ()
    unseen: int = Field(default=0, exclude=True)


class When(BaseModel):
    day: date


def adder(number: int) -> Any:
    return lambda value: value + number


def other(number: int) -> Any:
    return lambda value: value - number


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (adder(1), adder(2)),
        (adder(1), other(1)),
        (Limit(1), Limit(2)),
        (Model(x=1), Model(x=2)),
        (Policy(rules=(AtMost(name="a", most=1),)), Policy(rules=(AtMost(name="a", most=2),))),
        (Policy(rules=(AtMost(name="a", most=1),)), Policy(rules=(Rule(name="a"),))),
        (Policy(unseen=1), Policy(unseen=2)),
        (When(day=date(2026, 1, 1)), When(day=date(2026, 1, 2))),
        (functools.partial(adder, 1), functools.partial(adder, 2)),
        (Path("a"), Path("b")),
        (b"a", b"b"),
        (Colour.RED, "RED"),
        (frozenset({1}), frozenset({2})),
        ({"a": 1}, {"a": 2}),
        (Limit, Model),
        (("a", "b"), ("ab",)),
        (1, True and "1"),
    ],
)
def test_different_settings_have_different_forms(one: Any, two: Any) -> None:
    assert plain(one, "x") != plain(two, "x")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("LIMIT = 50\ndef rule(n): return n <= LIMIT\n", "LIMIT = 1\ndef rule(n): return n <= LIMIT\n"),
        ("def rule(n, *, limit=50): return n <= limit\n", "def rule(n, *, limit=1): return n <= limit\n"),
        ("from other import LIMIT\ndef rule(n): return n <= LIMIT\n", None),
        ("def rule(n):\n    from other import LIMIT\n    return n <= LIMIT\n", None),
    ],
)
def test_what_a_function_rests_on_is_part_of_its_form(before: str, after: str | None, tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import rules; from pipeline.key import plain; print(plain(rules.rule, 'x'))"
    )
    forms = []
    for rules, other in ((before, "LIMIT = 50\n"), (after or before, "LIMIT = 1\n" if after is None else "LIMIT = 50\n")):
        (tmp_path / "rules.py").write_text(rules)
        (tmp_path / "other.py").write_text(other)
        command = [sys.executable, "-B", "-c", program, str(tmp_path)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        forms.append(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert forms[0] != forms[1]


@pytest.mark.parametrize(
    ("package", "rule"),
    [
        ("from .other import limit\n", "import package\ndef rule(n): return n <= package.limit()\n"),
        ("from . import other\n", "import package\ndef rule(n): return n <= package.other.limit()\n"),
        ("", "from package.near import LIMIT\ndef rule(n): return n <= LIMIT\n"),
    ],
)
def test_what_is_imported_from_beside_is_part_of_a_form(package: str, rule: str, tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text(rule)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text(package)
    (tmp_path / "package" / "near.py").write_text("from .other import LIMIT\n")
    show = "from pipeline.digest import of_json; from pipeline.key import plain; print(of_json(plain(rules.rule, 'x')))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    forms = set()
    for number in (50, 1):
        (tmp_path / "package" / "other.py").write_text(f"LIMIT = {number}\ndef limit(): return {number}\n")
        shutil.rmtree(tmp_path / "package" / "__pycache__", ignore_errors=True)
        forms.add(warm.run(["-c", f"import rules; {show}"], cwd=tmp_path, env=env).stdout)
    assert len(forms) == 2


def test_what_else_was_imported_and_by_whom_is_no_part_of_a_form(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text("import package\nfrom gates import MaxSize\ndef rule(n): return MaxSize(n)\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "module.py").touch()
    show = "from pipeline.digest import of_json; from pipeline.key import plain; print(of_json(plain(rules.rule, 'x')))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    forms = {
        warm.run(["-c", f"import rules; {more}{show}"], cwd=tmp_path, env=env).stdout
        for more in ("", "import package.module; ", "import gates.licences; ", "from gates import MinCoverage; ")
    } | {
        subprocess.run(
            [sys.executable, "-c", f"import rules; {show}"], env=env, capture_output=True, text=True, check=True
        ).stdout
    }
    assert len(forms) == 1


def test_equal_settings_have_one_form_whatever_their_order() -> None:
    assert plain(frozenset({"b", "a"}), "x") == plain(frozenset({"a", "b"}), "x") == ["a", "b"]
    assert plain(adder(1), "x") == plain(adder(1), "x")


def test_what_has_no_form_is_refused_with_its_place() -> None:
    with pytest.raises(WiringError, match=r"Stage.field holds a object, which cannot be part of a key"):
        plain(object(), "Stage.field")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_plain_data_stays_what_it_is(value: Any) -> None:
    assert plain(value, "x") == value


def test_the_code_of_a_stage_covers_the_modules_it_is_made_of() -> None:
    assert code(Lint) != code(Constant)
    assert len(code(Lint)) == 64
    assert code(int) == "built in"


def test_members_of_an_enum_are_told_apart_by_value_and_keys_of_a_mapping_by_type() -> None:
    def level(flag: str) -> Enum:
        return Enum("Level", {"FAST": flag}).FAST  # type: ignore[attr-defined, no-any-return]

    assert plain(level("-O1"), "x") != plain(level("-O3"), "x")
    assert plain({1: "a"}, "x") != plain({"1": "a"}, "x")


class Described(Stage[Number]):
    text: str = ""
    names: tuple[str, ...] = ()
    number: float = 0.0
    flag: bool = False
    whole: int = 0

    async def run(self, work: Work) -> Number:
        return Number(value=0)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    TEXT,
    st.lists(TEXT).map(tuple),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.integers(),
    st.none() | TEXT,
    TEXT,
)
def test_the_text_of_a_key_is_the_one_json_of_its_components(
    words: str, names: tuple[str, ...], number: float, flag: bool, whole: int, observed: str | None, platform: str
) -> None:
    stage = Described(text=words, names=names, number=number, flag=flag, whole=whole)
    about = {"observed": observed, "platform": platform}
    assert text(stage, {}, **about) == canonical(components(stage, {}, **about)).decode()  # type: ignore[arg-type]


@given(st.integers(0, 25))
def test_inputs_are_in_the_order_of_their_names_however_many(count: int) -> None:
    parts = tuple(Constant(value=number) for number in range(count))
    stage = Sum(parts=parts, after=(Constant(value=-1),))
    inputs: dict[Stage[Any], str] = {part: f"{number:064}" for number, part in enumerate(parts)}
    assert (
        text(stage, inputs, observed=None, platform="p")
        == canonical(components(stage, inputs, observed=None, platform="p")).decode()
    )


CODE = "import sys; sys.path[:0] = sys.argv[1:]; from ci.mine import Mine; from pipeline.key import code; print(code(Mine))"
MINE = """
from pipeline import Result, Stage
{imports}

class Mine(Stage[Result]):
    async def run(self, work):
        return Result()
"""


def code_of_mine(*paths: Path) -> str:
    """The digest of `Mine` in a process that has loaded nothing of it yet."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return warm.run(["-c", CODE, *map(str, paths)], cwd=paths[0], env=env).stdout


@pytest.mark.parametrize("imports", ["from common import VALUE", "import common", "from lib.deep import VALUE"])
def test_the_code_of_a_stage_covers_what_its_file_imports_from_anywhere_in_the_project(tmp_path: Path, imports: str) -> None:
    files = {"ci/mine.py": MINE.format(imports=imports), "common.py": "VALUE = 1", "lib/deep.py": "from common import VALUE"}
    for name, text_ in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text_)
    before = code_of_mine(tmp_path)
    assert len(before) == 65
    (tmp_path / "common.py").write_text("VALUE = 2")
    assert code_of_mine(tmp_path) != before


def test_the_code_of_a_stage_covers_the_versions_of_what_is_installed_for_it(tmp_path: Path) -> None:
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci" / "mine.py").write_text(MINE.format(imports="import vendored"))
    site = tmp_path / "site-packages"

    def installed(version: str, name: str) -> str:
        shutil.rmtree(site, ignore_errors=True)
        about = site / f"{name}-{version}.dist-info"
        about.mkdir(parents=True)
        (site / "vendored.py").write_text("VALUE = 1")
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (about / "RECORD").write_text("vendored.py,,\n")
        return code_of_mine(tmp_path, site)

    assert installed("1.0", "vendored") == installed("1.0", "vendored") != installed("2.0", "vendored")
    assert installed("1.0", "another_name") != installed("2.0", "another_name")
