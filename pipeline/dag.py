"""The pipeline: a named DAG of stages, checked as a whole when it is built."""

from __future__ import annotations

import functools
import re
import shlex
import typing
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any

from pipeline.condition import Only
from pipeline.data import is_artifact
from pipeline.errors import WiringError, did_you_mean
from pipeline.fan_out import FanOut
from pipeline.names import checked_name, is_label, member_name
from pipeline.patterns import EVERYTHING, Patterns
from pipeline.stage import Effect, Resources, Retry, Stage, declared_result, default_name, edges, is_stage, settings, uses

NAME = re.compile(r"[a-z][a-z0-9._-]*")


class Pipeline:
    """A named DAG. Keywords are the names of stages; stages reached only through edges are named after their class.

    A keyword may hold a tuple of stages (a matrix): each is named after the keyword and the settings in
    which it differs, as in `tests[3.12]`; where those cannot stand in a name, members are numbered.

    Raises WiringError for a cycle, a name that no stage may have, two stages of one name, a way back of a stage that
    has no side effect, a result that only another class may issue, evidence that does not descend from what it vouches for,
    and a stage that always runs where others go on from it, or it has nothing to come after.
    """

    def __init__(self, name: str, /, **stages: Stage[Any] | tuple[Stage[Any], ...]) -> None:
        if not NAME.fullmatch(name):
            raise WiringError(f"the pipeline's name {name!r} cannot be used", right="lower case, as in 'camera-counting'")
        if not stages:
            raise WiringError(f"pipeline {name!r} has no stages", right=f"Pipeline({name!r}, unit=UnitTests(...))")
        self.name = name
        self._names: dict[Stage[Any], str] = {}
        for stage, given in _given(stages):
            self._names[stage] = given
        self._inputs = _reach(self._names)
        self._used = {stage: _used(stage, inputs) for stage, inputs in self._inputs.items()}
        _name_the_rest(self._inputs, self._names)
        for stage, given in self._names.items():
            _check_common(stage, given)
        self.stages: tuple[Stage[Any], ...] = _sorted(self._inputs, self._names)
        self._by_name = {self._names[stage]: stage for stage in self.stages}
        self.always: tuple[Stage[Any], ...] = tuple(stage for stage in self.stages if stage.always)
        """The stages that run whatever came of others."""
        self._needs = self._inputs | {stage: self._used[stage] for stage in self.always} if self.always else self._inputs
        if self.always:
            _check_always(self)
        for stage in self.stages:
            _check_effect(stage, self._names[stage])
            _check_issuer(stage, self._names[stage])
            _check_evidence(stage, self)

    def name_of(self, stage: Stage[Any]) -> str:
        return self._names[stage]

    def inputs(self, stage: Stage[Any]) -> tuple[Stage[Any], ...]:
        """The direct inputs of a stage, each once, in the order of its fields."""
        return self._inputs[stage]

    def __getitem__(self, name: str) -> Stage[Any]:
        """The stage of that name. Raises WiringError with the nearest name when there is none."""
        if name not in self._by_name:
            fan_outs = (given for given, stage in self._by_name.items() if isinstance(stage, FanOut))
            whole = next((given for given in fan_outs if name.startswith(f"{given}[")), None)
            if whole is not None:
                raise WiringError(
                    f"{name} is no stage of the pipeline: the parts of {whole} are known while it runs",
                    right=whole,
                    next=f"python -m pipeline logs {shlex.quote(name)}, for what a part did in the latest run",
                )
            raise WiringError(
                f"there is no stage {name!r}", right=did_you_mean(name, self._by_name), next="python -m pipeline list"
            )
        return self._by_name[name]

    def __iter__(self) -> Iterator[Stage[Any]]:
        return iter(self.stages)

    def __len__(self) -> int:
        return len(self.stages)

    def used(self, stage: Stage[Any]) -> tuple[Stage[Any], ...]:
        """The direct inputs of which a stage takes the result, not those it only comes after."""
        return self._used[stage]

    def __contains__(self, stage: object) -> bool:
        return stage in self._names

    def grown(self, whole: Stage[Any], parts: Iterable[Stage[Any]], names: Mapping[Stage[Any], str]) -> Pipeline:
        """This pipeline with further stages, given after what they rest on, of which `whole` takes the results of `parts`.

        Raises WiringError as a pipeline does that is built with them.
        """
        new = object.__new__(Pipeline)
        place = self.stages.index(whole)
        new.name = self.name
        new.stages = (*self.stages[:place], *names, *self.stages[place:])
        new._names = self._names | dict(names)
        new._by_name = self._by_name | {name: stage for stage, name in names.items()}
        inputs = {stage: tuple(dict.fromkeys(source for _, source in edges(stage))) for stage in names}
        used = {stage: _used(stage, found) for stage, found in inputs.items()}
        new._inputs = {**self._inputs, **inputs, whole: (*self._inputs[whole], *parts)}
        new._used = {**self._used, **used, whole: (*self._used[whole], *parts)}
        new.always = self.always
        new._needs = new._inputs | {stage: new._used[stage] for stage in new.always} if new.always else new._inputs
        for stage, name in names.items():
            _check_common(stage, name)
            _check_effect(stage, name)
            _check_issuer(stage, name)
        return new

    def needs(self, stage: Stage[Any]) -> tuple[Stage[Any], ...]:
        """The direct inputs that must have passed before a stage runs: all; of one that always runs those it uses."""
        return self._needs[stage]

    def upstream(self, stages: Iterable[Stage[Any]]) -> frozenset[Stage[Any]]:
        """The stages themselves and everything they need."""
        return _closed(stages, self._needs)

    def descent(self, stage: Stage[Any]) -> frozenset[Stage[Any]]:
        """The stage itself and everything its result was made from."""
        return _closed([stage], self._used)

    def downstream(self, stage: Stage[Any]) -> frozenset[Stage[Any]]:
        """Everything that needs `stage`, directly or not, without itself."""
        below = {stage}
        for other in self.stages:  # in topological order
            if any(source in below for source in self._needs[other]):
                below.add(other)
        return frozenset(below - {stage})


def _closed(stages: Iterable[Stage[Any]], inputs: Mapping[Stage[Any], tuple[Stage[Any], ...]]) -> frozenset[Stage[Any]]:
    seen: set[Stage[Any]] = set()
    left = list(stages)
    while left:
        stage = left.pop()
        if stage not in seen:
            seen.add(stage)
            left += inputs[stage]
    return frozenset(seen)


def _given(stages: Mapping[str, Stage[Any] | tuple[Stage[Any], ...]]) -> Iterator[tuple[Stage[Any], str]]:
    seen: dict[Stage[Any], str] = {}
    alone = {value: name for name, value in stages.items() if isinstance(value, Stage)}
    for name, value in stages.items():
        checked_name(name)
        for full, stage in _members(name, value, alone):
            if not is_stage(type(stage)):
                raise WiringError(f"{name} is a {type(stage).__name__}", right="a stage, or a tuple of stages")
            if stage in seen:
                raise WiringError(f"one stage has two names, {seen[stage]!r} and {full!r}", right="one of them")
            seen[stage] = full
            yield stage, full


def _members(
    name: str, value: Stage[Any] | tuple[Stage[Any], ...], names: Mapping[Stage[Any], str]
) -> Iterable[tuple[str, Stage[Any]]]:
    """What a keyword names: one stage, or those of a matrix."""
    if not isinstance(value, tuple):
        return [(name, value)]
    return [(member_name(name, label), stage) for label, stage in zip(_labels(name, value, names), value, strict=True)]


def _labels(name: str, members: tuple[Stage[Any], ...], names: Mapping[Stage[Any], str]) -> list[str]:
    """What tells the members of a matrix apart: settings that differ, else the names of their inputs, else numbers.

    Members with the same inputs are told apart by what else they are given, a rule for example.
    """
    if not all(map(is_stage, map(type, members))):
        return [str(number) for number in range(len(members))]
    usable = (
        labels
        for labels in (of(members) for of in (_by_setting, functools.partial(_by_input, names=names)))
        if len(set(labels)) == len(members) and all(is_label(name, label) for label in labels)
    )
    return next(usable, [str(number) for number in range(len(members))])


def _by_setting(members: tuple[Stage[Any], ...]) -> list[str]:
    all_settings = [settings(member) for member in members]
    fields = [
        field
        for field in (all_settings[0] if all_settings else ())
        if all(issubclass(kind, str | int | float) for kind in {type(one.get(field)) for one in all_settings})
        and len({one[field] for one in all_settings}) > 1
    ]
    return [",".join(str(one[field]) for field in fields) for one in all_settings]


def _by_input(members: tuple[Stage[Any], ...], names: Mapping[Stage[Any], str]) -> list[str]:
    labels = [",".join(names[source] for _, source in edges(member) if source in names) for member in members]
    return _told_apart(labels, members)


def _told_apart(labels: list[str], members: tuple[Stage[Any], ...]) -> list[str]:
    """The labels; to those that several members have, the names of the functions and objects they are given are added."""
    if not all(labels):
        return labels
    found = list(labels)
    for number, member in enumerate(members):
        if labels.count(labels[number]) > 1:
            given = (getattr(value, "__name__", type(value).__name__) for value in settings(member).values() if callable(value))
            found[number] = ",".join([labels[number], *given])
    return [
        f"{label},{found[:number].count(label) + 1}" if found.count(label) > 1 else label for number, label in enumerate(found)
    ]


def _reach(named: Mapping[Stage[Any], str]) -> dict[Stage[Any], tuple[Stage[Any], ...]]:
    inputs: dict[Stage[Any], tuple[Stage[Any], ...]] = {}
    left = list(named)
    while left:
        stage = left.pop()
        if stage not in inputs:
            inputs[stage] = tuple(dict.fromkeys(source for _, source in edges(stage)))
            left += inputs[stage]
    return inputs


def _used(stage: Stage[Any], inputs: tuple[Stage[Any], ...]) -> tuple[Stage[Any], ...]:
    return tuple(dict.fromkeys(source for _, source in uses(stage))) if stage.after else inputs


def _name_the_rest(inputs: Iterable[Stage[Any]], names: dict[Stage[Any], str]) -> None:
    taken = {name: stage for stage, name in names.items()}
    for stage in inputs:
        if stage in names:
            continue
        name = checked_name(default_name(stage))
        if name in taken:
            raise WiringError(
                f"two stages have the name {name!r}: a {type(taken[name]).__name__} and a {type(stage).__name__}",
                right=f"a name for one of them, as in Pipeline(..., other_{name}=...)",
            )
        names[stage], taken[name] = name, stage


def _sorted(inputs: Mapping[Stage[Any], tuple[Stage[Any], ...]], names: Mapping[Stage[Any], str]) -> tuple[Stage[Any], ...]:
    """Every stage after its inputs, and those that always run last; by name where that leaves it open.

    Raises WiringError with the cycle.
    """
    order: dict[Stage[Any], None] = {}
    for start in sorted(sorted(inputs, key=names.__getitem__), key=attrgetter("always")):
        path: dict[Stage[Any], Iterator[Stage[Any]]] = {}
        current: Stage[Any] | None = start if start not in order else None
        while current is not None or path:
            if current is not None:
                if current in path:
                    around = [*list(path)[list(path).index(current) :], current]
                    raise WiringError(
                        "the stages form a cycle: " + " -> ".join(names[stage] for stage in reversed(around)),
                        right="edges that lead from sources to deployments only",
                    )
                path[current] = iter(inputs[current])
            last = next(reversed(path))
            current = next((source for source in path[last] if source not in order), None)
            if current is None:
                del path[last]
                order[last] = None
    return tuple(order)


def _check_common(stage: Stage[Any], name: str) -> None:
    """The fields that every stage has hold what they are for; a class may have a `__post_init__` of its own."""
    values = stage.__dict__
    timeout = values["timeout"]
    if type(timeout) not in (float, int) or not timeout > 0:
        raise WiringError(f"{name}: timeout is {timeout!r}", right="seconds, more than 0; math.inf for no limit")
    for field, kind in COMMON_TYPES:
        if not isinstance(values[field], kind):
            raise WiringError(f"{name}: {field} is {values[field]!r}", right=f"{field}={kind.__name__}(...)")


COMMON_TYPES = (("only", Only), ("retry", Retry), ("resources", Resources), ("always", bool))
"""The types of those fields, but for `after` and `timeout`."""


def _check_effect(stage: Stage[Any], name: str) -> None:
    """What is cached is not run again, and nobody would ever take it back."""
    if stage.effect is Effect.PURE and stage.can_undo():
        raise WiringError(
            f"{name} defines undo and has no side effect: {type(stage).__name__}.effect is PURE",
            right="effect: ClassVar[Effect] = Effect.RETRYABLE, or ONCE for what must not be sent twice; else no undo",
        )


def _check_always(pipeline: Pipeline) -> None:
    """What cleans up is the end of its way: nobody decides, goes on or is taken back because of it."""
    for stage in pipeline:
        name, before = pipeline.name_of(stage), [source for source in pipeline.inputs(stage) if source.always]
        if before and not stage.always:
            raise WiringError(
                f"{name} comes after {pipeline.name_of(before[0])}, which always runs and says nothing of what came before it",
                right=f"{name} before it, or {name} with always=True too",
            )
        if not stage.always:
            continue
        if not pipeline.inputs(stage):
            raise WiringError(f"{name} always runs, and there is nothing it comes after", right="after=(...), or an input")
        if stage.confirms or stage.judges or stage.vouching() is not None:
            raise WiringError(
                f"{name} always runs, and a {type(stage).__name__} decides whether others go on",
                right="a decision before, and always=True for what cleans up",
            )
        if stage.can_undo():
            raise WiringError(
                f"{name} always runs, and defines undo: nothing comes after it that would have it taken back",
                right="always=True for what cleans up, undo for what is put up",
            )


def _check_issuer(stage: Stage[Any], name: str) -> None:
    """A result type may name the one class that may issue it; a subclass or a stranger would be a forgery."""
    for result in {stage.result_type(), declared_result(type(stage))}:
        issuer = _issuer(result)
        if issuer is not None and (actual := f"{type(stage).__module__}.{type(stage).__qualname__}") != issuer:
            raise WiringError(
                f"{name} returns {result.__name__}, which only {issuer} may issue, and is a {actual}",
                right=f"{issuer.rsplit('.', 1)[-1]}(artifact=..., checks=...)",
            )


@functools.cache
def _issuer(result: Any) -> str | None:
    """The class that a type of results names as the only one to issue it: the first that named one, and no subclass another."""
    bases = getattr(typing.get_origin(result) or result, "__mro__", ())
    issuers = [vars(base)["issuer"] for base in bases if "issuer" in vars(base)]
    return issuers[-1] if issuers else None


def _check_evidence(stage: Stage[Any], pipeline: Pipeline) -> None:
    """What vouches for an artifact must be about that artifact, or about what it was made from."""
    vouching = stage.vouching()
    if vouching is None:
        return
    artifact, evidence = vouching
    made_from = pipeline.descent(artifact)
    content = [(origin, files) for origin, files in _sources(made_from) if files is not None]
    for piece in evidence:
        about = pipeline.descent(piece)
        if artifact in about:
            continue
        name, subject = pipeline.name_of(piece), pipeline.name_of(artifact)
        if stage.confirms:  # what its source was like says nothing of how it runs
            raise WiringError(
                f"{pipeline.name_of(stage)}: {name} does not descend from {subject}", right=f"evidence found where {subject} runs"
            )
        others = sorted(pipeline.name_of(other) for other in about - made_from if is_artifact(other.result_type()))
        if others:
            raise WiringError(
                f"{pipeline.name_of(stage)}: {name} is evidence about {', '.join(others)}, not about {subject}",
                right=f"evidence that descends from {subject}",
            )
        seen = list(_sources(about))
        if not any(of == origin and (part or EVERYTHING).overlap(files) for of, part in seen for origin, files in content):
            raise WiringError(
                f"{pipeline.name_of(stage)}: {name} does not descend from {subject} nor from its source{_apart(seen, content)}",
                right=f"evidence from {subject}, or from the source it is built from",
            )


def _sources(stages: Iterable[Stage[Any]]) -> Iterator[tuple[str, Patterns | None]]:
    """Where the content among `stages` comes from, and which files of there; None for a stage that takes none."""
    for stage in stages:
        if (origin := stage.origin()) is not None:
            yield origin, stage.chosen()


def _apart(seen: Iterable[tuple[str, Patterns | None]], content: Iterable[tuple[str, Patterns]]) -> str:
    """Which files of one origin evidence and artifact are about; empty where they have no origin in common."""
    about = _by_origin((origin, files or EVERYTHING) for origin, files in seen)
    made_from = _by_origin(content)
    both = sorted(about.keys() & made_from.keys())
    return "".join(f" (of {origin} it has {about[origin]}, not {made_from[origin]})" for origin in both)


def _by_origin(sources: Iterable[tuple[str, Patterns]]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for origin, files in sources:
        found.setdefault(origin, []).append(str(files))
    return {origin: ", ".join(sorted(set(texts))) for origin, texts in found.items()}
