"""Frozen keyword-only dataclasses that cost little to define."""

from __future__ import annotations

import dataclasses
from typing import Any, dataclass_transform

from pipeline.errors import WiringError, did_you_mean


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field, dataclasses.Field))
class Frozen:
    """Makes every subclass a frozen keyword-only dataclass, compared by value.

    One `__init__` serves all of them: `@dataclass(frozen=True)` writes and compiles six methods for each class, and to
    import a pipeline of thirty stages would take a quarter longer. `dataclasses.fields` and `replace` work as ever.
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        written = cls.__doc__
        dataclasses.dataclass(init=False, kw_only=True, eq=False, repr=False, match_args=False)(cls)
        cls.__doc__ = written  # in place of none it puts the signature, which is the same for all

    def __init__(self, **given: Any) -> None:
        """Raises WiringError for a field that is missing, for one that there is not, and for a text in place of a tuple."""
        name, fields = type(self).__name__, self._fields()
        known = [field.name for field in fields if field.init]
        for word in given.keys() - set(known):
            raise WiringError(f"{name} has no field {word!r}", right=did_you_mean(word, known))
        for field in fields:
            if field.name in given:
                value = given[field.name]
                if isinstance(value, str) and _is_tuple(field.type):  # it would be taken letter by letter
                    raise WiringError(f"{name}.{field.name} is the text {value!r}", right=f"a tuple: ({value!r},)")
            elif field.default is not dataclasses.MISSING:
                value = field.default
            elif field.default_factory is not dataclasses.MISSING:
                value = field.default_factory()
            else:
                raise WiringError(f"{name} needs {field.name}", right=f"{name}({field.name}=...)")
            object.__setattr__(self, field.name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        """What a class checks of its fields when an instance is made."""

    def __setattr__(self, name: str, value: object) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values() if isinstance(other, Frozen) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        shown = (f"{field.name}={getattr(self, field.name)!r}" for field in self._fields() if field.repr)
        return f"{type(self).__name__}({', '.join(shown)})"

    def _fields(self) -> tuple[dataclasses.Field[Any], ...]:
        return dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in self._fields() if field.compare)


def _is_tuple(annotation: object) -> bool:
    """Whether a field takes tuples and nothing else, by its annotation: text wherever annotations are postponed."""
    text = str(annotation)
    return text.startswith("tuple[") and "|" not in text.rpartition("]")[2]
