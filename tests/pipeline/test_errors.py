"""Errors: what is shown of a command that failed."""

from __future__ import annotations

import pytest

from pipeline import CommandFailed
from pipeline.errors import said


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("", "it printed nothing"),
        ("one\ntwo\n\n", "two"),
        ("ERROR: file or directory not found: tests\n\n===== no tests ran in 0.01s =====\n", "ERROR: file or directory"),
        ("__main__.py: error: unrecognized arguments: --cov\n  inifile: x\n  rootdir: /tmp/x\n", "__main__.py: error: unrec"),
        (
            "  x Failed to download `pluggy`\n  ╰─▶ Hash mismatch for `pluggy`\n\n  Computed:\n    sha256:7dd7\n",
            "╰─▶ Hash mismatch for",
        ),
        ("E   SyntaxError: invalid syntax\n===== 1 error in 0.54s =====\n", "E   SyntaxError: invalid"),
    ],
)
def test_the_line_that_says_why_a_command_failed_is_quoted(output: str, said: str) -> None:
    error = CommandFailed(("python", "-m", "tool"), 2, output)
    assert str(error).startswith(f"`python -m tool` ended with exit code 2: {said}")


def test_a_long_command_shows_that_it_goes_on() -> None:
    error = CommandFailed(("python", "-m", "pytest", "-p", "no:cacheprovider"), 1, "")
    assert str(error).startswith("`python -m pytest -p ...` ended")


def test_an_exception_that_cannot_be_put_into_words_is_told_of_all_the_same() -> None:
    class Odd(BaseException):
        def __str__(self) -> str:
            raise Odd

    assert said(Odd()) == "Odd, which cannot be put into words"
