"""What takes only an artifact that a gate let through."""

from __future__ import annotations

from typing import Any

from gates import Passed, QualityGate
from pipeline import Stage, WiringError


def need_gate(stage: Stage[Any], name: str, given: Stage[Passed[Any]]) -> None:
    """Raise WiringError unless the field `name` holds a QualityGate: checked here too, where no type checker ran."""
    if type(given) is not QualityGate:
        raise WiringError(
            f"{type(stage).__name__}.{name} is a {type(given).__name__}", right="a QualityGate(artifact=..., checks=(...))"
        )
