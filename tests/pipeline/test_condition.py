"""Conditions."""

from __future__ import annotations

import pytest

from pipeline import Facts, Only
from pipeline.condition import matches


@pytest.mark.parametrize(
    ("only", "facts", "refusal"),
    [
        (Only(), Facts(), None),
        (Only(branch=("main",)), Facts(branch="main"), None),
        (Only(branch=("release/*",)), Facts(branch="release/1"), None),
        (Only(branch=("main", "dev")), Facts(branch="topic"), "branch is topic, only on main or dev"),
        (Only(branch=("main",)), Facts(), "branch is unknown, only on main"),
        (Only(event=("push",)), Facts(event="manual"), "event is manual, only on push"),
        (Only(environment=("production",)), Facts(environment="staging"), "environment is staging, only on production"),
        (Only(changed=("src",)), Facts(changed=frozenset({"docs/x"})), "nothing changed under src"),
        (Only(changed=("src",)), Facts(changed=frozenset({"src/x"})), None),
        (Only(changed=("src",)), Facts(changed=None), None),
        (Only(branch=("main",), event=("push",)), Facts(branch="main", event="manual"), "event is manual, only on push"),
    ],
)
def test_every_given_condition_must_hold_and_the_first_that_does_not_is_named(
    only: Only, facts: Facts, refusal: str | None
) -> None:
    assert only.refuses(facts) == refusal


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("a/b/c.py", "**/*.py", True),
        ("c.py", "**/*.py", True),
        ("a/b/c.py", "a/**", True),
        ("a/b/c.py", "a/*", True),
        ("a/b/c.py", "a/*.py", False),
        ("a/b", "a/b/c", False),
        ("ab/c", "a", False),
    ],
)
def test_patterns_cross_directories_only_with_two_stars(path: str, pattern: str, expected: bool) -> None:
    assert matches(path, pattern) is expected
