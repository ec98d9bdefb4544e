"""Python environments: a lock becomes a site-packages tree, the same on every engine."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import Path

from pipeline import Action, Blob, Entry, Project, Retry, Stage, StageFailed, Store, Tree, Work
from stages.scripts import install as installer

LOCKS = Path(__file__).parent / "locks"


class PythonEnvironment(Stage[Tree]):
    """The packages of a lock with hashes (`uv pip compile --generate-hashes`) as a tree for PYTHONPATH.

    This is the one action that reaches the network; wheels only, every hash checked. Fails when a package has no wheel
    for the platform, or a hash is missing or wrong.
    """

    source: Stage[Tree]
    lock: str = "requirements.lock"
    byte_code: bool = True
    """Whether byte code is in the tree, so that no program compiles what it imports; Python checks it against its source by
    hash. Without it the tree is the same wherever it is made: patch releases of Python compile some files differently."""
    retry: Retry = Retry(times=2, wait=2.0)

    def observe(self, project: Project) -> str:
        return uv_version()

    async def run(self, work: Work) -> Tree:
        return await install(work, work.store.file(work[self.source], self.lock), byte_code=self.byte_code)


class Tool(Stage[Tree]):
    """A tool in the version Lockgate ships a lock for; `lock` in a source tree replaces it with the user's own."""

    name: str
    retry: Retry = Retry(times=2, wait=2.0)

    def observe(self, project: Project) -> str:
        return f"{uv_version()} {shipped(self.name)}"

    async def run(self, work: Work) -> Tree:
        return await install(work, work.store.put(shipped(self.name).encode()), byte_code=True)


def shipped(name: str) -> str:
    """The text of the lock that Lockgate ships for a tool. Raises StageFailed for one it does not know."""
    path = LOCKS / f"{name}.lock"
    if not path.exists():
        known = ", ".join(sorted(lock.stem for lock in LOCKS.glob("*.lock")))
        raise StageFailed(f"no lock is shipped for {name!r}", right=f"one of {known}; or a PythonEnvironment with your lock")
    return path.read_text(encoding="utf-8")


async def install(work: Work, lock: Blob, *, byte_code: bool) -> Tree:
    """Install a lock in an action of its own."""
    action = Action(
        argv=("python", "install.py", *(("--byte-code",) if byte_code else ()), "{root}/uv/uv", "requirements.lock", "site"),
        inputs={"requirements.lock": lock, "install.py": work.store.put_file(Path(installer.__file__))},
        tools={"uv": uv_tree(work.store)},
        env={"UV_CACHE_DIR": "{root}/.cache/uv"},
        outputs=("site",),
        caches={".cache/uv": "uv"},
        network=True,
    )
    return (await work.execute(action)).require().output("site").tree


@cache
def uv_version() -> str:
    return metadata.version("uv")


def uv_tree(store: Store) -> Tree:
    """The uv program as a tree; it is one static executable, so it runs in any Linux container too."""
    from uv import find_uv_bin

    blob = store.put_file(Path(find_uv_bin()))
    return store.tree([Entry("uv", "executable", blob.digest, blob.size)])
