"""Actions: one hermetic command each, described completely enough to run anywhere and to be named by digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pipeline import digest
from pipeline.data import Blob, Tree
from pipeline.errors import CommandFailed, LockgateError
from pipeline.frozen import Frozen
from pipeline.service import Service
from pipeline.store import Store


class Action(Frozen):
    """One command: what it runs, what it sees, what it may reach and what it leaves.

    The command runs in a fresh directory that holds `inputs` (private copies) and `tools` (shared and
    read-only where the engine can see to that, else private copies too) at their relative paths.
    `{root}` in argv and env stands for that directory.
    """

    argv: tuple[str, ...]
    inputs: Mapping[str, Tree | Blob] = field(default_factory=dict)
    tools: Mapping[str, Tree] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    """Relative paths of files or directories to bring back; missing ones are left out of the result."""
    image: str = ""
    """The container image for engines that have containers; empty: the engine's default."""
    cwd: str = "."
    network: bool = False
    """Whether the command may reach anything but itself and its services."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Environment variable to the name of a secret; values never enter argv, keys, logs or the store."""
    services: tuple[Service, ...] = ()
    dockerfile: str = ""
    """Path of a Dockerfile in the one input. Instead of a command, engines that have containers build it and
    leave the image in the one output, as an archive of an OCI layout."""
    caches: Mapping[str, str] = field(default_factory=dict)
    """Relative path to the name of a directory kept between actions; only ever a matter of speed."""

    def digest(self) -> digest.Digest:
        """The name of everything the outputs depend on."""
        return digest.of_json(_plain(self))


def _plain(value: Any) -> Any:
    if isinstance(value, Blob | Tree):
        return value.digest
    if isinstance(value, Service):
        return value.model_dump(mode="json")
    if isinstance(value, Action):
        return {name: _plain(getattr(value, name)) for field_ in fields(value) if (name := field_.name) != "caches"}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True)
class Output:
    """A file or directory that an action left, held in the store."""

    path: str
    content: Blob | Tree
    store: Store = field(repr=False)

    def read(self) -> bytes:
        """The bytes of a file. Raises LockgateError for a directory."""
        return self.store.read(self.blob)

    @property
    def blob(self) -> Blob:
        if not isinstance(self.content, Blob):
            raise LockgateError(f"the output {self.path!r} is a directory", right="a file")
        return self.content

    @property
    def tree(self) -> Tree:
        if not isinstance(self.content, Tree):
            raise LockgateError(f"the output {self.path!r} is a file", right="a directory")
        return self.content


Network = Literal["refused", "allowed", "not enforced"]


class ActionResult(Frozen):
    """What came of an action, also when its command failed."""

    action: Action
    exit_code: int
    log: Path
    """Standard output and error as they were written, secrets masked."""
    tail: str
    """The last 4 KiB of the log, decoded."""
    outputs: Mapping[str, Output]
    seconds: float
    network: Network
    worker: str = ""
    """The address of the worker that executed it; empty: it was executed here."""

    def require(self, *allowed: int) -> ActionResult:
        """This result when the exit code is 0 or one of `allowed`. Raises CommandFailed otherwise."""
        if self.exit_code != 0 and self.exit_code not in allowed:
            expected = "exit code " + " or ".join(str(code) for code in sorted({0, *allowed}))
            raise CommandFailed(self.action.argv, self.exit_code, self.tail, expected=expected)
        return self

    def output(self, path: str) -> Output:
        """The output at `path`. Raises CommandFailed when the command did not leave it."""
        if path not in self.outputs:
            raise CommandFailed(self.action.argv, self.exit_code, self.tail, expected=f"the file {path}")
        return self.outputs[path]
