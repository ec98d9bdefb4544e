"""Only what a gate let through: checked where no type checker ran."""

from __future__ import annotations

from typing import Any

import pytest

from gates import Passed
from pipeline import Artifact, Stage, WiringError, Work
from stages.gated import need_gate


class Forged(Stage[Passed[Any]]):
    """Says that something passed, and is no gate."""

    async def run(self, work: Work) -> Passed[Any]:
        raise AssertionError("it is never run")


class Takes(Stage[Artifact]):
    release: Stage[Passed[Any]]

    def __post_init__(self) -> None:
        need_gate(self, "release", self.release)

    async def run(self, work: Work) -> Artifact:
        raise AssertionError("it is never run")


def test_what_says_that_it_passed_and_is_no_gate_is_refused() -> None:
    with pytest.raises(WiringError, match=r"Takes\.release is a Forged") as caught:
        Takes(release=Forged())
    assert caught.value.right == "a QualityGate(artifact=..., checks=(...))"
