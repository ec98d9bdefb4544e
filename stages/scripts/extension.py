"""Compile every .c file below a directory to an extension module beside it: python extension.py DIRECTORY COMPILER

The compiler gets what this interpreter was built to take (headers, -fPIC), and writes no paths, dates or build
numbers. The exit code is 3 without a compiler, 4 without the interpreter's headers, 1 for an error in the source;
the last line says what was wrong.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

NO_COMPILER, NO_HEADERS = 3, 4


def command(compiler: str, source: str, root: str) -> list[str]:
    """How one source file becomes a module. Paths are relative, and what of `root` there is left is written as a dot."""
    includes = dict.fromkeys(sysconfig.get_path(name) for name in ("include", "platinclude"))
    pic = shlex.split(sysconfig.get_config_var("CCSHARED") or "-fPIC")
    return [
        compiler, "-shared", *pic, "-O2", "-DNDEBUG", "-Wall", f"-ffile-prefix-map={root}=.", "-Wl,--build-id=none",
        *(f"-I{path}" for path in includes), source, "-o", module_of(source),
    ]  # fmt: skip


def module_of(source: str) -> str:
    """The file of the module, as in pkg/_fast.cpython-311-x86_64-linux-gnu.so."""
    return source.removesuffix(".c") + str(sysconfig.get_config_var("EXT_SUFFIX"))


def main(directory: str, compiler: str) -> int:
    if shutil.which(compiler) is None:
        print(f"there is no C compiler {compiler!r} on PATH")
        return NO_COMPILER
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        print(f"the interpreter's headers are missing: {sysconfig.get_path('include')}/Python.h")
        return NO_HEADERS
    root = Path(directory)
    for source in sorted(path.relative_to(root).as_posix() for path in root.rglob("*.c")):
        done = subprocess.run(command(compiler, source, str(root.resolve())), cwd=root, check=False)
        if done.returncode != 0:
            print(f"{source} cannot be compiled")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
