"""The record of a stage run in the store: its result by digest and the components of its key."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from pipeline import digest
from pipeline.data import Blob, Result, contents, is_result
from pipeline.errors import StageFailed, StoreError
from pipeline.stage import Stage
from pipeline.store import Store


class Record(NamedTuple):
    """What is kept under a key. `seconds` the execution took; `contents` what the result names."""

    result: str
    size: int
    run: str
    seconds: float
    summary: str
    concern: str
    contents: list[list[Any]]
    parts: str
    """The components of the key, as canonical JSON: its SHA-256 is the key."""

    @property
    def components(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.parts)
        return found


class Kept(NamedTuple):
    """A result as it is read back, and the digest and the size of its text in the store; equal results have equal digests."""

    result: Result
    digest: str
    size: int


def keep(store: Store, stage: Stage[Any], name: str, value: Any) -> Kept:
    """Write `value` to the store when it is what the stage says it returns. Raises StageFailed otherwise."""
    expected = stage.result_type()
    if not isinstance(value, expected) or not is_result(type(value)):  # type: ignore[arg-type]  # mypy takes the hash of instances
        raise StageFailed(
            f"{name} returned a {type(value).__name__}", right=f"a {expected.__name__}, as {type(stage).__name__} declares"
        )
    try:
        text = digest.canonical(value.model_dump(mode="json", warnings=False))
        read_back: Result = expected.model_validate_json(text)  # which is what later runs get: nobody is to see more now
    except ValueError as error:
        raise StageFailed(f"{name} returned a {expected.__name__} that cannot be read back: {error}") from error
    return Kept(read_back, store.keep(text), len(text))


def of(kept: Kept, *, parts: str, run: str, seconds: float) -> Record:
    """The record of a result."""
    return Record(
        result=kept.digest,
        size=kept.size,
        run=run,
        seconds=seconds,
        summary=kept.result.summary(),
        concern=kept.result.concern(),
        contents=[[c.digest, c.size, getattr(c, "files", -1)] for c in contents(kept.result)],
        parts=parts,
    )


def written(record: Record) -> bytes:
    """Three lines: the components, all else, and a digest of both, by which damage is noticed."""
    text = record.parts.encode(errors="surrogateescape") + b"\n" + _rest(record)
    return text + b"\n" + digest.of_bytes(text).encode()


def _rest(record: Record) -> bytes:
    text = digest.quickly(record[:-1])
    return digest.canonical(record[:-1]) if text is None else text


def read(text: bytes, key: str) -> Record | None:
    """The record when it is whole and was written under this key."""
    body, _, mark = text.rpartition(b"\n")
    parts, _, rest = body.partition(b"\n")
    if digest.of_bytes(body) != mark.decode(errors="replace") or digest.of_bytes(parts) != key:
        return None
    result, size, run, seconds, summary, concern, contents_ = json.loads(rest.decode(errors="surrogateescape"))
    return Record(result, size, run, seconds, summary, concern, contents_, parts.decode(errors="surrogateescape"))


def save(store: Store, key: str, record: Record) -> None:
    """Keep the record under its key."""
    store.save(key, written(record))


def load(store: Store, key: str) -> Record | None:
    """The record under `key` when it is whole and everything its result names is still there."""
    return load_all(store, [key]).get(key)


def load_all(store: Store, keys: Iterable[str]) -> dict[str, Record]:
    """Those of the records that are whole, and of which everything that their results name is still there."""
    found = {key: record for key, text in store.load_all(keys) if (record := read(text, key)) is not None}
    if not found:
        return {}
    named = {key: [record.result, *(content[0] for content in record.contents)] for key, record in found.items()}
    lacking = store.lacking(name for names in named.values() for name in names)
    return {key: record for key, record in found.items() if lacking.isdisjoint(named[key])} if lacking else found


def damage(store: Store, key: str) -> str:
    """What of the result under `key` was damaged on disk; empty where nothing was, and where there is none."""
    text = store.load(key)
    if text is None:
        return ""
    record = read(text, key)
    if record is None:
        return "the record of its result was damaged on disk"
    damaged = store.has_object(record.result) and not store.is_whole(record.result)
    return "its result was damaged on disk" if damaged else ""


def result(store: Store, stage: Stage[Any], name: str, blob: Blob) -> Any:
    """The result of `stage`, read back as the type the stage returns."""
    try:
        return stage.result_type().model_validate_json(store.read(blob))
    except ValueError as error:
        raise StoreError(
            f"the recorded result of {name} is no {stage.result_type().__name__}: {error}",
            right="a result this version of the stage wrote",
        ) from error
