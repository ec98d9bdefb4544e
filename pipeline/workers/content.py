"""Content of actions on its way between the stores of two machines, by way of the remote cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import anyio

from pipeline import digest
from pipeline.data import Blob, Tree
from pipeline.remote.client import Client, Pace
from pipeline.remote.download import Bringing, Gone
from pipeline.remote.entry import files
from pipeline.remote.upload import Objects
from pipeline.store import Store
from pipeline.workers.parcel import Sizes

TOGETHER = 4
"""Trees and blobs on their way at once in each direction: more would only share the same few connections."""


class Content:
    """Sends and brings what actions need, nothing twice. Raises Failure, Gone, Unfit and StoreError."""

    def __init__(self, client: Client, store: Store) -> None:
        self._client, self._store, self._objects = client, store, Objects(client, store)
        self._sent: set[str] = set()
        self._brought: set[str] = set()
        self._turns: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)
        """Of what several actions need at once: the others wait for the first one to have it."""
        self._sending, self._bringing = anyio.CapacityLimiter(TOGETHER), anyio.CapacityLimiter(TOGETHER)

    def sizes(self, contents: Iterable[Blob | Tree]) -> dict[str, int]:
        """What whoever brings them has to know of their first objects: a tree's listing says how large its files are."""
        return {one.digest: self._store.size(one.digest) for one in contents}

    async def send(self, contents: Iterable[Blob | Tree]) -> None:
        """See that the remote cache has all of it."""
        for one in contents:
            async with self._turns[one.digest]:
                if one.digest not in self._sent:
                    async with self._sending:
                        await self._objects.send(self._names(one))
                    self._sent.add(one.digest)

    async def bring(self, contents: Iterable[Blob | Tree], sizes: Sizes) -> None:
        """See that the store has all of it, each object compared with its digest on its way."""
        for one in contents:
            async with self._turns[one.digest]:
                if one.digest not in self._brought:
                    async with self._bringing:
                        await self._bring(one, sizes)
                    self._brought.add(one.digest)
                    self._sent.add(one.digest)  # it is where it came from

    async def _bring(self, one: Blob | Tree, sizes: Sizes) -> None:
        first = Bringing(self._client, self._store, sizes)
        if isinstance(one, Tree):
            first.check_small(one.digest)
        await first(one.digest)
        if isinstance(one, Tree):
            below = {entry.target: entry.size for entry in files(self._store, one)}
            await Bringing(self._client, self._store, below)(*below)

    async def send_file(self, path: Path) -> Blob:
        """Send the bytes of a file that no store has."""
        blob = await anyio.to_thread.run_sync(_named, path)
        if blob.size:
            await self._objects.send_bytes(blob.digest, path)
        return blob

    async def bring_file(self, blob: Blob, path: Path) -> None:
        """Write bytes to a file that is in no store."""
        with path.open("wb") as file:
            if blob.size and not await self._client.receive(blob.digest, blob.size, file.write, Pace()):
                raise Gone(blob.digest)

    def forget(self, contents: Iterable[Blob | Tree]) -> None:
        """Look again, the next time, whether they are there and here: somebody has found that they are not."""
        for one in contents:
            self._sent.discard(one.digest)
            self._brought.discard(one.digest)
            self._objects.forget(self._names(one) if self._store.has(one) else [one.digest])

    def _names(self, one: Blob | Tree) -> list[str]:
        below = [entry.target for entry in self._store.entries(one) if entry.kind != "link"] if isinstance(one, Tree) else []
        return [one.digest, *below]


def _named(path: Path) -> Blob:
    return Blob(digest=digest.of_file(path), size=path.stat().st_size)
