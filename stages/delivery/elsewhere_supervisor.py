"""The process that looks after instances at a daemon or on another machine: python -m stages.delivery.elsewhere_supervisor."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio

from pipeline import Store
from stages.delivery.elsewhere import known
from stages.delivery.kept import Kept
from stages.delivery.tending import Tending


def main(text: str) -> None:
    """`text` is JSON that the target wrote: where it is, and the group."""
    told = json.loads(text)
    state = Path(told["state"])
    if (target := known(state, Store(Path(told["store"])))) is not None:
        anyio.run(Tending(target, Kept(state).release(told["group"])).run)


if __name__ == "__main__":
    main(sys.argv[1])
