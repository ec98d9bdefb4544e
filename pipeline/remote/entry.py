"""An entry of the remote cache: the record of a stage run and every object that its result needs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import digest
from pipeline import record as records
from pipeline.data import Blob, Tree
from pipeline.record import Record
from pipeline.remote.action_result import SHA256, ActionResult, OutputFile, decode, encode
from pipeline.remote.signature import is_signed, sign
from pipeline.store import Entry, Store, check_paths

RECORD = "record"
"""The path under which an entry names its record; objects are named `objects/SHA256`."""

LARGEST = 1 << 26
"""Bytes of the largest message, record, result and listing of a tree that are taken: they are held in memory."""

WITHDRAWN = encode(ActionResult(files=(), exit_code=1))
"""In place of an entry that is not to be used any more: nobody takes the result of what did not end well."""

RUN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


class Unfit(Exception):
    """What the server has under a key is no entry, or none for that key."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the server names under a key: the record, and the sizes of all objects."""

    record: OutputFile
    sizes: Mapping[str, int]
    signature: bytes

    def is_signed(self, key: str, trusted: tuple[bytes, ...]) -> bool:
        return is_signed(self.signature, key, self.record.digest, trusted)


def found(message: bytes) -> Found | None:
    """The entry in a message; None for one that was withdrawn. Raises Unfit."""
    try:
        result = decode(message)
    except ValueError as error:
        raise Unfit(str(error)) from error
    if result.exit_code:
        return None
    record = next((file for file in result.files if file.path == RECORD), None)
    if record is None:
        raise Unfit(f"it names no {RECORD}")
    return Found(record, {file.digest: file.size for file in result.files}, result.stdout)


def made(text: bytes, key: str) -> Record:
    """The record in an entry. Raises Unfit when it is not one that belongs under the key.

    What it says of the result itself is not looked at: that is read from the result.
    """
    try:
        record = records.read(text, key)
        if record is None:
            raise Unfit("its record is damaged, or belongs under another key")
        if not (SHA256.fullmatch(record.result) and RUN.fullmatch(record.run) and math.isfinite(record.seconds)):
            raise Unfit("its record does not say what was made where")
    except (ValueError, TypeError, RecursionError) as error:
        raise Unfit("its record cannot be read") from error
    return record


def files(store: Store, tree: Tree) -> tuple[Entry, ...]:
    """The files of a tree that a server named. Raises Unfit for a listing that the store would not have written."""
    try:
        entries = store.entries(tree)
        check_paths({entry.path: entry for entry in entries})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Unfit("its tree cannot be read") from error
    if not all(entry.kind == "link" or SHA256.fullmatch(entry.target) for entry in entries):
        raise Unfit("its tree names a file without a digest")
    return tuple(entry for entry in entries if entry.kind != "link")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An entry to be sent: the record's bytes, and the sizes of the objects that it needs."""

    key: str
    record: bytes
    objects: Mapping[str, int]

    def message(self, private: bytes) -> bytes:
        """What goes under the key, signed where there is a key to sign with."""
        name = digest.of_bytes(self.record)
        named = [OutputFile(f"objects/{other}", other, size) for other, size in self.objects.items()]
        files = (OutputFile(RECORD, name, len(self.record)), *named)
        return encode(ActionResult(files, stdout=sign(self.key, name, private) if private else b""))


def outgoing(store: Store, key: str, record: Record) -> Outgoing:
    """The entry of a record in the store. Raises StoreError when something of it is not there."""
    objects: dict[str, int] = {}
    for name, size, count in record.contents:
        if count >= 0:
            tree = Tree(digest=name, files=count, size=size)
            objects |= {entry.target: entry.size for entry in store.entries(tree) if entry.kind != "link"}
            size = store.size(name)  # noqa: PLW2901 - of the listing
        objects[name] = size
    objects[record.result] = record.size
    return Outgoing(key, records.written(record), objects)


def rebuilt(store: Store, stage: Any, name: str, made_elsewhere: Record) -> Record:
    """The record as it would have been written here, from a result whose bytes are in the store.

    Summary, concern and contents are what the result says, whatever the one who sent it says of it. Raises StoreError or
    Unfit for a result that is none of this stage, or that no later run may take.
    """
    size = store.size(made_elsewhere.result)
    result = records.result(store, stage, name, Blob(digest=made_elsewhere.result, size=size))
    if not result.reusable():
        raise Unfit("its result is not to be used again")
    return records.of(
        records.Kept(result, made_elsewhere.result, size),
        parts=made_elsewhere.parts,
        run=made_elsewhere.run,
        seconds=made_elsewhere.seconds,
    )
