"""Numbers that people write down: limits, times, counts. One that is no number limits nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from pipeline.errors import WiringError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def need_numbers(owner: DataclassInstance, *, but: Collection[str] = ()) -> None:
    """Raise WiringError unless every field that is a number, or is one where nothing is said, is finite and 0 or more.

    `but` names those that may be something else.
    """
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if field.name not in but and (_is_number(value) or _is_number(field.default)):
            need_number(type(owner).__name__, field.name, value)


def need_number(owner: str, name: str, value: object) -> None:
    """Raise WiringError unless it is a finite number, 0 or more."""
    if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
        raise WiringError(f"{owner}.{name} is {value!r}", right="a number, 0 or more")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
