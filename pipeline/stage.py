"""The stage: a typed node of the DAG. The object is the handle; other stages name it as an input."""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from pipeline.condition import Only
from pipeline.errors import StageFailed, WiringError
from pipeline.frozen import Frozen
from pipeline.numbers import need_numbers
from pipeline.patterns import EVERYTHING, Patterns

if TYPE_CHECKING:
    from pipeline.order import Order
    from pipeline.project import Project
    from pipeline.work import Work

T_co = TypeVar("T_co", covariant=True)


class Effect(Enum):
    """What running a stage does to the world, and so what may be done with its result."""

    PURE = "pure"
    """Nothing outside its result. Its result is cached by key."""
    RETRYABLE = "retryable"
    """A side effect that may be repeated without harm. Never cached."""
    ONCE = "once"
    """A side effect that must not be sent twice: journalled as intent, then done; never resent blindly."""


class Stays(str):
    """What `undo` tells where there was nothing to undo, as an earlier run had brought the same about and it was confirmed."""

    __slots__ = ()


@dataclass(frozen=True)
class Retry:
    """Up to `times` further attempts, the first after `wait` seconds, each wait twice the one before, with jitter.

    After failures of the kinds `on` alone: `(StageTimeout, EngineError)` tries again what ran out of time or lost its engine,
    and takes a command's no for an answer.
    """

    times: int = 0
    wait: float = 1.0
    on: tuple[type[Exception], ...] = (StageFailed, OSError)

    def __post_init__(self) -> None:
        need_numbers(self)
        if not isinstance(self.on, tuple) or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in self.on):
            raise WiringError(f"Retry.on is {self.on!r}", right="a tuple of exception classes, as (StageTimeout, EngineError)")


@dataclass(frozen=True)
class Resources:
    """What a stage needs while it runs: processors, memory in MiB, and locks by name.

    A lock is held by one stage at a time while its `run` is at work, of all runs that write to the same journal.
    """

    cpu: int = 1
    memory: int = 0
    locks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        need_numbers(self)


class Stage(Frozen, ABC, Generic[T_co]):
    """A node of the DAG: frozen configuration, its inputs as fields, one `run`.

    Every field that is a stage, or a tuple of stages, is an edge. The fields below belong to every stage
    and change when and how it runs, never what it returns, so they are no part of its key.
    """

    after: tuple[Stage[Any], ...] = ()
    """Stages that must have passed first although nothing of theirs is used: a migration, the tests before a load test."""
    only: Only = Only()
    timeout: float = 3600.0
    """Seconds that one attempt may take, give or take a tenth of a second, and each call of `undo` and of `recover`."""
    retry: Retry = Retry()
    resources: Resources = Resources()
    always: bool = False
    """Whether it runs whatever came of those in `after`, also when the run failed or was interrupted: to clean up."""

    effect: ClassVar[Effect] = Effect.PURE
    confirms: ClassVar[bool] = False
    """Whether side effects above this stage stand once it has passed, whatever fails after it."""
    judges: ClassVar[bool] = False
    """Whether a result of this stage that may not be reused says no to its evidence, which is then made again too."""
    engines: ClassVar[frozenset[str]] = frozenset({"host", "dagger"})
    """The engines this stage can run on."""

    def __eq__(self, other: object) -> bool:
        """A stage is itself: two that are configured alike are two stages."""
        return self is other

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        """The class and no fields: an input shown with its own inputs would show the whole pipeline."""
        return f"<{type(self).__name__}>"

    @abstractmethod
    async def run(self, work: Work) -> T_co:
        """Do the work. Raise StageFailed when the answer is no; anything else raised is an error of the stage.

        Of a side effect, StageFailed says that it did not take place; so raise it where that is sure. BrokenOff says that
        nobody knows, and so does everything else: CommandFailed and StageTimeout, which are BrokenOff, and any other exception.
        """

    def observe(self, project: Project) -> str | None:
        """What the result depends on besides fields and inputs, as a digest; called while planning.

        Only stages that read the project or the machine have any: a working copy, an interpreter.
        """
        return None

    def origin(self) -> str | None:
        """Names where the content of a source stage comes from; None for every other stage."""
        return None

    def chosen(self) -> Patterns | None:
        """Which files of its origin a source stage takes; None where it only tells of them."""
        return EVERYTHING

    def vouching(self) -> tuple[Stage[Any], tuple[Stage[Any], ...]] | None:
        """For gates: the artifact and the evidence that is to vouch for it; None for every other stage."""
        return None

    async def undo(self, work: Work, result: Any) -> str | None:
        """Take the side effect back; called when nothing downstream confirmed it.

        It has to be safe to repeat: it is called again when its run was killed, or could not write its journal, before it
        was recorded that the effect was taken back. A stage that can tell (`recover`) is asked first. One that takes longer than
        `timeout` has failed. A text that it returns is told in place of "undone"; one that is `Stays` says that an earlier run
        had brought the same about, which people may still take back.

        `work.interrupted` says that nothing was found wrong with it: its run was stopped or killed, or had no disk,
        engine or journal any more, before anybody could say.
        """

    async def recover(self, work: Work) -> T_co | None:
        """Find out what came of an effect whose run was killed, cut off or ran out of time inside `run`; `work` has its inputs.

        A stage with `undo` is also asked about an effect that was done and that nobody confirmed: its run may have taken it
        back without being able to record that, and what it returned may be lost.

        The result when the effect took place, None when it did not, or was taken back, by then or here.
        Raises StageFailed when nobody can tell, which is what every stage says that knows no better.
        """
        raise StageFailed(
            f"nobody knows whether {work.name} took place: an earlier run ended in the middle of it",
            right="a look at what it acts on",
            next=f"python -m pipeline run {work.name} --again {work.name}, which does it (once more)",
        )

    async def steps(self, work: Work) -> Sequence[str]:
        """What it would do, for `run --dry-run`: it looks and changes nothing. Inputs may have no results yet."""
        return ()

    async def standing(self, work: Work) -> Mapping[str, Sequence[str]]:
        """What runs of what it has brought about, for `deployments`: it looks and changes nothing. A few lines for each service.

        A stage that brings about one only calls that by an empty name.
        """
        return {}

    async def obey(self, work: Work, order: Order) -> str:
        """Do what an operator orders about what it has brought about, outside of a run; what came of it.

        Has to be safe to repeat. Raises StageFailed when it cannot be done.
        """
        raise StageFailed(f"{work.name} has nothing to {order.verb}", right="a stage that deploys")

    async def mend(self, work: Work) -> str:
        """Bring back what stands and something of which has died, for `recover`; what came of it, empty where nothing had.

        Has to be safe to repeat. Raises StageFailed when it cannot be done.
        """
        return ""

    @classmethod
    def can_undo(cls) -> bool:
        return cls.undo is not Stage.undo

    @classmethod
    def can_recover(cls) -> bool:
        return cls.recover is not Stage.recover

    @classmethod
    def can_mend(cls) -> bool:
        return cls.mend is not Stage.mend

    def result_type(self) -> Any:
        """The type of what `run` returns, read from the `Stage[...]` the class is derived from.

        Raises WiringError where the class leaves it open; generic stages override this.
        """
        found = declared_result(type(self))
        if found is None or isinstance(found, TypeVar):
            raise WiringError(
                f"{type(self).__name__} does not say what it returns",
                right=f"class {type(self).__name__}(Stage[SomeResult]), or an own result_type()",
            )
        return found


@functools.cache
def declared_result(cls: type) -> Any:
    """What stands in the `Stage[...]` a class is derived from, also by way of a generic one; None where nothing does."""
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin, arguments = typing.get_origin(base) or base, typing.get_args(base)
        if not is_stage(origin):
            continue
        if origin is Stage:
            return next(iter(arguments), None)
        found = declared_result(origin)
        return dict(zip(origin.__parameters__, arguments, strict=False)).get(found, found) if arguments else found
    return None


def declared(cls: type, generic: type) -> Iterator[tuple[Any, ...]]:
    """What stands in each `generic[...]` that a class, or one above it, is derived from; the nearest first."""
    for base in cls.__mro__:
        for origin in getattr(base, "__orig_bases__", ()):
            if typing.get_origin(origin) is generic:
                yield typing.get_args(origin)


COMMON = frozenset({"after", "only", "timeout", "retry", "resources", "always"})
"""The fields every stage has; they say when and how a stage runs, never what it returns."""


class Fields(NamedTuple):
    """What the fields of a stage hold: its inputs with the names of their fields, and by name what configures it."""

    edges: tuple[tuple[str, Stage[Any]], ...]
    settings: Mapping[str, Any]


def edges(stage: Stage[Any]) -> tuple[tuple[str, Stage[Any]], ...]:
    """The inputs of a stage with the names of their fields, in the order of the fields.

    Raises WiringError for a stage hidden in a list, set, dict or nested tuple: only fields and tuples of stages are edges.
    """
    return fields(stage).edges


def settings(stage: Stage[Any]) -> Mapping[str, Any]:
    """The fields of a stage that configure it: neither inputs nor the fields common to all stages. Raises as `edges` does."""
    return fields(stage).settings


def fields(stage: Stage[Any]) -> Fields:
    """Looked at once. Raises WiringError as `edges` does."""
    found: Fields | None = stage.__dict__.get(FIELDS)
    if found is None:
        found = vars(stage)[FIELDS] = _fields(stage)
    return found


FIELDS = "fields of the stage"
"""Where they are kept; no field can have this name."""


def _fields(stage: Stage[Any]) -> Fields:
    values = stage.__dict__
    found: list[tuple[str, Stage[Any]]] = []
    configured: dict[str, Any] = {}
    for name, own in _field_names(type(stage)):
        value = values[name]
        inputs = [] if type(value) in PLAIN else _inputs(stage, name, value)
        found += inputs
        nothing_else = inputs and (type(value) is not tuple or len(inputs) == len(value))
        if own and not nothing_else:
            configured[name] = value
    return Fields(tuple(found), configured)


def _inputs(stage: Stage[Any], name: str, value: Any) -> list[tuple[str, Stage[Any]]]:
    """The stage that a field holds, or those in its tuple, each with its place there."""
    if is_stage(type(value)):
        return [(name, value)]
    if type(value) is not tuple:
        if _holds_stages(value):
            raise _hidden(stage, name, value)
        return []
    found = []
    for number, item in enumerate(value):
        if is_stage(type(item)):
            found.append((f"{name}[{number}]", item))
        elif _holds_stages(item):
            raise _hidden(stage, name, item)
    return found


PLAIN = frozenset({str, int, bool, float, type(None), Only, Retry, Resources})
"""Types of most values of fields; they hold no stages."""


def is_stage(kind: type) -> bool:
    """What `isinstance` would say, which takes its time with an abstract class."""
    found = KINDS.get(kind)
    if found is None:
        found = KINDS[kind] = issubclass(kind, Stage)
    return found


KINDS: dict[type, bool] = {}
"""Types that were seen, and whether they are stages."""


@functools.cache
def _field_names(cls: type) -> tuple[tuple[str, bool], ...]:
    """The names of the fields, and whether they are those of this class of stages, and not of all."""
    return tuple((field.name, field.name not in COMMON) for field in dataclasses.fields(cls))


def _holds_stages(value: Any) -> bool:
    if isinstance(value, dict):
        return any(is_stage(type(item)) or _holds_stages(item) for pair in value.items() for item in pair)
    return isinstance(value, list | tuple | set | frozenset) and any(
        is_stage(type(item)) or _holds_stages(item) for item in value
    )


def _hidden(stage: Stage[Any], field: str, value: Any) -> WiringError:
    return WiringError(f"{type(stage).__name__}.{field} holds stages in a {type(value).__name__}", right="a tuple of stages")


def uses(stage: Stage[Any]) -> Sequence[tuple[str, Stage[Any]]]:
    """The inputs whose results a stage takes: every edge but those of `after`."""
    if not stage.after:
        return edges(stage)
    return [(name, source) for name, source in edges(stage) if not name.startswith("after[")]


def default_name(stage: Stage[Any]) -> str:
    """The name of a stage that was not given one: its class, in lower case with underscores.

    >>> class HTTPSmokeTest: ...
    >>> default_name(HTTPSmokeTest())
    'http_smoke_test'
    """
    name = type(stage).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
