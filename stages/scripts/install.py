"""Turn a lock into a site-packages tree that is the same wherever it is made.

    python install.py UV LOCK OUT

Wheels only, every hash checked, no byte code. What names the place or the moment of the installation is
taken out: scripts with the interpreter's path in their first line (`python -m TOOL` runs them all), and
their lines in RECORD. Programs shipped in wheels stay in `bin/`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path


def main(uv: str, lock: str, out: str) -> int:
    command = [
        uv, "pip", "install", "--quiet", "--no-config", "--python", sys.executable, "--target", out, "--require-hashes",
        "--no-deps", "--only-binary", ":all:", "--link-mode", "copy", "--no-progress", "--requirements", lock,
    ]  # fmt: skip
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        return done.returncode
    site = Path(out)
    removed = remove_scripts(site / "bin")
    for record in site.glob("*.dist-info/RECORD"):
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not names_removed(line, removed)]
        record.write_text("".join(sorted(kept)), encoding="utf-8")
    for name in (".lock", ".gitignore", "CACHEDIR.TAG"):
        (site / name).unlink(missing_ok=True)
    for cache in list(site.rglob("__pycache__")):
        shutil.rmtree(cache)
    return 0


def remove_scripts(programs: Path) -> set[str]:
    """Take away the scripts that start with this interpreter's path; return their names."""
    removed = set()
    for program in sorted(programs.iterdir()) if programs.is_dir() else []:
        with program.open("rb") as file:
            first = file.readline(512)
        if first.startswith(b"#!") and (b"python" in first or first.startswith(b"#!/bin/sh")):
            program.unlink()
            removed.add(program.name)
    return removed


def names_removed(line: str, removed: set[str]) -> bool:
    path = line.split(",", 1)[0]
    return os.path.basename(path) in removed and "bin" in Path(path).parts


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
