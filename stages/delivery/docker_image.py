"""An image of the store as an archive that every Docker daemon loads."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from pipeline import StageFailed, Store
from pipeline.digest import of_text
from stages.image import Image, document


def reference(image: Image, owner: str) -> str:
    """The name under which a daemon has the image for a target: another one for each, so that none takes it from another."""
    return f"lockgate:{image.digest.partition(':')[2]}-{of_text(owner)[:12]}"


def identities(store: Store, image: Image) -> frozenset[str]:
    """What a daemon that has this very image calls it: the digest of its configuration, or of its manifest."""
    return frozenset({image.digest, _manifest(store, image)["config"]["digest"]})


def archive(store: Store, image: Image, name: str, place: Path) -> None:
    """Write what `docker load` reads, for an image called `name`: manifest.json beside configuration and layers.

    Older daemons know no OCI layout. Every blob is checked. Raises StoreError for one that is damaged.
    """
    manifest = _manifest(store, image)
    parts = [manifest["config"], *manifest["layers"]]
    files = [f"{part['digest'].partition(':')[2]}{'.tar' if number else '.json'}" for number, part in enumerate(parts)]
    about = [{"Config": files[0], "RepoTags": [name], "Layers": files[1:]}]
    with tarfile.open(place, "w") as tar:
        _add(tar, "manifest.json", json.dumps(about).encode())
        for file, part in dict(zip(files, parts, strict=True)).items():
            blob = store.file(image.layout, f"blobs/{part['digest'].replace(':', '/')}")
            tar.add(store.checked(blob), arcname=file, recursive=False)


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
