"""The names of targets and routers, each of which has a directory of that name."""

from __future__ import annotations

import re

from pipeline import WiringError

NAME = re.compile(r"(?=.{1,100}$)\w([\w. -]*[\w.-])?")


def check_name(kind: str, name: str) -> None:
    """Raises WiringError for what is no name of a directory, or one of another place."""
    if not NAME.fullmatch(name):
        raise WiringError(
            f"{kind}.name is {name[:120]!r}",
            where=kind,
            right="up to 100 letters, digits, spaces, `_`, `-` and `.`, a letter, digit or `_` first, as in 'camera-counting'",
        )
