"""`cache`: what the store holds, whether it is whole, and less of it."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, TextIO

from pipeline.cli.paint import Paint
from pipeline.data import Tree
from pipeline.errors import ConfigError, Exit
from pipeline.project import Project
from pipeline.pruning import MIB, Pruned, prune
from pipeline.record import read
from pipeline.session import in_use, open_journal
from pipeline.store import Inventory, Store


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    project = Project.at(Path(arguments.directory), os.environ)
    store = Store(project.home / "store")
    if arguments.what == "stats":
        return _stats(store, arguments, out)
    lock = in_use(project.home, shared=False)
    if not lock.try_take():
        raise ConfigError(
            "the store is in use: a run is going on",
            where=str(store.root),
            right="a store that nobody takes anything from meanwhile",
            next=f"python -m pipeline runs; then the same command again: fuser -v {project.home / 'in-use.lock'}",
        )
    try:
        return {"verify": _verify, "prune": _prune}[arguments.what](project, store, arguments, out)
    finally:
        lock.give_back()


def _stats(store: Store, arguments: argparse.Namespace, out: TextIO) -> int:
    found = store.inventory()
    about: dict[str, Any] = {
        "results": len(found.records),
        "texts": len(found.texts),
        "files": len(found.files),
        "bytes": sum(found.texts.values()) + sum(found.files.values()),
        "trees": len(found.trees),
    }
    if arguments.output == "json":
        print(json.dumps({"kind": "cache", "what": "stats", "where": str(store.root), **about}), file=out)
        return Exit.PASSED
    print(f"{store.root}: {size(about['bytes'])}", file=out)
    print(f"  {about['results']:,} results, {about['texts']:,} texts and {about['files']:,} files", file=out)
    print(f"  {about['trees']:,} trees laid out to be shared, whose files are names of those", file=out)
    return Exit.PASSED


def _verify(project: Project, store: Store, arguments: argparse.Namespace, out: TextIO) -> int:
    """What is damaged is removed, and made again by the next run that needs it."""
    found = store.inventory()
    keys = [key for key, text in found.records.items() if read(text, key) is None]
    objects = [name for name in (*found.texts, *found.files) if not store.is_whole(name)]
    trees = [name for name in found.trees if not store.is_laid_out_whole(name)]
    store.discard(keys, objects, trees)
    listings = sorted(name for name, tree in _trees(found).items() if store.has_holes(tree))
    if listings:
        store.discard((), listings, [name for name in found.trees if name in listings and name not in trees])
    damaged = {"results": keys, "objects": objects, "trees": trees, "listings": listings}
    count = sum(map(len, damaged.values()))
    if count:
        store.note_loss()
    if arguments.output == "json":
        print(json.dumps({"kind": "cache", "what": "verify", "damaged": damaged}), file=out)
        return Exit.FAILED if count else Exit.PASSED
    paint = Paint.on_stream(out, arguments.color)
    for kind, names in damaged.items():
        for name in names:
            what = "names what is not here" if kind == "listings" else "is damaged"
            print(f"  {paint('red', '✗')} {kind.removesuffix('s')} {name[:12]} {what}, and was removed", file=out)
    whole = len(found.records) + len(found.texts) + len(found.files) + len(found.trees) - count
    print(f"{whole:,} whole, {count:,} damaged" + ("; what is missing is made again" if count else ""), file=out)
    return Exit.FAILED if count else Exit.PASSED


def _trees(found: Inventory) -> dict[str, Tree]:
    """The trees that results name, by digest."""
    known = (read(text, key) for key, text in found.records.items())
    contents = (content for record in known if record is not None for content in record.contents)
    return {name: Tree(digest=name, size=size, files=files) for name, size, files in contents if files >= 0}


def _prune(project: Project, store: Store, arguments: argparse.Namespace, out: TextIO) -> int:
    settings = project.settings
    largest = settings.store_size if arguments.size is None else arguments.size
    days = settings.store_days if arguments.days is None else arguments.days
    gone = prune(store, open_journal(project), largest=largest * MIB, days=days)
    if not arguments.dry_run:
        store.discard(gone.eviction.keys, gone.eviction.objects, gone.trees)
    if arguments.output == "json":
        about = {"kind": "cache", "what": "prune", "dry_run": arguments.dry_run, "bytes": gone.bytes}
        print(json.dumps({**about, "stages": gone.stages, "objects": gone.eviction.objects}), file=out)
    else:
        print(said(gone, dry=arguments.dry_run), file=out)
    return Exit.PASSED


def said(gone: Pruned, *, dry: bool = False) -> str:
    """What was evicted, by name."""
    if not gone.eviction.keys and not gone.eviction.objects:
        return "nothing to evict"
    names = ", ".join(dict.fromkeys(gone.stages[:MOST])) + (
        f" and {len(gone.stages) - MOST:,} more" if len(gone.stages) > MOST else ""
    )
    results = f"{len(gone.stages):,} {'result' if len(gone.stages) == 1 else 'results'}{f' ({names})' if names else ''}"
    objects = f"{len(gone.eviction.objects):,} {'object' if len(gone.eviction.objects) == 1 else 'objects'}"
    return f"{'would evict' if dry else 'evicted'} {results} and {objects}, {size(gone.bytes)}"


MOST = 20
"""Names of stages that are listed."""


def size(count: float) -> str:
    """Bytes for people.

    >>> size(1023), size(1536), size(5 << 30)
    ('1,023 bytes', '1.5 KiB', '5.0 GiB')
    """
    if count < 1024:
        return f"{count:,.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:,.1f} TiB"
