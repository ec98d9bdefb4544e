"""The cluster: who is in it, who can be asked, and whether its scheduler still answers."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from pipeline.errors import EngineError, said
from pipeline.frozen import Frozen
from pipeline.workers.member import Member
from pipeline.workers.terms import Terms


class Patience(Frozen):
    """Seconds, but for `slower`."""

    connect: float = 10.0
    """Until the scheduler has answered, and until a first worker has joined."""
    meet: float = 30.0
    """Until a worker has said that it can be asked; it may have to open an engine."""
    beat: float = 1.0
    """Between one look at the cluster and the next; more with more than 200 workers."""
    silent: float = 20.0
    """Without a sign of life, until a worker, or the scheduler, is taken for lost. A thousand workers give one every 6 s."""
    slower: float = 3.0
    """How many times longer than the stage took before an action may take until another worker is given it too..."""
    least: float = 10.0
    """... but not sooner than this."""

    def slow(self, expected: float | None) -> float:
        """From when on an action is slow, for a stage that took `expected` before; never where that is not known."""
        return math.inf if expected is None else max(self.least, self.slower * expected)


class Cluster:
    """The workers that a scheduler knows. Once `off` says why, it is not asked any more in this run."""

    def __init__(
        self, dask: Any, address: str, terms: Terms, patience: Patience, prefix: str, went_off: Callable[[str], None]
    ) -> None:
        self.prefix = prefix
        """How the keys of this run's tasks begin."""
        self.dask, self.address, self.terms, self.patience = dask, address, terms, patience
        self.off = ""
        self.members: dict[str, Member] = {}
        self._went_off = went_off

    def able(self) -> list[Member]:
        """The workers that can be asked."""
        now = time.monotonic()
        return [one for one in self.members.values() if one.unfit == "" and now - one.heard <= self.patience.silent]

    def give_up(self, reason: str) -> None:
        if not self.off:
            self.off = reason
            self._went_off(reason)

    async def watch(self, *, task_status: TaskStatus[None]) -> None:
        """Look who is there, now and then. It has started when there is a worker that can be asked. Raises EngineError."""
        async with anyio.create_task_group() as group:
            await self._first(group)
            task_status.started()
            while not self.off:
                await anyio.sleep(max(self.patience.beat, len(self.members) / 200))
                try:
                    new = await self._look()
                except Exception as error:  # whatever Dask makes of a connection that is gone: the run goes on
                    self.give_up(f"its scheduler does not answer: {str(error) or 'it hangs'}")
                    return
                for one in new:
                    group.start_soon(self._meet, one)

    async def _first(self, group: TaskGroup) -> None:
        """Meet the workers that are there, or a first one that can be asked; those that take longer are met beside the run."""
        try:
            with anyio.move_on_after(self.patience.connect):
                while not await self._look():
                    await anyio.sleep(self.patience.beat / 4)
        except OSError as error:
            raise _unanswered(self.address, error) from error
        for one in list(self.members.values()):
            group.start_soon(self._meet, one)
        until = time.monotonic() + self.patience.connect
        while not self.able() or time.monotonic() < until:
            if all(one.unfit is not None for one in self.members.values()):
                break
            await anyio.sleep(self.patience.beat / 20)
        if not self.able():
            raise self._nobody()

    async def _look(self) -> list[Member]:
        """The workers that were not there before. Raises OSError where nobody answers."""
        with anyio.fail_after(self.patience.silent):
            found = await self.dask.scheduler.identity(n_workers=-1)
            tasks = await self.dask.processing()
        now, new = time.monotonic(), list[Member]()
        for address in self.members.keys() - found["workers"].keys():
            del self.members[address]
        for address, about in found["workers"].items():
            if address not in self.members:
                order = random.random()  # noqa: S311 - spreads work
                self.members[address] = Member(address=address, threads=max(1, about["nthreads"]), heard=now, order=order)
                new.append(self.members[address])
            member = self.members[address]
            member.others = sum(not str(key).startswith(self.prefix) for key in tasks.get(address, ()))
            if about["last_seen"] != member.beat:
                member.beat, member.heard = about["last_seen"], now
        return new

    async def _meet(self, member: Member) -> None:
        from pipeline.workers.bench import meet

        answer: str | Exception = f"it did not answer within {self.patience.meet:g} s"
        with anyio.move_on_after(self.patience.meet):
            try:
                answers = await self.dask.run(meet, self.terms, workers=[member.address], on_error="return")
                answer = answers.get(member.address, "it left the cluster")
                member.heard = time.monotonic()
            except Exception as error:  # what cannot even be asked cannot be placed on
                answer = error
        member.unfit = said(answer) if isinstance(answer, Exception) else answer

    def _nobody(self) -> EngineError:
        """There is no worker to ask."""
        if not self.members:
            return EngineError(
                f"no worker has joined within {self.patience.connect:g} s",
                where=self.address,
                right="a worker on which lockgate is installed",
                next=f"dask worker {self.address} --nthreads 2",
            )
        address, why = next((one.address, one.unfit) for one in self.members.values())
        return EngineError(
            f"none of its {len(self.members)} workers can be asked; {address}: {why}",
            where=self.address,
            right=f"Lockgate {self.terms.version} on {self.terms.platform}, with access to {self.terms.cache}",
        )


@contextlib.asynccontextmanager
async def connected(address: str, patience: Patience) -> AsyncIterator[Any]:
    """A client of the scheduler at `address`. Raises EngineError where none answers."""
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what its client has to say is said here, once
    client: Any = Client(  # type: ignore[no-untyped-call]
        address, asynchronous=True, set_as_default=False, direct_to_workers=False, timeout=patience.connect, name="lockgate"
    )
    try:
        try:
            with anyio.fail_after(patience.connect + 1):
                await client
        except OSError as error:
            raise _unanswered(address, error) from error
        except (RuntimeError, TypeError, ValueError) as error:  # of certificates that are not configured
            raise EngineError(
                f"cannot be spoken to: {error}",
                where=address,
                right="DASK_DISTRIBUTED__COMM__TLS__CA_FILE and DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT for tls://",
            ) from error
        yield client
    finally:
        with anyio.move_on_after(2, shield=True):  # a scheduler that hangs does not say goodbye
            await client.close(timeout=1)


def _unanswered(address: str, error: OSError) -> EngineError:
    return EngineError(
        f"no scheduler answers: {str(error) or 'nothing was heard of it'}",
        where=address,
        right="a Dask scheduler",
        next=f"dask scheduler --port {address.rpartition(':')[2]}",
    )
