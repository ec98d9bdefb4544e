"""The names of stages: what they may be, and the directory each of them has."""

from __future__ import annotations

import re

from pipeline.errors import WiringError

WORD = re.compile(r"[^\W\d][\w.-]*")
"""What stands before the label of a matrix: letters, digits, `_`, `-` and `.`, the first of them a letter or `_`."""

LONGEST = 255
"""Bytes that the name of a file may have on any file system in use."""


def checked_name(name: str) -> str:
    """`name`, given as a keyword or made from a class. Raises WiringError when no stage may have it."""
    if not WORD.fullmatch(name):
        raise WiringError(
            f"no stage may have the name {name!r}", right="letters, digits, `_`, `-` and `.`, as in 'unit' or 'unit-3.12'"
        )
    if not _fits(name):
        raise WiringError(f"the name {name[:40]!r}... has {len(name.encode())} bytes", right=f"at most {LONGEST} bytes")
    return name


def member_name(name: str, label: str) -> str:
    """The name of the member of a matrix that `label` tells from the others.

    >>> member_name("tests", "3.12")
    'tests[3.12]'
    """
    return f"{name}[{label}]"


def is_label(name: str, label: str) -> bool:
    """Whether `label` may stand in the name of a member: it can be seen, typed and made a directory of."""
    return bool(label) and label.isprintable() and label == label.strip() and _fits(member_name(name, label))


def directory_name(name: str) -> str:
    """The name as that of a directory; two names never share one.

    >>> directory_name("tests[unit/a]"), directory_name("tests[100%]")
    ('tests[unit%2Fa]', 'tests[100%25]')
    """
    return name.replace("%", "%25").replace("/", "%2F")


def _fits(name: str) -> bool:
    return len(directory_name(name).encode()) <= LONGEST
