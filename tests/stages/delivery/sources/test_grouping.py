"""What is the same error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.delivery.sources.grouping import Frame, fingerprint, frames, normalized, own

PYTHON = """Traceback (most recent call last):
  File "/srv/{build}/shop/orders.py", line {line}, in place
    charge(order)
  File "/usr/lib/python3.11/site-packages/httpx/_client.py", line 901, in send
    raise exc
httpx.ConnectError: {message}
"""

V8 = """TypeError: Cannot read properties of undefined (reading 'total')
    at Cart.total (https://shop.example/static/cart.{build}.js:{line}:17)
    at async checkout (https://shop.example/static/checkout.{build}.js?v=3:9:1)
    at run (/srv/app/node_modules/runner/index.js:3:5)
"""

GECKO = (
    "total@https://shop.example/static/cart.{build}.js:{line}:17\ncheckout@https://shop.example/static/checkout.{build}.js:9:1\n"
)


def test_frames_are_read_innermost_first() -> None:
    assert frames(PYTHON.format(build="1", line=3, message="x"))[1] == Frame("/srv/1/shop/orders.py", "place")
    assert own(frames(V8.format(build="0a1b2c3d", line=5))) == [
        Frame("static/cart.js", "Cart.total"),
        Frame("static/checkout.js", "async checkout"),
    ]
    assert own(frames(GECKO.format(build="0a1b2c3d", line=5)))[0] == Frame("static/cart.js", "total")
    assert frames("it broke\nno idea why") == []


@pytest.mark.parametrize("stack", [PYTHON, V8, GECKO])
def test_another_line_build_and_message_is_the_same_error(stack: str) -> None:
    first = fingerprint("E", "order 17", stack.format(build="0a1b2c3d", line=3, message="a"))
    assert first == fingerprint("E", "order 18", stack.format(build="ffee0011", line=44, message="b"))
    assert first != fingerprint("Other", "order 17", stack.format(build="0a1b2c3d", line=3, message="a"))
    elsewhere = stack.replace("checkout", "pay").replace("place", "pay").format(build="0a1b2c3d", line=3, message="a")
    assert first != fingerprint("E", "order 17", elsewhere)


def test_frames_of_libraries_count_where_there_are_no_others() -> None:
    stack = '  File "/x/site-packages/a/b.py", line 1, in f\n'
    assert own(frames(stack)) == [Frame("a/b.py", "f")]
    assert fingerprint("E", "", stack) != fingerprint("E", "", stack.replace("in f", "in g"))


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("user 3f2504e0-4f89-11d3-9a0c-0305e82c3301 not found", "user <uuid> not found"),
        ("GET https://shop.example/a?b=1 failed", "GET <url> failed"),
        ("cannot open /var/lib/shop/17.db: no space", "cannot open <path>: no space"),
        ("no mail to ann@example.org at 2026-11-29T12:00:01Z", "no mail to <email> at <time>"),
        ("at 0x7fff0010, commit 9fc2cd7a1", "at <hex>, commit <hex>"),
        ("took 2.5 s of 1,000", "took <number> s of <number>"),
        ("deadbeef is a word without a digit", "deadbeef is a word without a digit"),
        ("either/or is no path", "either/or is no path"),
        ("first line\nsecond line", "first line"),
    ],
)
def test_what_varies_in_a_message_is_removed(message: str, wanted: str) -> None:
    assert normalized(message) == wanted


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=500))
def test_any_report_has_a_group_and_always_the_same(kind: str, message: str, stack: str) -> None:
    assert fingerprint(kind, message, stack) == fingerprint(kind, message, stack)
    assert len(fingerprint(kind, message, stack)) == 16


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.uuids(), st.uuids())
def test_numbers_and_identifiers_make_no_other_error(a: int, b: int, one: object, two: object) -> None:
    assert normalized(f"order {a} of {one} failed") == normalized(f"order {b} of {two} failed")


def test_a_huge_line_takes_no_time() -> None:
    assert frames("    at " + "(" * 60000) == frames("@" * 60000)[:0]
    assert len(normalized("/a" * 30000)) <= 1000
