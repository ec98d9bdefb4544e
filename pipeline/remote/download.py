"""Downloads: an entry of the remote cache is brought into the store, checked on its way."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import anyio

from pipeline.data import Tree
from pipeline.record import Record
from pipeline.remote.client import Client, Pace, each
from pipeline.remote.entry import LARGEST, Found, Unfit, files, made, rebuilt
from pipeline.scratch import Scratch
from pipeline.stage import Stage
from pipeline.store import CHUNK, NEW, Store


class Gone(Exception):
    """The server names an object that it does not have any more."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the server no longer has {name[:12]}, which its result needs")


async def download(client: Client, store: Store, stage: Stage[Any], name: str, key: str, found: Found) -> Record:
    """The record of a stage's result, when all that the result needs is in the store.

    Raises Failure for a server that does not send it, Unfit for what is no result of this stage, Gone, and StoreError.
    """
    bring = Bringing(client, store, found.sizes)
    text = bytearray()
    bring.check_small(found.record.digest)
    if not await client.receive(found.record.digest, found.record.size, text.extend, bring.pace):
        raise Gone(found.record.digest)
    elsewhere = made(bytes(text), key)
    bring.check_small(elsewhere.result)
    await bring(elsewhere.result)
    record = rebuilt(store, stage, name, elsewhere)
    trees = [Tree(digest=name, files=count, size=size) for name, size, count in record.contents if count >= 0]
    for tree in trees:
        bring.check_small(tree.digest)
    await bring(*(name for name, *_ in record.contents))
    await bring(*(entry.target for tree in trees for entry in files(store, tree)))
    return record


class Bringing:
    """Has the objects of one entry in the store, those that are not there yet from the server. `sizes` is what that one says."""

    def __init__(self, client: Client, store: Store, sizes: Mapping[str, int]) -> None:
        self.pace = Pace()
        self._client, self._store, self._sizes = client, store, sizes

    def check_small(self, name: str) -> None:
        """Raises Unfit for what is too large to be read at once."""
        if self._sizes.get(name, 0) > LARGEST:
            raise Unfit(f"it names {self._sizes[name]} bytes where {LARGEST} are the most")

    async def __call__(self, *names: str) -> None:
        missing = [name for name in dict.fromkeys(names) if not self._store.has_object(name)]
        if any(name not in self._sizes for name in missing):
            raise Unfit("it does not name all that its result needs")
        if missing:
            self._check_room(sum(self._sizes[name] for name in missing))
            await each(missing, self._receive)

    def _check_room(self, size: int) -> None:
        """What the run itself has to write must still have room, whatever a server sends. Raises Unfit."""
        self._store.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._store.root).free
        if size > free // 2:
            raise Unfit(f"it needs {size} bytes, more than half of the {free} that are free")

    async def _receive(self, name: str) -> None:
        """One object, under its name only when it is whole; a large one by way of a file that goes away with the process."""
        size = self._sizes[name]
        if size <= CHUNK:
            data = bytearray()
            there = await self._client.receive(name, size, data.extend, self.pace)
            if there:
                self._store.put(bytes(data))
        else:
            with Scratch(self._store.root, NEW) as scratch:
                path = scratch.path / name
                with path.open("xb") as file:
                    there = await self._client.receive(name, size, file.write, self.pace)
                if there:
                    await anyio.to_thread.run_sync(self._store.adopt_file, path)
        if not there:
            raise Gone(name)
