"""The record of a stage run in the store: its result by digest and the components of its key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import digest
from pipeline.data import Blob, Result, contents
from pipeline.errors import StageFailed, StoreError, WiringError
from pipeline.frozen import Frozen
from pipeline.stage import Stage
from pipeline.store import Store


class Record(Frozen):
    """What is kept under a key. `seconds` the execution took; `contents` what the result names."""

    result: str
    size: int
    components: dict[str, str]
    run: str
    seconds: float
    summary: str
    concern: str
    contents: list[list[Any]]


@dataclass(frozen=True)
class Kept:
    """A result, and where the store has it; equal results have equal digests."""

    result: Result
    blob: Blob


def keep(store: Store, stage: Stage[Any], name: str, value: Any) -> Kept:
    """Write `value` to the store when it is what the stage says it returns. Raises StageFailed otherwise."""
    expected = stage.result_type()
    if not isinstance(value, expected) or not isinstance(value, Result):
        raise StageFailed(
            f"{name} returned a {type(value).__name__}", right=f"a {expected.__name__}, as {type(stage).__name__} declares"
        )
    try:
        text = digest.canonical(value.model_dump(mode="json", warnings=False))
        expected.model_validate_json(text)
    except ValueError as error:
        raise StageFailed(f"{name} returned a {expected.__name__} that cannot be read back: {error}") from error
    return Kept(value, store.put(text))


def of(kept: Kept, *, components: Mapping[str, str], run: str, seconds: float) -> Record:
    """The record of a result."""
    return Record(
        result=kept.blob.digest,
        size=kept.blob.size,
        components=dict(components),
        run=run,
        seconds=seconds,
        summary=kept.result.summary(),
        concern=kept.result.concern(),
        contents=[[c.digest, c.size, getattr(c, "files", -1)] for c in contents(kept.result)],
    )


def save(store: Store, key: str, record: Record) -> None:
    """Write the record under its key."""
    store.save(key, digest.canonical(asdict(record)))


def load(store: Store, key: str) -> Record | None:
    """The record under `key` when it is whole and everything its result names is still there."""
    text = store.load(key)
    if text is None:
        return None
    try:
        record = Record(**json.loads(text))
    except (ValueError, TypeError, RecursionError, WiringError):
        return None  # half a record is no record: the stage runs again and writes a whole one
    if digest.of_json(record.components) != key:
        return None  # not the record that was written under this key
    try:
        store.read(Blob(digest=record.result, size=record.size))
    except StoreError:
        return None  # missing or damaged: a miss, so that the result is made again
    return record if all(store.has_object(digest_) for digest_, *_ in record.contents) else None


def result(store: Store, stage: Stage[Any], name: str, blob: Blob) -> Any:
    """The result of `stage`, read back as the type the stage returns."""
    try:
        return stage.result_type().model_validate_json(store.read(blob))
    except ValueError as error:
        raise StoreError(
            f"the recorded result of {name} is no {stage.result_type().__name__}: {error}",
            right="a result this version of the stage wrote",
        ) from error
