"""Storage of artifacts: a directory of the project, an image registry, a package index."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from gates.gate import Passed
from pipeline import Action, Effect, Project, Result, Retry, Stage, StageFailed, Store, Tree, WiringError, Work
from pipeline.store import unwritable
from stages.assets import Assets
from stages.environment import uv_tree, uv_version
from stages.gated import need_gate
from stages.image import Image, credentials, registry_programs
from stages.tag import Tags
from stages.wheel import Distributions

PART = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+-]*\Z")
"""A name or version that is one directory on every file system."""

INDEX = "index.json"

Kept = Distributions | Image | Assets | Tree
"""What can be kept as files."""


class Stored(Result):
    """Where an artifact lies, relative to the project, and the digest of its files."""

    path: str
    name: str
    version: str
    digest: str

    def summary(self) -> str:
        return self.path


class StoreArtifact(Stage[Stored]):
    """Keeps an artifact in a directory of the project: <destination>/<name>/<version>/, listed in <destination>/index.json.

    Distributions keep their file names, images are OCI layouts. The same artifact again changes nothing; other
    bytes under a version that is there are refused. The version is `version`, or that of `tags`; without either it is
    the content's own, `sha256-` and twelve digits, so that whatever passed its gate can be kept.
    """

    effect: ClassVar[Effect] = Effect.RETRYABLE

    artifact: Stage[Kept | Passed[Distributions] | Passed[Image] | Passed[Assets]]
    name: str
    version: str = ""
    tags: Stage[Tags] | None = None
    destination: str = "artifacts"

    def __post_init__(self) -> None:
        if self.version and self.tags is not None:
            raise WiringError("the artifact has two versions", right="version='1.4.2', or tags=TagImage(...), or neither")
        _need_part("name", self.name)
        if self.version:
            _need_part("version", self.version)
        for part in self.destination.split("/"):
            _need_part("destination", part)

    async def run(self, work: Work) -> Stored:
        from anyio import to_thread

        found = work[self.artifact]
        tree = files_of(work.store, found.artifact if isinstance(found, Passed) else found)
        version = work[self.tags].version if self.tags else self.version or f"sha256-{tree.digest[:12]}"
        _need_part("version", version)
        await to_thread.run_sync(keep, work.store, tree, work.project.root / self.destination, self.name, version)
        return Stored(path=f"{self.destination}/{self.name}/{version}", name=self.name, version=version, digest=tree.digest)


def files_of(store: Store, artifact: Kept) -> Tree:
    """The files of an artifact as they are kept."""
    if isinstance(artifact, Distributions):
        return store.overlay({artifact.wheel_name: artifact.wheel, artifact.sdist_name: artifact.sdist})
    if isinstance(artifact, Image):
        return artifact.layout
    return artifact.tree if isinstance(artifact, Assets) else artifact


def keep(store: Store, tree: Tree, destination: Path, name: str, version: str) -> None:
    """Lay the files out under name and version, all or none, and list them. Raises StageFailed for other files there."""
    place = destination / name / version
    try:
        destination.mkdir(parents=True, exist_ok=True)
        (destination / ".gitignore").write_text("*\n", encoding="utf-8")
        with (destination / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, however this ends
            if place.exists():
                _need_same(store.put_tree(place), tree, place)
            else:
                _lay_out(store, tree, place)
            _list(destination, name, version, tree, store)
    except OSError as error:
        raise unwritable(destination, error) from error


def _lay_out(store: Store, tree: Tree, place: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=place.parent, prefix=".new-"))
    try:
        store.lay_out(tree, made / "files")
        (made / "files").rename(place)
    finally:
        shutil.rmtree(made)


def _need_same(found: Tree, wanted: Tree, place: Path) -> None:
    if found.digest != wanted.digest:
        raise StageFailed(
            f"version {place.name} of {place.parent.name} is there with other files",
            where=str(place),
            right="a new version for new files; a version that is out never changes",
        )


def _list(destination: Path, name: str, version: str, tree: Tree, store: Store) -> None:
    """Write the index anew with this version in it, in one step."""
    index = destination / INDEX
    listed: dict[str, Any] = {}
    if index.exists():
        try:
            listed = json.loads(index.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StageFailed(f"is no JSON: {error}", where=str(index), right="the index as it was written") from error
    files = {entry.path: {"sha256": entry.target, "size": entry.size} for entry in store.entries(tree) if entry.kind != "link"}
    listed.setdefault(name, {})[version] = {"digest": tree.digest, "files": files}
    fresh = index.with_name(f".{INDEX}-{os.getpid()}")
    fresh.write_text(json.dumps(listed, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    fresh.replace(index)


def _need_part(what: str, value: str) -> None:
    if not PART.match(value):
        raise WiringError(f"the artifact's {what} is {value!r}", right="letters, digits and ._+-, as a directory can be named")


class Pushed(Result):
    """An image as a registry confirmed it."""

    repository: str
    digest: str
    tags: tuple[str, ...]

    @property
    def reference(self) -> str:
        """The name that always means this image."""
        return f"{self.repository}@{self.digest}"

    def summary(self) -> str:
        return f"{self.repository}: {', '.join(self.tags)} at {self.digest[:19]}"


class PushImage(Stage[Pushed]):
    """Pushes an image to `repository` (as in registry.example.org/team/app) under its digest and all tags.

    Blobs the registry has are not sent again; `mount` names another repository of it to take them from.
    `username` and `password` are names of secrets. Fails unless the registry confirms the image's own digest.
    """

    effect: ClassVar[Effect] = Effect.RETRYABLE

    image: Stage[Image | Passed[Image]]
    repository: str
    tags: Stage[Tags]
    username: str = ""
    password: str = ""
    mount: str = ""
    retry: Retry = Retry(times=2, wait=2.0)

    def __post_init__(self) -> None:
        credentials(self.username, self.password)
        if not self.repository or "@" in self.repository or ":" in self.repository.rpartition("/")[2]:
            raise WiringError(f"the repository is {self.repository!r}", right="a name without tag, digest or user")

    async def run(self, work: Work) -> Pushed:
        found, tags = work[self.image], work[self.tags].tags
        image = found.artifact if isinstance(found, Passed) else found
        mount = ("--mount", self.mount) if self.mount else ()
        action = Action(
            argv=("python", "-m", "stages.scripts.registry", "push", "image", self.repository, *tags, *mount),
            inputs=registry_programs(work.store),
            tools={"image": image.layout},
            secrets=credentials(self.username, self.password),
            outputs=("digest",),
            network=True,
        )
        confirmed = (await work.execute(action)).require().output("digest").read().decode()
        if confirmed != image.digest:
            raise StageFailed(f"the registry confirmed {confirmed}", where=self.repository, right=image.digest)
        return Pushed(repository=self.repository, digest=confirmed, tags=tags)


class Published(Result):
    """Distributions that an index took, with the SHA-256 of each file."""

    index: str
    name: str
    version: str
    files: dict[str, str]

    def summary(self) -> str:
        return f"{self.name} {self.version} at {self.index}"


class PublishDistributions(Stage[Published]):
    """Publishes distributions that passed their gate to a package index, at its upload address `url`.

    With `token`, the name of a secret; with `username` and `password`, names of two; or, without any, as the trusted
    publisher that the CI system vouches for. `check_url` is the index that installers read: what is there already, with
    the same bytes, is left out, so that a publication that broke off, or failed after the first file, can be repeated; without
    it nobody knows what arrived, and it is not repeated before people said so. It cannot be undone: a version that was
    published is never free again, which is why this takes nothing that passed no gate.
    """

    effect: ClassVar[Effect] = Effect.ONCE

    distributions: Stage[Passed[Distributions]]
    url: str
    check_url: str = ""
    token: str = ""
    username: str = ""
    password: str = ""

    def __post_init__(self) -> None:
        need_gate(self, "distributions", self.distributions)
        for address in (self.url, self.check_url):
            if address and (not address.startswith(("https://", "http://")) or "@" in address):
                raise WiringError("the index's address cannot be used", right="https://..., with the credentials as secrets")
        if bool(self.username) != bool(self.password) or (self.token and self.username):
            raise WiringError("the credentials for the index are incomplete", right="token=, or username= and password=, or none")

    def observe(self, project: Project) -> str:
        return uv_version()

    async def recover(self, work: Work) -> Published | None:
        """With `check_url` a publication that broke off is repeated without harm; without it nobody knows what arrived."""
        return None if self.check_url else await super().recover(work)

    async def run(self, work: Work) -> Published:
        built = work[self.distributions].artifact
        action = publish_action(built, uv_tree(work.store), url=self.url, check_url=self.check_url, secrets=publish_secrets(self))
        (await work.execute(action)).require()
        files = {built.wheel_name: built.wheel.digest, built.sdist_name: built.sdist.digest}
        return Published(index=self.url, name=built.name, version=built.version, files=files)


def publish_secrets(stage: PublishDistributions) -> dict[str, str]:
    """The secrets by the variables that uv reads; without any, those by which GitHub vouches for a job."""
    if stage.token:
        return {"UV_PUBLISH_TOKEN": stage.token}
    if stage.username:
        return {"UV_PUBLISH_USERNAME": stage.username, "UV_PUBLISH_PASSWORD": stage.password}
    return {name: name for name in ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL")}


def publish_action(built: Distributions, uv: Tree, *, url: str, check_url: str, secrets: Mapping[str, str]) -> Action:
    """The command: wheel and sdist in one go, with nothing asked for."""
    trusted = "always" if "ACTIONS_ID_TOKEN_REQUEST_URL" in secrets else "never"
    check = ("--check-url", check_url) if check_url else ()
    return Action(
        argv=(
            "{root}/uv/uv", "publish", "--no-config", "--no-progress", "--trusted-publishing", trusted,
            "--keyring-provider", "disabled",
            "--publish-url", url, *check, f"dist/{built.wheel_name}", f"dist/{built.sdist_name}",
        ),
        inputs={f"dist/{built.wheel_name}": built.wheel, f"dist/{built.sdist_name}": built.sdist},
        tools={"uv": uv},
        env={"UV_CACHE_DIR": "{root}/.tmp/uv", **({"GITHUB_ACTIONS": "true"} if trusted == "always" else {})},
        secrets=secrets,
        network=True,
    )  # fmt: skip
