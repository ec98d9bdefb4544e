"""The fan-out: a stage made of further stages, which are known once its inputs are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipeline.condition import Only
from pipeline.data import is_artifact
from pipeline.errors import StageFailed, WiringError
from pipeline.names import is_label, member_name
from pipeline.stage import Effect, Stage, declared, default_name, edges, uses

if TYPE_CHECKING:
    from pipeline.dag import Pipeline
    from pipeline.work import Work

Part = TypeVar("Part")
Whole_co = TypeVar("Whole_co", covariant=True)


class FanOut(Stage[Whole_co], Generic[Part, Whole_co]):
    """A stage that has further stages do its work: which ones follows from the results of its inputs.

    The further stages are stages like any other: each has a key, a log, attempts, resources, and a name, `unit[3]` for the part
    `3` of `unit`. So of the parts of a fan-out only those run of which something changed, and a run that was cut off goes on
    with those that had not ended. The fan-out itself is cached as a whole: where nothing it takes changed, `parts` is not asked.
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if cls.effect is not Effect.PURE:
            raise WiringError(
                f"{cls.__name__} has parts and a side effect ({cls.effect.value})",
                right="a pure fan-out, and a stage with the effect that takes its result",
            )

    most: int = 100
    """How many stages it may come to, those that its parts rest on included."""

    def __post_init__(self) -> None:
        if self.always:
            raise WiringError(
                f"a {type(self).__name__} always runs, and has parts", right="always=True for one stage that cleans up by itself"
            )

    @abstractmethod
    async def parts(self, work: Work) -> Mapping[str, Stage[Part]]:
        """The further stages by the label that tells each from the others.

        They are pure, and rest on inputs of this stage and on each other. What they are is to follow from the inputs: from
        them a run that was cut off finds the same parts again. `work.latest(self)` may decide how the work is divided, as
        nothing else follows from that.

        Raises StageFailed where there can be none.
        """

    @abstractmethod
    async def join(self, work: Work, parts: Mapping[str, Part]) -> Whole_co:
        """The result of the whole, from those of the parts by label, in the order in which `parts` gave them."""

    async def run(self, work: Work) -> Whole_co:
        return await self.join(work, {label: work[part] for label, part in work.parts.items()})

    def result_type(self) -> Any:
        return _declared(type(self))[1]


def _declared(cls: type) -> tuple[Any, Any]:
    """What stands in the `FanOut[...]` a class is derived from. Raises WiringError where the class leaves it open."""
    for arguments in declared(cls, FanOut):
        if not any(isinstance(one, TypeVar) for one in arguments):
            part, whole = arguments
            return part, whole
    raise WiringError(
        f"{cls.__name__} does not say what its parts and itself return", right=f"class {cls.__name__}(FanOut[Part, Whole])"
    )


def further(pipeline: Pipeline, stage: FanOut[Any, Any], parts: Mapping[str, Stage[Any]]) -> dict[Stage[Any], str]:
    """The stages that a fan-out leads to, each after what it rests on, with their names.

    Raises StageFailed for more than it may come to, and WiringError for one that cannot be added to a run that is going on.
    """
    whole = pipeline.name_of(stage)
    if not isinstance(parts, Mapping):
        raise WiringError(f"{whole}: parts returned a {type(parts).__name__}", right="a mapping of labels to stages")
    found: dict[Stage[Any], str] = {}
    names = set[str]()
    for label, part in parts.items():
        if not (isinstance(label, str) and is_label(whole, label)):
            raise WiringError(f"{whole} has a part {label!r}", right="a label that can be seen, typed and made a directory of")
        if part in found:
            raise WiringError(
                f"one stage is the part {found[part]} and the part {member_name(whole, label)}", right="a stage for each"
            )
        _check_result(stage, whole, label, part)
        for new in _resting(pipeline, stage, whole, part):
            if new not in found:
                name = _name(whole, label, "" if new is part else default_name(new), names)
                _check_part(new, name, stage)
                found[new] = name
                names.add(name)
        if len(found) > stage.most:
            raise StageFailed(
                f"{whole} would come to {max(len(found), len(parts))} stages or more",
                right=f"at most {stage.most}, or a larger `most` of {whole}",
            )
    return found


def _resting(pipeline: Pipeline, stage: Stage[Any], whole: str, part: Stage[Any]) -> Iterator[Stage[Any]]:
    """The new stages that `part` rests on, and then itself, each after its inputs."""
    done: set[Stage[Any]] = set()
    path = [(part, iter(edges(part)))]
    if part in pipeline:
        raise WiringError(f"{pipeline.name_of(part)} is a part of {whole}, and a stage of its own", right="a new stage")
    while path:
        current, sources = path[-1]
        source = next((found for _, found in sources if found not in done), None)
        if source is None:
            path.pop()
            done.add(current)
            yield current
        elif source in pipeline:
            _check_input(pipeline, stage, whole, current, source)
        else:
            path.append((source, iter(edges(source))))


def _check_input(pipeline: Pipeline, stage: Stage[Any], whole: str, part: Stage[Any], source: Stage[Any]) -> None:
    """What a part takes of the pipeline is part of the key of the whole: it would be cached over it otherwise."""
    takes = any(source is used for _, used in uses(part))
    if source not in (pipeline.used(stage) if takes else pipeline.inputs(stage)):
        name = pipeline.name_of(source)
        how = f"{whole} only comes after" if source in pipeline.inputs(stage) else f"is not one of the inputs of {whole}"
        raise WiringError(
            f"a part of {whole} takes {name}, which {how}",
            right=f"a field of {type(stage).__name__} that holds {name}, which is handed on to the part",
        )


def _name(whole: str, label: str, inner: str, taken: set[str]) -> str:
    """The name of a part, and of what it rests on: `scans[api]`, `scans[api/subtree]`, `scans[api/subtree-2]`."""
    name, number = member_name(whole, f"{label}/{inner}" if inner else label), 1
    while name in taken:
        number += 1
        name = member_name(whole, f"{label}/{inner}-{number}" if inner else f"{label}-{number}")
    return name


def _check_result(stage: FanOut[Any, Any], whole: str, label: str, part: Stage[Any]) -> None:
    expected = _declared(type(stage))[0]
    if not isinstance(part, Stage):
        raise WiringError(f"the part {label!r} of {whole} is a {type(part).__name__}", right=f"a Stage[{expected.__name__}]")
    result = part.result_type()
    if isinstance(expected, type) and not (isinstance(result, type) and issubclass(result, expected)):
        raise WiringError(
            f"the part {label!r} of {whole} returns {getattr(result, '__name__', result)}",
            right=f"{expected.__name__}, as {type(stage).__name__} declares",
        )


def _check_part(part: Stage[Any], name: str, stage: FanOut[Any, Any]) -> None:
    """A run is planned, and what guards it is decided, before it starts: what comes later must not need any of that.

    Evidence about something that only its parts know could vouch for anything: of a whole that is cached nobody sees them.
    """
    wrong = {
        f"has a side effect ({part.effect.value})": part.effect is not Effect.PURE,
        "reads the project or the machine": type(part).observe is not Stage.observe,
        "is a source": part.origin() is not None,
        "is a gate": part.vouching() is not None,
        "has parts of its own": isinstance(part, FanOut),
        "has a condition": part.only != Only(),
        "always runs": part.always,
        "confirms side effects": part.confirms,
        "makes an artifact, which the whole is not": is_artifact(part.result_type()) and not is_artifact(stage.result_type()),
    }
    for why, holds in wrong.items():
        if holds:
            raise WiringError(
                f"{name}, a part that is made while the run goes on, {why}",
                right="a pure stage; what else there is to be is a stage of the pipeline, and an input of the fan-out",
            )
