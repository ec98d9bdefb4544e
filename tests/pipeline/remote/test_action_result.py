"""The wire format of `ActionResult`, against the protobuf library where there is one."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.remote.action_result import ActionResult, OutputFile, decode, encode

DIGEST = "0123456789abcdef" * 4

FILES = st.builds(
    OutputFile,
    path=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    digest=st.text("0123456789abcdef", min_size=64, max_size=64),
    size=st.integers(0, 2**63 - 1),
)
RESULTS = st.builds(
    ActionResult, files=st.lists(FILES, max_size=5).map(tuple), exit_code=st.integers(0, 2**31 - 1), stdout=st.binary()
)


def library() -> Any:
    """The message as the protobuf library knows it, from the same names and numbers."""
    descriptor_pb2, descriptor_pool, message_factory = (
        pytest.importorskip(f"google.protobuf.{module}", reason="the protobuf library is not installed")
        for module in ("descriptor_pb2", "descriptor_pool", "message_factory")
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="re.proto", package="re", syntax="proto3")
    messages: dict[str, list[tuple[str, int, Any, str]]] = {
        "Digest": [("hash", 1, kinds.TYPE_STRING, ""), ("size_bytes", 2, kinds.TYPE_INT64, "")],
        "Metadata": [("worker", 1, kinds.TYPE_STRING, "")],
        "OutputFile": [
            ("path", 1, kinds.TYPE_STRING, ""),
            ("digest", 2, kinds.TYPE_MESSAGE, ".re.Digest"),
            ("is_executable", 4, kinds.TYPE_BOOL, ""),
        ],
        "ActionResult": [
            ("output_files", 2, kinds.TYPE_MESSAGE, ".re.OutputFile"),
            ("exit_code", 4, kinds.TYPE_INT32, ""),
            ("stdout_raw", 5, kinds.TYPE_BYTES, ""),
            ("execution_metadata", 9, kinds.TYPE_MESSAGE, ".re.Metadata"),
        ],
    }
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            label = kinds.LABEL_REPEATED if field == "output_files" else kinds.LABEL_OPTIONAL
            message.field.add(name=field, number=number, type=kind, type_name=of or None, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("re.ActionResult"))


@given(RESULTS)
def test_what_was_encoded_is_read_back(result: ActionResult) -> None:
    assert decode(encode(result)) == result


def test_the_library_writes_the_same_bytes_and_reads_them() -> None:
    message = library()

    @given(RESULTS)
    def check(result: ActionResult) -> None:
        theirs = message(exit_code=result.exit_code, stdout_raw=result.stdout)
        for file in result.files:
            theirs.output_files.add(path=file.path, digest={"hash": file.digest, "size_bytes": file.size})
        assert encode(result) == theirs.SerializeToString(deterministic=True)
        assert decode(theirs.SerializeToString()) == result

    check()


def test_fields_that_a_server_adds_are_passed_over() -> None:
    message = library()(execution_metadata={"worker": "127.0.0.1"}, exit_code=-1)
    message.output_files.add(path="a", digest={"hash": DIGEST, "size_bytes": 3}, is_executable=True)
    found = decode(message.SerializeToString())
    assert found.files == (OutputFile("a", DIGEST, 3),)
    assert found.exit_code  # whatever it is, it is not 0


@given(st.binary(max_size=80))
def test_bytes_that_are_no_message_are_an_error_of_one_kind(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(data)


@pytest.mark.parametrize("digest", ["", "../../../etc/passwd", DIGEST.upper(), DIGEST[:-1], DIGEST + "\n"])
def test_a_digest_that_is_none_is_refused(digest: str) -> None:
    with pytest.raises(ValueError, match="no digest of SHA-256"):
        decode(encode(ActionResult((OutputFile("a", digest, 1),))))


@pytest.mark.parametrize("data", [b"\x12\x05ab", b"\x80" * 11, b"\x13", b"\x0f"])
def test_half_a_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no message"):
        decode(data)
