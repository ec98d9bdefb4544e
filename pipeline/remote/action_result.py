"""`ActionResult` of the Remote Execution API in protobuf's wire format: the few fields that an entry of the cache needs.

Names and numbers of fields are those of build/bazel/remote/execution/v2/remote_execution.proto:

    ActionResult: repeated OutputFile output_files = 2; int32 exit_code = 4; bytes stdout_raw = 5
    OutputFile:   string path = 1; Digest digest = 2
    Digest:       string hash = 1; int64 size_bytes = 2

Others are skipped: a server may add its own, as bazel-remote does with the name of the worker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types, https://protobuf.dev/programming-guides/encoding/."""

SHA256 = re.compile(r"[0-9a-f]{64}")

Value = int | bytes


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file by its path and the digest and size of its bytes."""

    path: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What came of an action: its files, how it ended and what it printed."""

    files: tuple[OutputFile, ...]
    exit_code: int = 0
    stdout: bytes = b""


def encode(result: ActionResult) -> bytes:
    """The message, its fields in the order of their numbers, those left out that have no value."""
    parts = [_field(2, _field(1, file.path.encode()) + _field(2, _digest(file))) for file in result.files]
    if result.exit_code:
        parts.append(_tag(4, VARINT) + _varint(result.exit_code % 2**64))
    if result.stdout:
        parts.append(_field(5, result.stdout))
    return b"".join(parts)


def decode(data: bytes) -> ActionResult:
    """The message. Raises ValueError for bytes that are none, and for a digest that is not of SHA-256."""
    files, exit_code, stdout = [], 0, b""
    for number, value in _fields(data):
        match number, value:
            case 2, bytes():
                files.append(_output_file(value))
            case 4, int():
                exit_code = value
            case 5, bytes():
                stdout = value
    return ActionResult(tuple(files), exit_code, stdout)


def _output_file(data: bytes) -> OutputFile:
    path, name, size = "", "", 0
    for number, value in _fields(data):
        match number, value:
            case 1, bytes():
                path = value.decode()
            case 2, bytes():
                fields = dict(_fields(value))
                match fields.get(1), fields.get(2, 0):
                    case bytes(hashed), int(size):
                        name = hashed.decode()
    if not SHA256.fullmatch(name) or size >= 2**63:
        raise ValueError("no digest of SHA-256")
    return OutputFile(path, name, size)


def _digest(file: OutputFile) -> bytes:
    return _field(1, file.digest.encode()) + (_tag(2, VARINT) + _varint(file.size) if file.size else b"")


def _field(number: int, data: bytes) -> bytes:
    return _tag(number, BYTES) + _varint(len(data)) + data


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Each field's number and value, in the order in which they come."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        wire = tag & 7
        if wire == VARINT:
            value, at = _read_varint(data, at)
            yield tag >> 3, value
            continue
        length = {FIXED64: 8, FIXED32: 4}.get(wire, -1)
        if wire == BYTES:
            length, at = _read_varint(data, at)
        if length < 0 or at + length > len(data):
            raise ValueError("no message: it ends in the middle of a field, or has one of an unknown type")
        yield tag >> 3, data[at : at + length]
        at += length


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where the next thing begins."""
    value = 0
    for place in range(10):
        if at + place >= len(data):
            break
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value % 2**64, at + place + 1
    raise ValueError("no message: a number does not end")
