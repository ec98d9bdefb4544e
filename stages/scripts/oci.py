"""Write an OCI image layout, the same bits wherever it is made, and take one out of an archive.

    python oci.py write SPEC.json OUT
    python oci.py untar IMAGE.tar OUT

SPEC.json: `layers`, directories in order; `base`, the directory of a layout or empty; `epoch`, the date of every
file; `created`, the date of the image or empty; `config`, what becomes the image's configuration (User, Env, ...).
Layers are tar archives without compression, since compressors of different builds give different bytes, and
their headers are written here, since those of tarfile changed between versions of Python.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
OF_DOCKER = {
    "application/vnd.docker.image.rootfs.diff.tar": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{LAYER}+gzip",
}
"""The OCI names of Docker's layer types; the bytes are the same."""

BASE_DIGEST = "org.opencontainers.image.base.digest"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
BLOCK = 512
CHUNK = 1 << 20
FILE, LINK, DIRECTORY, EXTENDED = b"0", b"2", b"5", b"x"


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def architecture() -> str:
    """The machine in the words of OCI."""
    machine = platform.machine()
    return MACHINES.get(machine, machine)


def write_json(layout: Path, value: Any, media_type: str) -> dict[str, Any]:
    """Put a document into the layout's blobs; its descriptor."""
    data = canonical(value)
    name = hashlib.sha256(data).hexdigest()
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    (blobs / name).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}


def write_index(layout: Path, manifest: dict[str, Any]) -> None:
    """Make `manifest`, a descriptor, the one image of the layout."""
    layout.mkdir(parents=True, exist_ok=True)
    (layout / "oci-layout").write_bytes(canonical({"imageLayoutVersion": "1.0.0"}))
    (layout / "index.json").write_bytes(canonical({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]}))


def write_layer(directory: Path, layout: Path, epoch: int) -> dict[str, Any]:
    """Put the files below a directory into the layout as one layer; its descriptor."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    made, hasher, size = blobs / ".new", hashlib.sha256(), 0
    with made.open("wb") as out:
        for piece in archive(directory, epoch):
            out.write(piece)
            hasher.update(piece)
            size += len(piece)
    made.replace(blobs / hasher.hexdigest())
    return {"mediaType": LAYER, "digest": f"sha256:{hasher.hexdigest()}", "size": size}


def archive(directory: Path, epoch: int) -> Iterator[bytes]:
    """The pieces of a tar archive of everything below `directory`, sorted, owned by root, writable by nobody else."""
    for name in sorted(paths(directory)):
        path = directory / name
        if path.is_symlink():
            yield header(name, LINK, 0o777, 0, epoch, os.readlink(path))
        elif path.is_dir():
            yield header(name + "/", DIRECTORY, 0o755, 0, epoch)
        else:
            status = path.stat()
            yield header(name, FILE, 0o755 if status.st_mode & 0o100 else 0o644, status.st_size, epoch)
            with path.open("rb") as file:
                while piece := file.read(CHUNK):
                    yield piece
            yield bytes(-status.st_size % BLOCK)
    yield bytes(2 * BLOCK)


def paths(directory: Path) -> Iterator[str]:
    for base, directories, files in os.walk(directory):
        for name in [*directories, *files]:
            yield Path(base, name).relative_to(directory).as_posix()


def header(name: str, kind: bytes, mode: int, size: int, epoch: int, link: str = "") -> bytes:
    """One ustar header (POSIX.1-1988), with an extended one (POSIX.1-2001) before it for what does not fit."""
    large = {
        key: value
        for key, value, fits in (
            ("path", name, name.isascii() and len(name) <= 100),
            ("linkpath", link, link.isascii() and len(link) <= 100),
            ("size", str(size), size < 8**11),
        )
        if not fits
    }
    extended = b""
    if large:
        records = b"".join(record(key, value) for key, value in sorted(large.items()))
        extended = ustar("././@PaxHeader", EXTENDED, 0o644, len(records), epoch, "") + records + bytes(-len(records) % BLOCK)
    return extended + ustar(name, kind, mode, 0 if "size" in large else size, epoch, link)


def record(key: str, value: str) -> bytes:
    """A record of an extended header: its own length, key and value."""
    rest = f" {key}={value}\n".encode("utf-8", "surrogateescape")
    length = len(rest) + 1
    while length != len(str(length)) + len(rest):
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def ustar(name: str, kind: bytes, mode: int, size: int, epoch: int, link: str) -> bytes:
    block = b"".join(
        (
            text(name, 100),
            number(mode, 8),
            number(0, 8),
            number(0, 8),
            number(size, 12),
            number(epoch, 12),
            b" " * 8,
            kind,
            text(link, 100),
            b"ustar\x0000",
            bytes(BLOCK - 265),
        )
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def text(value: str, length: int) -> bytes:
    return value.encode("utf-8", "surrogateescape")[:length].ljust(length, b"\0")


def number(value: int, length: int) -> bytes:
    return b"%0*o\0" % (length - 1, value)


def read_json(layout: Path, digest: str) -> Any:
    """A document of a layout. Raises ValueError when its bytes are not those of its digest."""
    data = blob_path(layout, digest).read_bytes()
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise ValueError(f"{digest} is damaged")
    return json.loads(data)


def blob_path(layout: Path, digest: str) -> Path:
    """Where a blob lies. Raises ValueError for anything but a SHA-256, so that no digest can name another place."""
    algorithm, _, name = digest.partition(":")
    if algorithm != "sha256" or len(name) != 64 or not set(name) <= set("0123456789abcdef"):
        raise ValueError(f"{digest!r} is no digest; expected sha256: and 64 hexadecimal digits")
    return layout / "blobs" / "sha256" / name


def only_manifest(layout: Path) -> dict[str, Any]:
    """The descriptor of the one image of a layout. Raises ValueError when there is not exactly one."""
    manifests: list[dict[str, Any]] = json.loads((layout / "index.json").read_bytes())["manifests"]
    if len(manifests) != 1:
        raise ValueError(f"the layout holds {len(manifests)} images; expected one")
    return manifests[0]


def base_of(layout: Path, out: Path) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """Configuration, layers (copied to `out` as they are) and manifest digest of a base image."""
    digest = only_manifest(layout)["digest"]
    manifest = read_json(layout, digest)
    layers = []
    for layer in manifest["layers"]:
        source, place = blob_path(layout, layer["digest"]), blob_path(out, layer["digest"])
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
        kind = OF_DOCKER.get(layer["mediaType"], layer["mediaType"])
        layers.append({"mediaType": kind, "digest": layer["digest"], "size": layer["size"]})
    return read_json(layout, manifest["config"]["digest"]), layers, digest


def write(spec: dict[str, Any], out: Path) -> None:
    """Write the image that `spec` describes."""
    base: dict[str, Any] = {}
    layers: list[dict[str, Any]] = []
    annotations = {}
    if spec["base"]:
        base, layers, annotations[BASE_DIGEST] = base_of(Path(spec["base"]), out)
    own = [write_layer(Path(directory), out, spec["epoch"]) for directory in spec["layers"]]
    config = {
        "architecture": base.get("architecture") or architecture(),
        "os": "linux",
        "config": merged(base.get("config") or {}, spec["config"]),
        "rootfs": {
            "type": "layers",
            "diff_ids": [*base.get("rootfs", {}).get("diff_ids", []), *(layer["digest"] for layer in own)],
        },
    }
    if base.get("variant"):
        config["variant"] = base["variant"]
    if spec["created"]:
        config["created"] = spec["created"]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": write_json(out, config, CONFIG),
        "layers": [*layers, *own],
        **({"annotations": annotations} if annotations else {}),
    }
    described = write_json(out, manifest, MANIFEST)
    write_index(out, {**described, "platform": {"architecture": config["architecture"], "os": "linux"}})


def merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The configuration: of the base only environment, labels and ports, overridden name by name; sorted."""
    env = dict(line.partition("=")[::2] for line in [*(base.get("Env") or []), *own["Env"]])
    labels = {**(base.get("Labels") or {}), **own["Labels"]}
    ports = {**(base.get("ExposedPorts") or {}), **own["ExposedPorts"]}
    found = {**own, "Env": [f"{name}={value}" for name, value in sorted(env.items())], "Labels": labels, "ExposedPorts": ports}
    return {name: value for name, value in found.items() if value}


def untar(source: IO[bytes], out: Path) -> None:
    """Take the layout out of an archive: its first image and what that refers to, nothing else."""
    with tarfile.open(fileobj=source, mode="r:") as tar:
        members = {os.path.normpath(member.name): member for member in tar if member.isfile()}

        def content(name: str) -> IO[bytes]:
            found = tar.extractfile(members[name]) if name in members else None
            if found is None:
                raise ValueError(f"the archive has no {name}; expected an OCI image layout")
            return found

        def copy(digest: str) -> bytes:
            place = blob_path(out, digest)
            place.parent.mkdir(parents=True, exist_ok=True)
            with content(f"blobs/sha256/{place.name}") as read, place.open("wb") as written:
                shutil.copyfileobj(read, written)
            return b"" if place.stat().st_size > 16 * CHUNK else place.read_bytes()

        described = json.loads(content("index.json").read())["manifests"][0]
        manifest = json.loads(copy(described["digest"]))
        while "manifests" in manifest:
            blob_path(out, described["digest"]).unlink()
            described = manifest["manifests"][0]
            manifest = json.loads(copy(described["digest"]))
        config = json.loads(copy(manifest["config"]["digest"]))
        for layer in manifest["layers"]:
            copy(layer["digest"])
    write_index(
        out,
        {
            **{key: described[key] for key in ("mediaType", "digest", "size")},
            "platform": {"architecture": config["architecture"], "os": config["os"]},
        },
    )


def main(command: str, source: str, out: str) -> int:
    try:
        if command == "write":
            write(json.loads(Path(source).read_bytes()), Path(out))
        else:
            with open(source, "rb") as file:
                untar(file, Path(out))
    except (ValueError, KeyError, OSError, tarfile.TarError) as error:
        print(f"{source}: {type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
