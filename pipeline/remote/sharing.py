"""Sharing: what a run takes from the remote cache before a stage runs, and gives to it after one has.

Nothing of it can fail a run or change what it finds. A server that is dead, slow, full or lying costs time, which is limited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup

from pipeline import record as records
from pipeline.errors import said
from pipeline.journal import Event, Journal
from pipeline.plan import Plan, Step
from pipeline.record import Record
from pipeline.remote.access import PASSWORD, TOKEN, USER, Access
from pipeline.remote.breaker import Breaker
from pipeline.remote.client import Client, Denied, Failure, Wrong
from pipeline.remote.download import Gone, download
from pipeline.remote.entry import LARGEST, Unfit, found
from pipeline.remote.trust import Taken, taken
from pipeline.remote.upload import Uploads
from pipeline.stage import Stage
from pipeline.store import Store


class Sharing:
    """What one run shares. What goes on behind the run does not write to the journal: `fetch` and `end` tell of it."""

    def __init__(
        self, access: Access, plan: Plan, run: str, *, store: Store, journal: Journal, client: Client, group: TaskGroup
    ) -> None:
        self.address = access.address
        self._access, self._plan, self._run, self._store, self._journal = access, plan, run, store, journal
        self._client, self._breaker = client, Breaker()
        self._uploads = Uploads(client, store, self._breaker, access.signing, group)
        self._taken = taken(plan.pipeline, frozenset(step.stage for step in plan.steps) - plan.skipped.keys())
        self._useless: set[str] = set()
        """Keys whose entries are to be replaced."""
        self._withdrawn: set[str] = set()

    @staticmethod
    @asynccontextmanager
    async def open(access: Access, plan: Plan, run: str, *, store: Store, journal: Journal) -> AsyncIterator[Sharing]:
        """Speak to the server until the end of the block; what is not sent by then is given up."""
        async with Client(access) as client:
            try:
                async with anyio.create_task_group() as group:
                    yield Sharing(access, plan, run, store=store, journal=journal, client=client, group=group)
                    group.cancel_scope.cancel()
            except BaseExceptionGroup as several:  # of the block: what goes on behind the run raises nothing
                raise several.exceptions[0] from several

    def grow(self, plan: Plan, whole: Stage[Any], parts: Iterable[Stage[Any]]) -> None:
        """Let the run have further stages, on which `whole` rests: who is trusted with it is trusted with them."""
        self._plan = plan
        self._taken |= dict.fromkeys(parts, self._taken[whole])

    async def fetch(self, stage: Stage[Any], step: Step) -> Record | None:
        """The record of the stage's result, if the server has it; all that it needs is in the store then.

        What a trusted key signed is kept under its key, as what was made here is. What was not is good for this run only:
        in a later one it may be in the way of a gate.
        """
        key, whose = step.key, self._taken[stage]
        if key is None or whose is Taken.NEVER or step.name in self._plan.world.again or not self._breaker.reads:
            return None
        if self._was_withdrawn(step.name, key):
            self._useless.add(key)
            return None
        record, why = await self._fetched(stage, step.name, key, whose)
        self._tell(*([self._event("remote.failed", step.name, key=key, reason=why)] if why else []))
        return record

    async def _fetched(self, stage: Stage[Any], name: str, key: str, whose: Taken) -> tuple[Record | None, str]:
        """The record, or why there is none although the server has, or should have, said something of it."""
        try:
            return await self._look(stage, name, key, whose)
        except Denied as error:
            self._breaker.give_up(f"{error}; {USER} and {PASSWORD}, or {TOKEN}, say who asks")
            return None, str(error)
        except (Failure, Unfit) as error:
            self._breaker.failed("reading", str(error))
            if isinstance(error, Wrong):
                self._uploads.objects.wrong.add(error.name)
            if isinstance(error, Wrong | Unfit):
                self._useless.add(key)
            return None, str(error)
        except Exception as error:  # the disk is full, say, or it is an answer nobody thought of: the stage runs
            return None, said(error)

    async def _look(self, stage: Stage[Any], name: str, key: str, whose: Taken) -> tuple[Record | None, str]:
        message = await self._client.read("ac", key, LARGEST)
        entry = found(message) if message is not None else None
        if entry is None:
            self._breaker.worked("reading")
            if message is not None:  # it was withdrawn
                self._useless.add(key)
            return None, ""
        trusted = entry.is_signed(key, self._access.trusted)
        if not trusted and (whose is Taken.SIGNED or self._access.signing):
            self._breaker.worked("reading")
            return None, f"no trusted key signed it, and {_resting(whose)}"
        try:
            record = await download(self._client, self._store, stage, name, key, entry)
        except Gone as gone:
            self._useless.add(key)
            return None, str(gone)
        self._breaker.worked("reading")
        if trusted:
            records.save(self._store, key, record)
        return record, ""

    def offer(self, stage: Stage[Any], step: Step, record: Record) -> None:
        """Send a result that was made here, behind the run."""
        if step.key is None or not self._access.write or self._taken[stage] is Taken.NEVER:
            return
        self._uploads.start(step.name, step.key, record, replace=step.key in self._useless)

    def withdraw(self, step: Step) -> None:
        """See that nobody takes this result again, here or elsewhere: a judge said no to it."""
        if step.key is not None and self._taken[step.stage] is not Taken.NEVER:
            self._withdrawn.add(step.key)
            self._tell(self._event("remote.withdrawn", step.name, key=step.key))

    async def end(self) -> None:
        """Wait for what is still being sent, a limited time, and tell what was not."""
        await self._uploads.end()
        if self._access.write and self._breaker.writes:
            await self._withdraw()
        unsent = self._uploads.unsent
        about = {"address": self.address, "stages": sorted(unsent), "reason": next(iter(unsent.values()), "")}
        self._tell(*([self._event("remote.unsent", **about)] if unsent else []))

    async def _withdraw(self) -> None:
        """Done last: what is withdrawn may have been on its way."""
        try:
            for key in sorted(self._withdrawn):
                await self._uploads.withdraw(key)
        except Denied as error:
            self._breaker.stop_writing(str(error))
        except Failure as error:
            self._breaker.failed("writing", str(error))

    def _was_withdrawn(self, name: str, key: str) -> bool:
        """Whether the last that was heard of this key here is that a judge said no to its result."""
        withdrawn = [event.seq for event in self._journal.events(kind="remote.withdrawn", stage=name) if event.data["key"] == key]
        if not withdrawn:
            return False
        after = self._journal.events(kind=("stage.finished", "stage.cached"), stage=name, after=withdrawn[-1])
        return not any(event.data["key"] == key for event in after)

    def _tell(self, *events: Event) -> None:
        off = [self._event("remote.off", address=self.address, of=one.what, reason=one.reason) for one in self._breaker.news()]
        if events or off:
            self._journal.append(*events, *off)

    def _event(self, kind: str, stage: str = "", /, **data: Any) -> Event:
        return Event(run=self._run, kind=kind, stage=stage, data=data)


def _resting(whose: Taken) -> str:
    if whose is Taken.SIGNED:
        return "a gate or a side effect rests on it"
    return "who signs takes only what is signed"
