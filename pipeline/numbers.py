"""Numbers that people write down: limits, times, counts. One that is no number limits nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from decimal import Decimal
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from pipeline.errors import WiringError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def need_numbers(owner: DataclassInstance, *, but: Collection[str] = ()) -> None:
    """Raise WiringError unless every field that is to be a number is one, and 0 or more; `but` names those that may be below.

    One that is to be a whole number (`int`) has to be that.
    """
    for field in dataclasses.fields(owner):
        kinds = {part.strip() for part in str(field.type).split("|")}
        value = getattr(owner, field.name)
        if "None" in kinds and value is None:
            continue
        if not kinds - {"None"} or not kinds <= {"int", "float", "None"}:
            continue
        whole = "float" not in kinds
        if not _is_right(value, below=field.name in but) or (whole and not isinstance(value, Integral)):
            number = "a whole number" if whole else "a number"
            raise WiringError(
                f"{type(owner).__name__}.{field.name} is {value!r}", right=number if field.name in but else f"{number}, 0 or more"
            )


def _is_right(value: Any, *, below: bool) -> bool:
    if not isinstance(value, Real | Decimal):
        return False
    number: Any = value
    if isinstance(number, Decimal) and number.is_nan():  # which cannot be compared
        return False
    return bool(number >= 0 or (below and number < 0))  # NaN is neither
