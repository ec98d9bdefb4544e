"""Validation of images: that their layout is whole, and that what they hold can be run."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from gates.validation import ValidationCheck, ValidationReport
from pipeline import ROOT, Action, Blob, Entry, Stage, Store, StoreError, Tree, Work
from stages.image import Image, is_root
from stages.rootfs import PLACE, find_program, image_service, paths_in, process_of

CHUNK = 1 << 20


class ValidateImage(Stage[ValidationReport]):
    """Whether an image is whole, does not run as root, and starts.

    Every blob's size and digest are computed again. The entry point is started with `args` and has to end with 0;
    with `ready`, it is started as a service on `port` and has to answer 200 at that path. `provided` names programs
    that the image leaves to the place where it runs, as `python` in an image without a base.
    """

    image: Stage[Image]
    rootfs: Stage[Tree]
    args: tuple[str, ...] = ("--help",)
    ready: str = ""
    port: int = 8000
    env: tuple[tuple[str, str], ...] = ()
    provided: tuple[str, ...] = ()

    async def run(self, work: Work) -> ValidationReport:
        image, rootfs = work[self.image], work[self.rootfs]
        paths = paths_in(work.store.entries(rootfs))
        checks = [layout(work.store, image), user(image), entry_point(image, paths, self.provided)]
        if checks[-1].passed:
            checks.append(await self._starts(work, image, rootfs, paths))
        return ValidationReport(subject=f"image {image.digest[:19]}", checks=tuple(checks))

    async def _starts(self, work: Work, image: Image, rootfs: Tree, paths: frozenset[str]) -> ValidationCheck:
        env = dict(self.env)
        if self.ready:
            service = image_service(image, rootfs, paths, name="app", port=self.port, env=env, ready=self.ready)
            action = Action(argv=("python", "-c", "pass"), services=(service,))
            good = f"it answers 200 at {self.ready}"
        else:
            argv, found = process_of(image, f"{ROOT}/{PLACE}", env, exists=lambda path: path.rstrip("/") in paths)
            action = Action(argv=(*argv, *self.args), tools={PLACE: rootfs}, env=found)
            good = f"`{' '.join((*image.entrypoint, *self.args))}` ends with exit code 0"
        result = await work.execute(action)
        last = (result.tail.strip().splitlines() or ["it says nothing"])[-1]
        said = good if result.exit_code == 0 else f"exit code {result.exit_code}: {last}"
        return ValidationCheck(name="start", passed=result.exit_code == 0, said=said)


def layout(store: Store, image: Image) -> ValidationCheck:
    """Whether the layout conforms to the OCI image specification 1.1, down to the bytes of every blob."""
    try:
        wrong = next(faults(store, image), "")
    except (KeyError, TypeError, ValueError, AttributeError, StoreError) as error:
        wrong = f"a document cannot be read: {type(error).__name__}: {error}"
    return ValidationCheck(name="layout", passed=not wrong, said=wrong or "every blob has the size and digest it is named by")


def faults(store: Store, image: Image) -> Iterator[str]:
    """What is wrong with a layout, the first fault first; stops where nothing further can be said."""
    files = {entry.path: entry for entry in store.entries(image.layout)}
    for path in ("oci-layout", "index.json"):
        if path not in files:
            yield f"{path} is missing"
            return
    if _json(store, files["oci-layout"]).get("imageLayoutVersion") != "1.0.0":
        yield "oci-layout names another version than 1.0.0"
    index = _json(store, files["index.json"])
    if index.get("schemaVersion") != 2 or [one["digest"] for one in index["manifests"]] != [image.digest]:
        yield f"index.json does not name {image.digest} alone"
        return
    (described,) = index["manifests"]
    yield from _blob(store, files, described)
    manifest = _document(store, files, described)
    if manifest.get("schemaVersion") != 2 or manifest.get("mediaType", described["mediaType"]) != described["mediaType"]:
        yield "the manifest is of another kind than the index says"
    for descriptor in (manifest["config"], *manifest["layers"]):
        yield from _blob(store, files, descriptor)
    config = _document(store, files, manifest["config"])
    if len(config["rootfs"]["diff_ids"]) != len(manifest["layers"]):
        yield f"{len(manifest['layers'])} layers have {len(config['rootfs']['diff_ids'])} diff_ids"
    yield from _diff_ids(store, files, manifest["layers"], config["rootfs"]["diff_ids"])
    if not (config.get("os") and config.get("architecture")):
        yield "the configuration names no platform"


def _blob(store: Store, files: Mapping[str, Entry], descriptor: Mapping[str, Any]) -> Iterator[str]:
    """Faults of one blob, its digest computed from its bytes."""
    digest = descriptor["digest"]
    entry = files.get(f"blobs/{digest.replace(':', '/')}")
    if entry is None or entry.kind == "link":
        yield f"the blob {digest} is missing"
        return
    if entry.size != descriptor["size"]:
        yield f"the blob {digest} has {entry.size:,} bytes, not {descriptor['size']:,}"
    if f"sha256:{_hash(store, entry, '')}" != digest:
        yield f"the blob {digest} has other bytes"


def _diff_ids(store: Store, files: Mapping[str, Entry], layers: list[dict[str, Any]], diff_ids: list[str]) -> Iterator[str]:
    """Layers whose uncompressed bytes are not what the configuration says."""
    for layer, expected in zip(layers, diff_ids, strict=False):
        kind = layer["mediaType"].rpartition("tar")[2].lstrip("+.")
        if kind not in ("", "gzip"):
            continue  # what this interpreter cannot unpack was checked by its own digest
        entry = files.get(f"blobs/{layer['digest'].replace(':', '/')}")
        if entry is not None and f"sha256:{_hash(store, entry, kind)}" != expected:
            yield f"the layer {layer['digest']} unpacks to something else than {expected}"


def _hash(store: Store, entry: Entry, compression: str) -> str:
    """SHA-256 of a blob's bytes, unpacked where it is compressed."""
    hasher = hashlib.sha256()
    path = store.path(Blob(digest=entry.target, size=entry.size))
    with gzip.open(path) if compression else path.open("rb") as file:
        while piece := file.read(CHUNK):
            hasher.update(piece)
    return hasher.hexdigest()


def _document(store: Store, files: Mapping[str, Entry], descriptor: Mapping[str, Any]) -> Any:
    return _json(store, files[f"blobs/{descriptor['digest'].replace(':', '/')}"])


def _json(store: Store, entry: Entry) -> Any:
    return json.loads(store.read(Blob(digest=entry.target, size=entry.size)))


def user(image: Image) -> ValidationCheck:
    said = f"the user is {image.user!r}" if image.user else "no user is named, so it is root"
    return ValidationCheck(name="user", passed=not is_root(image.user), said=said)


def entry_point(image: Image, paths: frozenset[str], provided: tuple[str, ...]) -> ValidationCheck:
    """Whether the program the entry point starts is in the image, or provided where it runs."""
    program = image.entrypoint[0] if image.entrypoint else ""
    found = find_program(image, lambda path: path.rstrip("/") in paths)
    said = f"it starts {found}" if found else f"the image has no program {program!r}"
    if not found and program in provided:
        said = f"{program} is provided where the image runs"
    if not program:
        said = "the image has no entry point"
    return ValidationCheck(name="entry point", passed=bool(found) or (bool(program) and program in provided), said=said)
