"""What an action left, brought into the store. Nothing that lies elsewhere on this machine is taken for it."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.action import Action, Output
from pipeline.errors import EngineError
from pipeline.store import Store


def collect(action: Action, root: Path, store: Store) -> dict[str, Output]:
    """The outputs below `root`, those that are missing left out. Raises EngineError for one that `led_to` refuses."""
    found: dict[str, Output] = {}
    for path in action.outputs:
        place = led_to(root, path)
        if place is not None:
            content = store.put_tree(place, adopt=True) if place.is_dir() else store.adopt_file(place)
            found[path] = Output(path, content, store)
    return found


def led_to(root: Path, path: str) -> Path | None:
    """The file or directory that `path` below `root` leads to; None where nothing is.

    Raises EngineError for a link out of `root`, wherever it leads, and for what can only be opened, like a pipe.
    """
    place = Path(os.path.realpath(root / path))
    if not place.is_relative_to(os.path.realpath(root)):
        raise EngineError(f"the output {path!r} is a link out of the action's directory", right="a file of its own")
    if not place.exists():
        return None
    if not (place.is_dir() or place.is_file()):
        raise EngineError(f"the output {path!r} is neither a file nor a directory", right="a regular file")
    return place
