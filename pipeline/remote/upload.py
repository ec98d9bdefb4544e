"""Uploads: what results made here need is sent to the remote cache behind the run, and then their entries."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from pipeline import digest
from pipeline.data import Blob
from pipeline.errors import said
from pipeline.record import Record
from pipeline.remote.breaker import Breaker
from pipeline.remote.client import Client, Denied, Failure, each
from pipeline.remote.entry import WITHDRAWN, Outgoing, outgoing
from pipeline.store import CHUNK, Store

LONGEST = 60.0
"""Seconds that a run that has ended waits for what is still being sent, however much it is."""

OFF = "the server was not asked any more"


class Objects:
    """Sends objects of a store to one server, none twice. Raises Failure, and StoreError for one that is not whole."""

    def __init__(self, client: Client, store: Store) -> None:
        self.wrong: set[str] = set()
        """Digests under which the server was found to have other bytes."""
        self._client, self._store = client, store
        self._there: set[str] = set()

    async def send(self, names: Iterable[str]) -> None:
        await each((name for name in names if name not in self._there), self._send)

    def forget(self, names: Iterable[str]) -> None:
        """The server may not have them any more."""
        self._there.difference_update(names)

    async def _send(self, name: str) -> None:
        """Its bytes are compared with its name once more: not every server does that."""
        blob = Blob(digest=name, size=0)
        if self._store.size(name) <= CHUNK:
            await self.send_bytes(name, self._store.read(blob))
        else:
            await self.send_bytes(name, await anyio.to_thread.run_sync(self._store.checked, blob))

    async def send_bytes(self, name: str, content: bytes | Path) -> None:
        """Send what has this digest, if the server lacks it."""
        if name not in self._there and (name in self.wrong or not await self._client.has("cas", name)):
            await self._client.write("cas", name, content)
        self._there.add(name)


class Uploads:
    """Sends entries to one server. What could not be sent is in `unsent`: names of stages, and why."""

    def __init__(self, client: Client, store: Store, breaker: Breaker, signing: bytes, group: TaskGroup) -> None:
        self.unsent: dict[str, str] = {}
        self.objects = Objects(client, store)
        self._client, self._store, self._breaker, self._signing, self._group = client, store, breaker, signing, group
        self._going: set[str] = set()
        self._one_less, self._two_at_a_time = anyio.Event(), anyio.CapacityLimiter(2)

    def start(self, name: str, key: str, record: Record, *, replace: bool) -> None:
        """Send the entry of a stage's record, and go on. `replace` one that is there: it was found to be of no use."""
        self._going.add(name)
        self._group.start_soon(self._upload, name, key, record, replace)

    async def end(self) -> None:
        """Wait until all is sent, or has had its time."""
        with anyio.move_on_after(LONGEST):
            while self._going:
                await self._one_less.wait()
        self.unsent |= dict.fromkeys(self._going, f"the run did not wait longer than {LONGEST:g} s")

    async def withdraw(self, key: str) -> None:
        """See that nobody takes what is under the key any more. Raises Failure."""
        if await self._client.has("ac", key):
            await self._client.write("ac", key, WITHDRAWN)

    async def _upload(self, name: str, key: str, record: Record, replace: bool) -> None:
        try:
            async with self._two_at_a_time:
                why = await self._attempt(key, record, replace) if self._breaker.writes else OFF
            if why:
                self.unsent[name] = why
        finally:
            self._going.discard(name)
            self._one_less.set()
            self._one_less = anyio.Event()

    async def _attempt(self, key: str, record: Record, replace: bool) -> str:
        """Send an entry; why it was not sent, where it was not."""
        try:
            await self._send(outgoing(self._store, key, record), replace=replace)
        except Denied as error:
            self._breaker.stop_writing(str(error))
            return str(error)
        except Failure as error:
            self._breaker.failed("writing", str(error))
            return str(error)
        except Exception as error:  # an object that was damaged on disk, say: the run has its result all the same
            return said(error)
        self._breaker.worked("writing")
        return ""

    async def _send(self, entry: Outgoing, *, replace: bool) -> None:
        """The objects first, so that whoever finds the entry finds them too.

        An entry that is there already is left as it is by who cannot sign, unless it is of no use: it may be signed.
        """
        await self.objects.send(entry.objects)
        if replace or self._signing or not await self._client.has("ac", entry.key):
            await self.objects.send_bytes(digest.of_bytes(entry.record), entry.record)
            await self._client.write("ac", entry.key, entry.message(self._signing))
