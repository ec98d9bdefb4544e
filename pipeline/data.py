"""Results are data: frozen pydantic models that name content by digest and never hold it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Result(BaseModel):
    """What a stage returns: frozen, comparable by value, written to the store as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    def summary(self) -> str:
        """One short line for people; empty where there is nothing to say."""
        return ""

    def concern(self) -> str:
        """Why nobody should go on because of this result, where no gate weighs it; empty when there is no reason.

        A stage that nothing downstream judges fails the run with this.
        """
        return ""

    def reusable(self) -> bool:
        """Whether a later run may take this result instead of running the stage again.

        Evidence of a failure says no: the next run looks again instead of repeating an old failure.
        """
        return True


@functools.cache
def is_result(kind: type) -> bool:
    """Whether a type is one of results; `isinstance` takes its time with models."""
    return issubclass(kind, Result)


class Artifact(Result):
    """Something that can be released. Evidence has to be about the artifact it vouches for."""


def is_artifact(result: Any) -> bool:
    """Whether a type of results is one of artifacts."""
    return isinstance(result, type) and issubclass(result, Artifact)


SCANNED = {"report", "findings"}
"""The fields of a result that carries a SARIF report."""


@functools.cache
def is_scan(result: Any) -> bool:
    """Whether results of that type carry a SARIF report."""
    return getattr(result, "model_fields", {}).keys() >= SCANNED


class Blob(Result):
    """A file's bytes by digest; `size` in bytes."""

    digest: Sha256
    size: int

    def summary(self) -> str:
        return f"{self.size:,} bytes"


class Tree(Result):
    """A directory by digest: the SHA-256 of its canonical listing. `files` counts files, `size` is their bytes."""

    digest: Sha256
    files: int
    size: int

    def summary(self) -> str:
        return f"{self.files:,} {'file' if self.files == 1 else 'files'}, {self.size:,} bytes"


PLAIN = frozenset({str, int, bool, float, type(None)})
"""Types of most values of fields; they name no content."""


def contents(result: Any) -> Iterator[Blob | Tree]:
    """Every blob and tree a result names, however deep."""
    shape = _shape(type(result))  # type: ignore[arg-type]  # mypy takes the hash of instances
    if shape is BaseModel:
        for value in result.__dict__.values():
            if type(value) not in PLAIN:
                yield from contents(value)
    elif shape is Blob:
        yield result
    elif shape is dict:
        for value in result.values():
            yield from contents(value)
    elif shape is list:
        for value in result:
            yield from contents(value)


@functools.cache
def _shape(kind: type) -> type | None:
    """What values of a type are like to whoever looks for content in them; `isinstance` takes its time with models."""
    shapes = {Blob: (Blob, Tree), BaseModel: (BaseModel,), dict: (dict,), list: (list, tuple, frozenset, set)}
    return next((shape for shape, kinds in shapes.items() if issubclass(kind, kinds)), None)
