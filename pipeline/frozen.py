"""Frozen keyword-only dataclasses that cost little to define."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
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
        """Raises WiringError for a field that is missing, one that there is not, and what is no tuple where one is taken."""
        form = _form(type(self))  # type: ignore[arg-type]  # mypy takes the instances' hash for the class's
        if not form.required <= given.keys() <= form.known:
            raise _misfit(type(self), form, given)
        values = self.__dict__
        values.update(form.defaults)
        values.update(given)
        for name in form.tuples & given.keys():
            if not isinstance(given[name], tuple):
                raise _no_tuple(f"{type(self).__name__}.{name}", given[name])
        for name, make in form.factories:
            if name not in given:
                values[name] = make()
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


@dataclasses.dataclass(frozen=True)
class _Form:
    """What the instances of a class are made from, by the names of fields."""

    known: frozenset[str]
    required: frozenset[str]
    tuples: frozenset[str]
    defaults: Mapping[str, Any]
    factories: tuple[tuple[str, Callable[[], Any]], ...]


@functools.cache
def _form(cls: type) -> _Form:
    fields = dataclasses.fields(cls)
    defaults = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    factories = {field.name: field.default_factory for field in fields if field.default_factory is not dataclasses.MISSING}
    known = frozenset(field.name for field in fields if field.init)
    return _Form(
        known=known,
        required=known - defaults.keys() - factories.keys(),
        tuples=frozenset(field.name for field in fields if _is_tuple(field.type)),
        defaults=defaults,
        factories=tuple(factories.items()),
    )


def _misfit(cls: type[Frozen], form: _Form, given: Mapping[str, Any]) -> WiringError:
    """What is wrong with what was given: a field too many, or one too few."""
    name = cls.__name__
    for word in given:
        if word not in form.known:
            return WiringError(f"{name} has no field {word!r}", right=did_you_mean(word, form.known))
    missing = next(field.name for field in dataclasses.fields(cls) if field.name in form.required and field.name not in given)  # type: ignore[arg-type]
    return WiringError(f"{name} needs {missing}", right=f"{name}({missing}=...)")


def _no_tuple(where: str, value: object) -> WiringError:
    """A text would be taken letter by letter, and one thing in brackets without a comma is the thing itself."""
    if isinstance(value, str):
        return WiringError(f"{where} is the text {value!r}", right=f"a tuple: ({value!r},)")
    what = "a list" if isinstance(value, list) else f"a {type(value).__name__}"
    return WiringError(f"{where} is {what}, and takes a tuple", right="a tuple, of one thing too with its comma: (thing,)")


def _is_tuple(annotation: object) -> bool:
    """Whether a field takes tuples and nothing else, by its annotation: text wherever annotations are postponed."""
    text = str(annotation)
    return text.startswith("tuple[") and "|" not in text.rpartition("]")[2]
