"""Grouping of errors: what is the same error, though its words and numbers differ.

As error trackers do it (Sentry's documentation, "Issue Grouping"): an error with a stack trace is known by its type and the
frames of the application itself, innermost first and without line numbers; one without by its type and its message, from which
what varies is removed: numbers, identifiers, addresses, paths.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import NamedTuple

FRAMES = 5
"""Innermost frames by which an error is known."""

PYTHON = re.compile(r'^\s*File "(?P<file>[^"\n]{1,500})", line \d+(?:, in (?P<function>[^\n]{1,200}))?', re.MULTILINE)
"""A frame of a traceback (the last is the innermost)."""

V8 = re.compile(
    r"^\s*at (?:(?P<function>[^\n(]{1,200}?) \()?(?P<file>[^\s()][^\n()]{0,500}?)(?::\d+)?(?::\d+)?\)?$", re.MULTILINE
)
"""A frame of a JavaScript engine's stack, also of Java's (the first is the innermost)."""

GECKO = re.compile(r"^(?P<function>[^@\n]{0,200})@(?P<file>[^\n]{1,500}?)(?::\d+)?(?::\d+)?$")
"""A frame as Firefox and Safari write it."""

LIBRARY = re.compile(r"site-packages|dist-packages|node_modules|/lib/python\d|^<frozen |^node:|^internal/|^native$|^<anonymous>$")
"""Files of frames that are not the application's own."""

VARYING = (
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE), "<uuid>"),
    (re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s'\"<>]+", re.IGNORECASE), "<url>"),
    (re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+\b"), "<email>"),
    (re.compile(r"(?<![\w.])(?:[A-Za-z]:)?(?:[/\\][\w.@%+~-]+){2,}[/\\]?"), "<path>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?\b"), "<time>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\d+(?:[.,]\d+)*"), "<number>"),
)
"""What varies in a message, in the order in which it is looked for."""

VERSIONED = re.compile(r"[.-][0-9a-f]{6,64}(?=\.[a-z]{1,4}$)", re.IGNORECASE)
"""The digest that a build puts into the name of a file."""


class Frame(NamedTuple):
    """A function of a file."""

    file: str
    function: str


def fingerprint(kind: str, message: str, stack: str) -> str:
    """The name of the group of an error: equal for what is the same error. Pure."""
    known = [f"{frame.file}:{frame.function}" for frame in own(frames(stack))[:FRAMES]] or [normalized(message)]
    return hashlib.sha256("\n".join([kind, *known]).encode()).hexdigest()[:16]


def normalized(message: str) -> str:
    """The first line of a message without what varies.

    >>> normalized("order 17 of /srv/shop/orders.db: timeout after 2.5 s at 0x7f3a")
    'order <number> of <path>: timeout after <number> s at <hex>'
    """
    text = message.strip().partition("\n")[0][:1000]
    for pattern, name in VARYING:
        text = pattern.sub(name, text)
    return " ".join(text.split())


def frames(stack: str) -> list[Frame]:
    """The frames of a stack trace, the innermost first; none where nothing looks like one."""
    python = [_frame(found) for found in PYTHON.finditer(stack)]
    return python[::-1] or list(_javascript(stack))


def own(found: list[Frame]) -> list[Frame]:
    """The frames of the application itself, by the last two parts of their files; all where there are none of its own."""
    mine = [frame for frame in found if not LIBRARY.search(frame.file)] or found
    return [Frame(VERSIONED.sub("", "/".join(re.split(r"[/\\]", frame.file)[-2:])), frame.function) for frame in mine]


def _javascript(stack: str) -> Iterator[Frame]:
    for line in stack.splitlines():
        found = V8.match(line) or GECKO.match(line)
        if found is not None:
            yield _frame(found)


def _frame(found: re.Match[str]) -> Frame:
    return Frame(found["file"].partition("?")[0], (found["function"] or "").strip())
