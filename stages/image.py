"""Container images in the OCI layout: built without a daemon, from a base, or from a Dockerfile."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from gates.size import SizeReport
from pipeline import Action, Artifact, Blob, Retry, Stage, StageFailed, Store, Tree, WiringError, Work
from pipeline.digest import canonical
from stages.scripts import oci, registry
from stages.source import Provenance

REVISION, CREATED = "org.opencontainers.image.revision", "org.opencontainers.image.created"
BY_DIGEST = re.compile(r"^[^@\s]+@sha256:[0-9a-f]{64}$")
NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


class Image(Artifact):
    """An image of one platform. `digest` is that of its manifest, `size` the bytes of its layers and configuration."""

    digest: str
    layout: Tree
    """An OCI image layout with this image alone."""
    entrypoint: tuple[str, ...]
    env: dict[str, str]
    user: str
    workdir: str
    labels: dict[str, str]
    size: int
    platform: str

    def summary(self) -> str:
        return f"{self.digest[:19]}, {self.platform}, {self.size:,} bytes"


class Placed(Stage[Tree]):
    """The files of `tree` below the path `at`, as in an image."""

    tree: Stage[Tree]
    at: str

    def __post_init__(self) -> None:
        if ".." in self.at.split("/"):
            raise WiringError(f"Placed.at is {self.at!r}", right="a path inside the image, as in '/app'")

    async def run(self, work: Work) -> Tree:
        return work.store.overlay({posixpath.normpath(self.at).strip("/"): work[self.tree]})


class BuildImage(Stage[Image]):
    """An image made of trees, one layer each, without a daemon; equal inputs give an equal digest on every engine.

    `base` is an image layout below the layers; without one the image holds the layers and nothing else.
    `provenance` dates the files and the image and labels it with the commit. `ports` are documented, not opened.
    A user that is root is refused, by name, number or default.
    """

    layers: tuple[Stage[Tree], ...]
    entrypoint: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    user: str = "65532:65532"
    workdir: str = "/"
    labels: tuple[tuple[str, str], ...] = ()
    ports: tuple[int, ...] = ()
    base: Stage[Tree] | None = None
    provenance: Stage[Provenance] | None = None

    def __post_init__(self) -> None:
        _check(self)

    async def run(self, work: Work) -> Image:
        layers = [work[layer] for layer in self.layers]
        if not any(layer.files for layer in layers):
            raise StageFailed("the layers hold no file", right="at least one file in one of them")
        origin = work[self.provenance] if self.provenance else None
        base = work[self.base] if self.base else None
        described = specification(self, origin, layers=len(layers), base=base is not None)
        action = Action(
            argv=("python", "oci.py", "write", "spec.json", "image"),
            inputs={"oci.py": work.store.put_file(Path(oci.__file__)), "spec.json": work.store.put(canonical(described))},
            tools={**{f"layers/{number}": layer for number, layer in enumerate(layers)}, **({"base": base} if base else {})},
            outputs=("image",),
        )
        return read_image(work.store, (await work.execute(action)).require().output("image").tree)


def specification(stage: BuildImage, origin: Provenance | None, *, layers: int, base: bool) -> dict[str, Any]:
    """What `oci.py` is to write, as data."""
    created = _created(origin) if origin else ""
    labels = {**_labels(origin, created), **dict(stage.labels)}
    return {
        "layers": [f"layers/{number}" for number in range(layers)],
        "base": "base" if base else "",
        "epoch": origin.committed if origin else 0,
        "created": created,
        "config": {
            "User": stage.user,
            "Env": [f"{name}={value}" for name, value in stage.env],
            "Entrypoint": list(stage.entrypoint),
            "WorkingDir": stage.workdir,
            "Labels": labels,
            "ExposedPorts": {f"{port}/tcp": {} for port in stage.ports},
        },
    }


def _created(origin: Provenance) -> str:
    return datetime.fromtimestamp(origin.committed, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if origin.committed else ""


def _labels(origin: Provenance | None, created: str) -> dict[str, str]:
    """The labels that say where the image comes from; none without history."""
    if origin is None or not origin.commit:
        return {}
    return {REVISION: origin.commit + ("-dirty" if origin.dirty else ""), CREATED: created}


def _check(stage: BuildImage) -> None:
    """Raises WiringError for an image that could not run, or would run as root."""
    if is_root(stage.user):
        raise WiringError(f"the image's user is {stage.user!r}, which is root", right="another user, as in user='65532:65532'")
    if not stage.layers:
        raise WiringError("the image has no layers", right="layers=(Placed(tree=..., at='/app'),)")
    if not stage.entrypoint:
        raise WiringError("the image has no entrypoint", right="entrypoint=('python', '-m', 'module')")
    if not stage.workdir.startswith("/"):
        raise WiringError(f"the image's workdir is {stage.workdir!r}", right="an absolute path")
    names = [name for name, _ in stage.env]
    for name in names:
        if not NAME.match(name) or names.count(name) > 1:
            raise WiringError(f"the image's env has the name {name!r}", right="letters, digits and _, each name once")
    for port in stage.ports:
        if not 0 < port < 1 << 16:
            raise WiringError(f"the image's ports hold {port}", right="numbers from 1 to 65535")


def is_root(user: str) -> bool:
    """Whether a container of this user runs as root: by name, by number, or because nothing is said."""
    name = user.partition(":")[0].strip()
    return name in ("", "root") or (name.isdecimal() and int(name) == 0)


def read_image(store: Store, layout: Tree) -> Image:
    """The image in a layout. Raises StageFailed for what is no layout, and for a blob that is not what its name says."""
    files = {entry.path: entry.target for entry in store.entries(layout) if entry.kind != "link"}
    try:
        (described,) = _json(store, files, "index.json")["manifests"]
        manifest = document(store, files, described)
        config = document(store, files, manifest["config"])
        for layer in manifest["layers"]:
            blob_of(files, layer)
        run = config.get("config") or {}
        return Image(
            digest=described["digest"],
            layout=layout,
            entrypoint=(*(run.get("Entrypoint") or ()), *(run.get("Cmd") or ())),
            env=dict(sorted(line.partition("=")[::2] for line in run.get("Env") or ())),
            user=run.get("User") or "",
            workdir=run.get("WorkingDir") or "/",
            labels=dict(sorted((run.get("Labels") or {}).items())),
            size=sum(part["size"] for part in (manifest["config"], *manifest["layers"])),
            platform=f"{config['os']}/{config['architecture']}",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StageFailed(
            f"no OCI image layout: {type(error).__name__}: {error}", right="index.json with one image, and its blobs"
        ) from error


def layers_of(store: Store, image: Image) -> tuple[dict[str, Any], ...]:
    """The descriptors of the layers of an image, the lowest first."""
    files = {entry.path: entry.target for entry in store.entries(image.layout) if entry.kind != "link"}
    (described,) = _json(store, files, "index.json")["manifests"]
    return tuple(document(store, files, described)["layers"])


def document(store: Store, files: Mapping[str, str], descriptor: Mapping[str, Any]) -> Any:
    """The JSON document that a descriptor names. Raises ValueError when it is missing or something else."""
    return json.loads(store.read(blob_of(files, descriptor)))


def blob_of(files: Mapping[str, str], descriptor: Mapping[str, Any]) -> Blob:
    """The blob that a descriptor names. Raises ValueError when the layout does not hold it with that digest."""
    algorithm, _, name = descriptor["digest"].partition(":")
    if files.get(f"blobs/{algorithm}/{name}") != name:
        raise ValueError(f"{descriptor['digest']} is missing or has other bytes")
    return Blob(digest=name, size=descriptor["size"])


def _json(store: Store, files: Mapping[str, str], path: str) -> Any:
    return json.loads(store.read(Blob(digest=files[path], size=0)))


class BaseImage(Stage[Tree]):
    """An image of a registry as a layout, for the platform of the machine; named by digest, so that it cannot change.

    `username` and `password` are names of secrets; empty: the registry is asked without. Every blob's digest is
    checked. Fails when the registry refuses, or has no image for the platform.
    """

    reference: str
    username: str = ""
    password: str = ""
    retry: Retry = Retry(times=2, wait=2.0)

    def __post_init__(self) -> None:
        if not BY_DIGEST.match(self.reference):
            raise WiringError(
                f"the base image {self.reference!r} is not named by digest", right="name@sha256:..., which always means one image"
            )

    async def run(self, work: Work) -> Tree:
        action = Action(
            argv=("python", "-m", "stages.scripts.registry", "pull", self.reference, "image"),
            inputs=registry_programs(work.store),
            secrets=credentials(self.username, self.password),
            outputs=("image",),
            network=True,
        )
        layout = (await work.execute(action)).require().output("image").tree
        read_image(work.store, layout)
        return layout


def registry_programs(store: Store) -> dict[str, Blob]:
    """The programs that speak to registries, where an action finds them as modules."""
    return {f"stages/scripts/{Path(path).name}": store.put_file(Path(path)) for path in (registry.__file__, oci.__file__)}


def credentials(username: str, password: str) -> dict[str, str]:
    """The secrets of an action that speaks to a registry. Raises WiringError for one without the other."""
    if bool(username) != bool(password):
        raise WiringError("only one of username and password is given", right="the names of two secrets, or none")
    return {"REGISTRY_USERNAME": username, "REGISTRY_PASSWORD": password} if username else {}


class DockerfileImage(Stage[Image]):
    """An image built from a Dockerfile of `source`, on the Dagger engine. Its digest is as reproducible as its commands.

    Fails with the last words of the build when one of its commands fails.
    """

    engines: ClassVar[frozenset[str]] = frozenset({"dagger"})

    source: Stage[Tree]
    dockerfile: str = "Dockerfile"

    async def run(self, work: Work) -> Image:
        source = work[self.source]
        work.store.file(source, self.dockerfile)
        build = Action(
            argv=(),
            inputs={"context": source},
            dockerfile=self.dockerfile,
            outputs=("image.tar",),
            network=True,
        )
        archive = (await work.execute(build)).require().output("image.tar").blob
        unpack = Action(
            argv=("python", "oci.py", "untar", "image.tar", "image"),
            inputs={"oci.py": work.store.put_file(Path(oci.__file__)), "image.tar": archive},
            outputs=("image",),
        )
        return read_image(work.store, (await work.execute(unpack)).require().output("image").tree)


class ImageSize(Stage[SizeReport]):
    """The bytes of an image, in all and by layer, as they are transferred."""

    image: Stage[Image]

    async def run(self, work: Work) -> SizeReport:
        return size_report(work[self.image], layers_of(work.store, work[self.image]))


def size_report(image: Image, layers: tuple[Mapping[str, Any], ...]) -> SizeReport:
    parts = {f"layer {number}": int(layer["size"]) for number, layer in enumerate(layers, start=1)}
    return SizeReport(subject="image", total=image.size, parts={**parts, "configuration": image.size - sum(parts.values())})
