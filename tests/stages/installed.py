"""Packages for tests, installed once for all that ask for the same lock, whatever else is in their projects."""

from __future__ import annotations

from pathlib import Path

from pipeline import Entry, Stage, Tree, Work
from stages.environment import PythonEnvironment

LOCKS = Path(__file__).parent / "locks"


class Lock(Stage[Tree]):
    """A tree of nothing but a lock."""

    text: str

    async def run(self, work: Work) -> Tree:
        blob = work.store.put(self.text.encode())
        return work.store.tree([Entry("requirements.lock", "file", blob.digest, blob.size)])


def installed(lock: str) -> PythonEnvironment:
    """What a lock of these tests holds."""
    return PythonEnvironment(source=Lock(text=(LOCKS / lock).read_text()))
