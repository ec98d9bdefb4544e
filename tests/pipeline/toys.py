"""Small stages that tests of the machine are made of; they compute, and never pretend to be a tool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import anyio

from pipeline import Action, Artifact, Effect, Project, Result, Stage, StageFailed, Work
from pipeline.digest import of_bytes


class Number(Result):
    value: int

    def summary(self) -> str:
        return str(self.value)


class Thing(Artifact):
    value: int


class FromFile(Stage[Number]):
    """Reads a number from a file of the project."""

    path: str

    def origin(self) -> str:
        return f"file {self.path}"

    def observe(self, project: Project) -> str:
        return of_bytes((project.root / self.path).read_bytes())

    async def run(self, work: Work) -> Number:
        return Number(value=int((work.project.root / self.path).read_text()))


class Constant(Stage[Number]):
    value: int

    async def run(self, work: Work) -> Number:
        return Number(value=self.value)


class Sum(Stage[Number]):
    parts: tuple[Stage[Number], ...]
    plus: int = 0

    async def run(self, work: Work) -> Number:
        return Number(value=self.plus + sum(work[part].value for part in self.parts))


class Half(Stage[Number]):
    """Half, rounded down: different inputs may give one result."""

    of: Stage[Number]

    async def run(self, work: Work) -> Number:
        return Number(value=work[self.of].value // 2)


class Make(Stage[Thing]):
    of: Stage[Number]

    async def run(self, work: Work) -> Thing:
        return Thing(value=work[self.of].value)


class Fails(Stage[Number]):
    of: Stage[Number]
    message: str = "no"

    async def run(self, work: Work) -> Number:
        raise StageFailed(self.message, right="yes")


class Breaks(Stage[Number]):
    async def run(self, work: Work) -> Number:
        raise ZeroDivisionError("a bug")


class Counted(Stage[Number]):
    """Writes a line to a file each time it runs, so that tests can count."""

    of: Stage[Number]
    file: Path
    fail_first: int = 0

    async def run(self, work: Work) -> Number:
        with self.file.open("a") as file:
            file.write(f"{work.name}\n")
        if len(self.file.read_text().splitlines()) <= self.fail_first:
            raise StageFailed("not yet")
        return work[self.of]


class Sends(Stage[Number]):
    """A side effect: appends to a file, and takes it back."""

    effect: ClassVar[Effect] = Effect.ONCE

    of: Stage[Number]
    file: Path

    async def run(self, work: Work) -> Number:
        with self.file.open("a") as file:
            file.write("sent\n")
        return work[self.of]

    async def undo(self, work: Work, result: Any) -> None:
        with self.file.open("a") as file:
            file.write(f"took back {result.value}\n")


class Cleans(Stage[Number]):
    """Appends its name to a file, and what it was given."""

    effect: ClassVar[Effect] = Effect.RETRYABLE

    file: Path
    of: tuple[Stage[Number], ...] = ()

    async def run(self, work: Work) -> Number:
        with self.file.open("a") as file:
            file.write(" ".join([work.name, *(str(work[part].value) for part in self.of)]) + "\n")
        return Number(value=0)


class Waits(Stage[Number]):
    """Waits for ever, or until cancelled; then writes a line."""

    of: Stage[Number]
    file: Path

    async def run(self, work: Work) -> Number:
        try:
            self.file.write_text("waiting\n")
            await anyio.sleep_forever()
        finally:
            self.file.write_text("cancelled\n")
        return Number(value=0)


class Runs(Stage[Number]):
    """Runs a command and returns its exit code."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()

    async def run(self, work: Work) -> Number:
        result = await work.execute(Action(argv=self.argv, env=dict(self.env)))
        return Number(value=result.exit_code)


class Asks(Stage[Number]):
    """Asks for a stage that is not its input."""

    of: Stage[Number]
    other: Callable[[], Stage[Number]]

    async def run(self, work: Work) -> Number:
        return work[self.other()]
