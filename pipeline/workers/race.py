"""One action on the cluster: given to a worker, and to another one when that is lost or slow. The first answer counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pipeline.data import Blob, Tree
from pipeline.errors import EngineError, said
from pipeline.workers.cluster import Cluster
from pipeline.workers.member import Member, best, lost
from pipeline.workers.parcel import Answer, Parcel, Refusal

MOST = 3
"""Workers that are given the same action."""

TICK = 0.5
"""Seconds between one look at those that have not answered and the next."""


class Unplaced(Exception):
    """The cluster does not execute this action, for the reason it says."""


Said = tuple[Member, Answer | Refusal | Exception]


class Race:
    """One action and the workers that were given it. Copies do no harm: only what may be done twice is placed.

    `slow` are the seconds after which one more worker is given it; `tell` receives why, and which.
    """

    def __init__(
        self,
        cluster: Cluster,
        parcel: Parcel,
        needs: Collection[Blob | Tree],
        *,
        slow: float,
        tell: Callable[[str, Member], None],
    ) -> None:
        self._cluster, self._parcel, self._needs, self._slow, self._tell = cluster, parcel, needs, slow, tell
        self._since: dict[str, float] = {}
        """When each worker was given it."""
        self._waiting: set[str] = set()
        """Workers of which an answer is expected."""
        self._left = 0
        """Workers that left the cluster while they had it."""

    async def answer(self) -> Answer:
        """The first one. Raises Unplaced where none is to be had, and EngineError for an action that workers do not survive."""
        try:
            async with anyio.create_task_group() as group:
                try:
                    return await self._first(group)
                finally:
                    group.cancel_scope.cancel()
        except ExceptionGroup as several:
            raise several.exceptions[0] from several
        raise AssertionError("a race ends with an answer or with an error")

    async def _first(self, group: TaskGroup) -> Answer:
        send, receive = anyio.create_memory_object_stream[Said](MOST)
        with send, receive:
            if not self._start(group, send):
                raise Unplaced("no worker can be asked")
            while True:
                found = await self._heard(receive)
                if isinstance(found, Answer):
                    return found
                if self._cluster.off:
                    raise Unplaced(self._cluster.off)
                self._go_on(group, send, found)

    async def _heard(self, receive: MemoryObjectReceiveStream[Said]) -> Answer | str:
        """An answer, or why another worker should be given the action; empty: there is no reason. Raises Unplaced."""
        with anyio.move_on_after(TICK):
            member, said_ = await receive.receive()
            if isinstance(said_, Answer):
                return said_
            if isinstance(said_, Refusal) and said_.able:
                raise Unplaced(said_.reason)
            self._waiting.discard(member.address)
            if isinstance(said_, Refusal):
                member.unfit = said_.reason  # what failed one action would fail the next one
                return f"{member.address}: {said_.reason}"
            return f"{member.address}: {said(said_)}"
        return self._lost() or self._late()

    def _lost(self) -> str:
        for address in self._waiting:
            member = self._cluster.members.get(address)
            why = lost(member, time.monotonic(), self._cluster.patience.silent)
            if why:
                self._waiting.discard(address)  # should it answer all the same, that counts
                self._left += member is None
                return f"{address}: {why}"
        return ""

    def _late(self) -> str:
        address, since = next(reversed(self._since.items()))
        slow = address in self._waiting and time.monotonic() - since > self._slow
        return f"{address}: it has taken longer than {self._slow:.1f} s" if slow else ""

    def _go_on(self, group: TaskGroup, send: MemoryObjectSendStream[Said], reason: str) -> None:
        """Give the action to one more worker where there is a `reason` to. Raises Unplaced where nobody is left to wait for."""
        if reason and len(self._since) < MOST and self._start(group, send, reason):
            return
        if self._left == MOST:
            raise EngineError(
                f"{MOST} workers left the cluster while they executed the action",
                right="an action that they survive; their own logs say what became of them",
            )
        if not self._waiting:
            raise Unplaced(reason)

    def _start(self, group: TaskGroup, send: MemoryObjectSendStream[Said], reason: str = "") -> bool:
        """Give the action to the best worker that has not had it; False where there is none.

        Who is only slow has no second one that would have to wait for a thread.
        """
        member = best((one for one in self._cluster.able() if one.address not in self._since), self._needs)
        if member is None or (self._waiting and member.load >= 1):
            return False
        if reason:
            self._tell(reason, member)
        member.busy += 1
        self._since[member.address] = time.monotonic()
        self._waiting.add(member.address)
        group.start_soon(self._copy, member, f"{self._parcel.key}-{len(self._since)}", send)
        return True

    async def _copy(self, member: Member, key: str, send: MemoryObjectSendStream[Said]) -> None:
        """Have one worker execute it, and no other: Dask would take any in its place, of another platform or a stopped one."""
        from pipeline.workers.bench import execute

        parcel = self._parcel.model_copy(update={"key": key})
        future = self._cluster.dask.submit(
            execute, self._cluster.terms, parcel, key=key, pure=False, workers=[member.address], allow_other_workers=False
        )
        try:
            came: Answer | Refusal | Exception = await future
            if isinstance(came, Answer):
                member.holds |= {one.digest for one in (*self._needs, *came.outputs.values())}
        except Exception as error:  # the connection, or what nobody thought of there
            came = error
        finally:
            member.busy -= 1
            future.release()  # the worker ends what nobody waits for any more
        send.send_nowait((member, came))
