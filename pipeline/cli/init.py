"""`init`: write a pipeline for the project here; nothing is asked that can be seen."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import TextIO

from pipeline import scaffold
from pipeline.errors import ConfigError, Exit, LockgateError
from pipeline.project import Project
from pipeline.store import unwritable
from pipeline.user_file import load


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    project = Project.at(Path(arguments.directory), os.environ)
    file = project.root / project.settings.file
    if file.exists() and not arguments.force:
        raise ConfigError("there is a pipeline file already", where=str(file), next="python -m pipeline plan, or init --force")
    found = scaffold.detect(project.root)
    for lock, requirements in scaffold.needed_locks(found).items():
        own = found.dependencies if lock == scaffold.LOCK else ()
        _resolve(project.root, lock, requirements, own)
        if arguments.output == "json":
            print(json.dumps({"kind": "lock", "file": lock, "requirements": requirements, "dependencies": bool(own)}), file=out)
        else:
            print(f"resolved {lock}: {', '.join(requirements)}" + (" and the project's dependencies" if own else ""), file=out)
    try:
        file.write_text(scaffold.text(found), encoding="utf-8")
    except OSError as error:
        raise unwritable(file, error) from error
    pipeline = load(project)
    written = str(file.relative_to(project.root))
    if arguments.output == "json":
        print(json.dumps({"kind": "init", "file": written, "pipeline": pipeline.name, "stages": len(pipeline)}), file=out)
    else:
        print(f"wrote {written}: {len(pipeline)} stages for {found.name}", file=out)
        print("next: python -m pipeline plan", file=out)
    return Exit.PASSED


def _resolve(root: Path, lock: str, requirements: tuple[str, ...], own: tuple[str, ...]) -> None:
    """Make a lock with hashes by uv. Raises LockgateError with what uv says."""
    from uv import find_uv_bin

    done = subprocess.run(
        [
            find_uv_bin(), "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-emit-index-url",
            "--no-annotate", "--no-header", *own, "-", "--output-file", lock,
        ],
        cwd=root,
        input="\n".join(requirements) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it said nothing"
        raise LockgateError(
            f"{lock} could not be resolved: {last}",
            where=str(root),
            right=f"a lock with hashes that holds {', '.join(requirements)}",
            next=f"make {lock} by `uv pip compile --generate-hashes`, then python -m pipeline init",
        )
