"""An image of the store as an archive that every Docker daemon loads."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from pipeline import StageFailed, Store
from stages.image import Image, document


def reference(image: Image) -> str:
    """The name under which a daemon has the image."""
    return f"lockgate:{image.digest.partition(':')[2]}"


def identities(store: Store, image: Image) -> frozenset[str]:
    """What a daemon that has this very image calls it: the digest of its configuration, or of its manifest."""
    return frozenset({image.digest, _manifest(store, image)["config"]["digest"]})


def archive(store: Store, image: Image, place: Path) -> None:
    """Write what `docker load` reads (manifest.json beside configuration and layers): older daemons know no OCI layout.

    Every blob is checked. Raises StoreError for one that is damaged.
    """
    manifest = _manifest(store, image)
    parts = [manifest["config"], *manifest["layers"]]
    names = [f"{part['digest'].partition(':')[2]}{'.tar' if number else '.json'}" for number, part in enumerate(parts)]
    about = [{"Config": names[0], "RepoTags": [reference(image)], "Layers": names[1:]}]
    with tarfile.open(place, "w") as tar:
        _add(tar, "manifest.json", json.dumps(about).encode())
        for part, name in {name: (part, name) for part, name in zip(parts, names, strict=True)}.values():
            blob = store.file(image.layout, f"blobs/{part['digest'].replace(':', '/')}")
            tar.add(store.checked(blob), arcname=name, recursive=False)


def _manifest(store: Store, image: Image) -> dict[str, Any]:
    files = {entry.path: entry.target for entry in store.entries(image.layout) if entry.kind != "link"}
    try:
        manifest: dict[str, Any] = document(store, files, {"digest": image.digest, "size": 0})
        return manifest
    except (KeyError, ValueError) as error:
        raise StageFailed(f"{image.digest[:19]} is no image any more: {error}", where=str(store.root)) from error


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(content)
    tar.addfile(about, io.BytesIO(content))
