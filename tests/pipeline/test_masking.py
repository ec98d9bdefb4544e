"""Secrets are masked in every shape, wherever the stream is cut."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.masking import MASK, Masker

SECRET = 'p@ss/w0rd+"x" é'

SHAPES: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda raw: raw,
    "url": lambda raw: urllib.parse.quote(raw, safe="").encode(),
    "url plus": lambda raw: urllib.parse.quote_plus(raw).encode(),
    "json": lambda raw: json.dumps(raw.decode()).encode(),
    "hex": lambda raw: raw.hex().encode(),
    "HEX": lambda raw: raw.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64url": base64.urlsafe_b64encode,
    "base64 of more": lambda raw: base64.b64encode(b"user:" + raw + b":more"),
    "base64 of more, shifted": lambda raw: base64.b64encode(b"user1:" + raw + b":more"),
    "base64 of more, shifted again": lambda raw: base64.b64encode(b"user12:" + raw + b":more"),
    "base64 twice": lambda raw: base64.b64encode(base64.b64encode(raw)),
}


def core(shape: str, secret: str = SECRET) -> bytes:
    return SHAPES[shape](secret.encode())


@pytest.mark.parametrize("shape", SHAPES)
def test_no_part_of_a_secret_is_left_wherever_it_is_cut(shape: str) -> None:
    text = b"before " + core(shape) + b" after"
    for cut in range(len(text) + 1):
        masker = Masker([SECRET])
        shown = masker.feed(text[:cut]) + masker.feed(text[cut:]) + masker.end()
        assert MASK in shown
        assert core(shape) not in shown
        assert shown.startswith(b"before ")
        assert shown.endswith(b" after")


@given(st.lists(st.binary(max_size=40), max_size=12), st.text(min_size=4, max_size=12))
def test_pieces_are_masked_as_the_whole_would_be(pieces: list[bytes], secret: str) -> None:
    masker = Masker([secret])
    assert b"".join(map(masker.feed, pieces)) + masker.end() == Masker([secret]).mask(b"".join(pieces))


@given(st.lists(st.sampled_from([b"se", b"cret", b"secret", b"secrets", b"x"]), max_size=12))
def test_overlapping_secrets_never_leak(pieces: list[bytes]) -> None:
    masker = Masker(["secret", "secrets!"])
    shown = b"".join(map(masker.feed, pieces)) + masker.end()
    assert b"secret" not in shown


def test_a_secret_of_several_lines_is_masked_line_by_line() -> None:
    assert Masker(["first line\nsecond line"]).mask(b"a second line") == b"a ***"


def test_without_secrets_nothing_changes() -> None:
    masker = Masker([])
    assert masker.feed(b"abc") + masker.end() == b"abc"


def test_a_line_too_short_to_be_a_secret_is_left_as_it_is() -> None:
    key = '{\n"key": "abcdef"\n}'
    assert Masker([key]).mask(b'{ "other": 1 } "key": "abcdef"') == b'{ "other": 1 } ***'
