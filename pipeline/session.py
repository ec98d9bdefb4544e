"""A project opened for work: its pipeline, store and journal, and the plan of what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import record as records
from pipeline.condition import Facts
from pipeline.dag import Pipeline
from pipeline.engines.choose import Choice, choose, platform_of
from pipeline.errors import ConfigError, LockgateError, said
from pipeline.frozen import Frozen
from pipeline.journal import Journal
from pipeline.journal_file import JournalFile
from pipeline.leftover import Leftover, left_open
from pipeline.lock import Lock
from pipeline.plan import Lookup, Plan, World, plan
from pipeline.project import Project, facts
from pipeline.selection import EVERYTHING, Selection, check_alone, select
from pipeline.stage import Effect, Stage
from pipeline.store import Store
from pipeline.user_file import load

OWNER = "owner"
"""The file of a state directory that names the pipeline whose it is."""


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
        make_home(project.home)
        _refuse_anothers(project.home, pipeline.name)
        return Session(
            project=project,
            pipeline=pipeline,
            store=Store(project.home / "store"),
            journal=open_journal(project, pipeline.name),
            choice=choose(engine or project.settings.engine, environment),
            facts=facts(project, environment, chosen=chosen or {}),
        )

    def claim(self) -> None:
        """Make the state directory this pipeline's own, before anything is recorded. Raises ConfigError if it is another's."""
        _refuse_anothers(self.project.home, self.pipeline.name)  # another may have come first meanwhile
        if not _owner(self.project.home):
            with contextlib.suppress(OSError):  # where it cannot be written, the journal cannot either, and says so
                (self.project.home / OWNER).write_text(f"{self.pipeline.name}\n")

    def leave(self) -> None:
        """A run has ended: whoever opens journal and store next is not to wait for what it has written."""
        self.store.leave()
        if isinstance(self.journal.rows, JournalFile):
            self.journal.rows.leave()

    def plan(self, asked: Selection = EVERYTHING, *, again: Iterable[str] = ()) -> Plan:
        """Look at the world, then decide. Raises WiringError and ConfigError as `select` and `check_alone` do."""
        wanted = select(self.pipeline, asked)
        made = plan(self.pipeline, wanted, self.world(wanted, again))
        check_alone(made, asked)
        return made

    def world(self, wanted: frozenset[Stage[Any]], again: Iterable[str] = (), *, resumed: str = "") -> World:
        """What a plan for `wanted` is made from; what the run that is `resumed` left open is its own to go on with.

        Raises WiringError for a stage to run `again` that there is not.
        """
        with_effect = [stage for stage in wanted if stage.effect is not Effect.PURE]
        return World(
            facts=self.facts,
            engine=self.choice.name,
            platform=platform_of(self.choice.name, self.project),
            observed={stage: self._observed(stage) for stage in wanted if type(stage).observe is not Stage.observe},
            lookup=self.lookup(),
            last=self.journal.last_keys(),
            damage=partial(records.damage, self.store),
            again=frozenset(self.pipeline.name_of(self.pipeline[name]) for name in again),
            left={stage: self._left(stage, resumed) for stage in with_effect},
        )

    def _left(self, stage: Stage[Any], resumed: str) -> tuple[Leftover, ...]:
        found = left_open(self.journal, stage, self.pipeline.name_of(stage))
        return tuple(one for one in found if one.run != resumed)

    def _observed(self, stage: Stage[Any]) -> str | None:
        try:
            return stage.observe(self.project)
        except (LockgateError, OSError):
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"{self.pipeline.name_of(stage)} cannot be planned: {type(stage).__name__}.observe raised {said(error)}",
                next="--verbose shows the whole trace",
            ) from error

    def lookup(self) -> Lookup:
        """Records by key. One that is not what the journal saw made under its key was changed since, and is none.

        Of a key the journal does not know, its maker had another journal: the record is taken as it is. Those that the
        latest run took are looked up at once, as most of them are asked for.
        """
        ahead: dict[str, records.Record] | None = None

        def found(key: str) -> records.Record | None:
            nonlocal ahead
            if ahead is None:
                ahead = self._unchanged(self.journal.latest_keys())
            if key in ahead or self.store.load(key) is None:  # as of most stages that are to run
                return ahead.get(key)
            return self._unchanged([key]).get(key)

        return found

    def _unchanged(self, keys: Collection[str]) -> dict[str, records.Record]:
        found = records.load_all(self.store, keys)
        if not found:
            return {}
        made = self.journal.made(found)
        return {key: one for key, one in found.items() if key not in made or made[key] == one.result + one.concern}


def in_use(home: Path, *, shared: bool = True) -> Lock:
    """Held by every run as long as it goes on, and by whoever takes something away from the store, alone."""
    return Lock(home / "in-use.lock", shared=shared)


def open_journal(project: Project, name: str = "") -> Journal:
    """The journal of the project's pipeline, which the first event makes. Several runners share one by the pipeline's `name`.

    Where that is not given, it is that of the state directory's owner, else asked of the pipeline itself.
    """
    if not project.journal:
        return Journal(project.home / "journal.db")
    from pipeline.journal_server import JournalServer

    return Journal(JournalServer(project.journal, name or _owner(project.home) or load(project).name))


def make_home(home: Path) -> None:
    """The state directory, out of git's sight. Where it cannot be made, that is said by what has to be written there."""
    ignore = home / ".gitignore"
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        if not ignore.exists() or not ignore.stat().st_size:  # a full disk leaves it empty
            ignore.write_text("*\n")


def _refuse_anothers(home: Path, name: str) -> None:
    """Raise ConfigError when the state directory is that of another pipeline, known by its name wherever it is checked out.

    What that one left open of a stage would be taken back as if it were of this one's stage of the same name.
    """
    owner = home / OWNER
    found = _owner(home)
    if found not in {"", name}:
        raise ConfigError(
            f"here is the state of the pipeline {found!r}, and this one is {name!r}",
            where=str(home),
            right="a state directory for each pipeline, as they would take each other's effects for their own",
            next=f"set PIPELINE_HOME to another directory; if {found!r} was only renamed, echo {name} > {owner}",
        )


def _owner(home: Path) -> str:
    owner = home / OWNER
    if owner.exists() and not owner.is_file():
        raise ConfigError(
            "no file says whose state this is",
            where=str(owner),
            right="a file with the name of a pipeline",
            next=f"rm -r {owner}",
        )
    return owner.read_text(errors="replace").strip() if owner.exists() else ""
