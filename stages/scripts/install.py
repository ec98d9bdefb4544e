"""Turn a lock, or one wheel, into a site-packages tree that is the same wherever it is made.

    python install.py [--byte-code] UV LOCK OUT
    python install.py UV NAME.whl OUT

Of a lock: wheels only, every hash checked, with byte code where that is asked for: else each program would compile all
it imports whenever it starts, as it can keep nothing. Of a wheel: that wheel alone, without what it depends on, offline.

What names the place or the moment of the installation is taken out: scripts with the interpreter's path in their
first line (`python -m TOOL` runs them all), where a wheel came from, and the lines of both in RECORD. Programs
shipped in wheels stay in `bin/`.
"""

import errno
import os
import py_compile
import shutil
import subprocess
import sys
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

ORIGIN = ("direct_url.json", "uv_cache.json")
"""Files of a dist-info directory that say where and when its wheel was found."""

TESTS = {"test", "tests"}
"""Directories in which packages have their own tests."""


def main(uv: str, what: str, out: str, *, byte_code: bool) -> int:
    wanted = ["--offline", what] if what.endswith(".whl") else ["--require-hashes", "--requirements", what]
    command = [
        uv, "pip", "install", "--quiet", "--no-config", "--python", sys.executable, "--target", out,
        "--no-deps", "--only-binary", ":all:", "--link-mode", "copy", "--no-progress", *wanted,
    ]  # fmt: skip
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        return done.returncode
    site = Path(out)
    removed = remove_scripts(site / "bin")
    removed |= remove_origins(site)
    for record in site.glob("*.dist-info/RECORD"):
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not names_removed(line, removed)]
        record.write_text("".join(sorted(kept)), encoding="utf-8")
    for name in (".lock", ".gitignore", "CACHEDIR.TAG"):
        (site / name).unlink(missing_ok=True)
    for cache in list(site.rglob("__pycache__")):
        shutil.rmtree(cache)
    if byte_code:
        compile_modules(site)
    return 0


def compile_modules(site: Path) -> None:
    """Byte code that is checked by the hash of its source (PEP 552), in the order of the names: no date, no place, no chance.

    None where it would hardly be used: of packages' own tests, and where an extension module of that name is loaded
    instead. Modules that this interpreter cannot compile have none: packages ship some for other versions.
    """
    warnings.simplefilter("ignore")  # what a package's author should have written otherwise is no news here
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    extensions = {path for suffix in EXTENSION_SUFFIXES for path in site.rglob(f"*{suffix}")}
    for module in sorted(path for path in site.rglob("*.py") if path.is_file()):
        name = module.relative_to(site)
        loaded_instead = any(module.with_suffix(suffix) in extensions for suffix in EXTENSION_SUFFIXES)
        if loaded_instead or not TESTS.isdisjoint(name.parts):
            continue
        try:
            py_compile.compile(str(module), dfile=name.as_posix(), invalidation_mode=mode, quiet=2)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # byte code has a longer name than its source
                raise


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


def remove_origins(site: Path) -> set[str]:
    """Take away what says where a wheel came from; return the names."""
    for name in ORIGIN:
        for file in sorted(site.glob(f"*.dist-info/{name}")):
            file.unlink()
    return set(ORIGIN)


def names_removed(line: str, removed: set[str]) -> bool:
    path = line.split(",", 1)[0]
    name, parent = os.path.basename(path), Path(path).parent.name
    return name in removed and (parent == "bin" or parent.endswith(".dist-info"))


if __name__ == "__main__":
    *flags, uv, what, out = sys.argv[1:]
    sys.exit(main(uv, what, out, byte_code="--byte-code" in flags))
