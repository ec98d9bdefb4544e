"""Code metrics as a stage."""

from __future__ import annotations

import pytest

from gates import MaxComplexity, Ruling
from pipeline import Project
from stages.metrics import Metrics, from_figures
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass

TWIN = """
def {name}(numbers):
    # {name} has its own comment
    total = 0
    for number in numbers:
        if number > 0 and number < 100:
            total += number
        else:
            total -= 1
    while total > 10:
        total //= 2
    return [total, len(numbers), max(numbers), min(numbers)]
"""


def write(project: Project, **files: str) -> Metrics:
    (project.root / "src").mkdir()
    (project.root / "src" / "note.txt").write_text("no code")
    for name, text in files.items():
        (project.root / "src" / f"{name}.py").write_text(text)
    return Metrics(source=WorkingCopy())


def test_complexity_is_told_for_each_function_whatever_comments_silence(project: Project, run_stage: RunStage) -> None:
    text = (
        "class K:\n    def one(self): return 1\n\n"
        "def two(a):  # noqa: C901\n    return 1 if a else [b for b in a if b]\nasync def three():\n    pass\n"
    )
    (project.root / "ruff.toml").write_text("lint.select = ['E']\nexclude = ['src']\n")
    found = run_stage(write(project, a=text))
    assert [(f.path, f.line, f.name) for f in found.functions] == [
        ("src/a.py", 2, "one"),
        ("src/a.py", 4, "two"),
        ("src/a.py", 6, "three"),
    ]
    assert found.functions[0].complexity == found.functions[2].complexity == 1
    assert (found.files, found.lines) == (1, 6)
    assert MaxComplexity(each=0)(found).ruling is Ruling.FAILED


def test_lines_that_stand_in_two_places_are_found_across_files(project: Project, run_stage: RunStage) -> None:
    found = run_stage(
        write(project, a=TWIN.format(name="alpha"), b="import os\n" + TWIN.format(name="beta").replace("+=", " +=  "))
    )
    assert [(d.lines, d.first, d.second) for d in found.duplicates] == [(9, "src/a.py:4", "src/b.py:5")]
    assert found.duplicated == 9 / found.lines
    assert MaxComplexity()(found).ruling is Ruling.FAILED


def test_docstrings_comments_and_imports_are_no_duplicates(project: Project, run_stage: RunStage) -> None:
    text = '"""What it is.\n\n' + "line\n" * 9 + '"""\n' + "".join(f"import m{n}\n" for n in range(9)) + "# comment\n" * 9
    assert run_stage(write(project, a=text + "x = 1\n", b=text + "y = 1\n")).duplicates == ()


def test_a_run_of_equal_lines_does_not_count_more_than_once(project: Project, run_stage: RunStage) -> None:
    found = run_stage(write(project, a="step()\n" * 40))
    assert sum(duplicate.lines for duplicate in found.duplicates) <= 40 - 8
    assert found.duplicates


def test_a_file_that_is_no_python_fails_the_stage(project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match="ended with exit code 1"):
        run_stage(write(project, a="def f(:\n    '''\n"))


def test_no_file_is_no_pass(project: Project, run_stage: RunStage) -> None:
    found = run_stage(write(project))
    assert found.files == 0
    assert MaxComplexity()(found).ruling is Ruling.ERROR


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"lines": 1}', b'{"lines": 1, "duplicates": [1]}', b'{"lines": 1, "duplicates": [{}]}']
)
def test_figures_that_are_none_are_refused(text: bytes) -> None:
    from pipeline import StageFailed

    with pytest.raises(StageFailed, match="cannot be read"):
        from_figures(text)
