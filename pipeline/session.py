"""A project opened for work: its pipeline, store and journal, and the plan of what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import record as records
from pipeline.condition import Facts
from pipeline.dag import Pipeline
from pipeline.engines.choose import Choice, choose, platform_of
from pipeline.frozen import Frozen
from pipeline.journal import Journal
from pipeline.leftover import KINDS, Leftover, leftover
from pipeline.plan import Plan, World, plan
from pipeline.project import Project, facts
from pipeline.stage import Effect, Stage
from pipeline.store import Store, unwritable
from pipeline.user_file import load


class Session(Frozen):
    """Everything a command needs. `choice` is the engine and why."""

    project: Project
    pipeline: Pipeline
    store: Store
    journal: Journal
    choice: Choice
    facts: Facts

    @staticmethod
    def open(
        directory: Path, environment: Mapping[str, str], *, engine: str = "", chosen: Mapping[str, str] | None = None
    ) -> Session:
        """Open the project `directory` lies in. Raises LockgateError with the reason when it cannot be."""
        project = Project.at(directory, environment)
        pipeline = load(project)
        return Session(
            project=project,
            pipeline=pipeline,
            store=Store(project.home / "store"),
            journal=open_journal(project),
            choice=choose(engine or project.settings.engine, environment),
            facts=facts(project, environment, chosen=chosen or {}),
        )

    def selected(self, names: Iterable[str]) -> frozenset[Stage[Any]]:
        """The named stages and what they need; all stages when none is named. Raises WiringError."""
        stages = [self.pipeline[name] for name in names]
        return self.pipeline.upstream(stages) if stages else frozenset(self.pipeline)

    def plan(self, names: Iterable[str] = (), *, again: Iterable[str] = ()) -> Plan:
        """Look at the world, then decide."""
        wanted = self.selected(names)
        rerun = frozenset(self.pipeline.name_of(self.pipeline[name]) for name in again)
        return plan(self.pipeline, wanted, self.world(wanted, rerun))

    def world(self, wanted: frozenset[Stage[Any]], again: frozenset[str] = frozenset()) -> World:
        return World(
            facts=self.facts,
            engine=self.choice.name,
            platform=platform_of(self.choice.name, self.project),
            observed={stage: stage.observe(self.project) for stage in wanted},
            lookup=self.lookup(),
            last=self.journal.last_records(),
            again=again,
            left={stage: left.run for stage in wanted if (left := self._left(stage))},
        )

    def _left(self, stage: Stage[Any]) -> Leftover | None:
        if stage.effect is Effect.PURE:
            return None
        return leftover(self.journal.latest(self.pipeline.name_of(stage), KINDS), undoable=stage.can_undo())

    def lookup(self) -> Callable[[str], records.Record | None]:
        return partial(records.load, self.store)


def open_journal(project: Project) -> Journal:
    """The project's journal, made when there is none."""
    try:
        project.home.mkdir(parents=True, exist_ok=True)
        ignore = project.home / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
    except OSError as error:
        raise unwritable(project.home, error) from error
    return Journal(project.home / "journal.db")
