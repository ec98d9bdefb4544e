"""Compile every .py file below a directory: python compile.py DIRECTORY REPORT.json

Byte code is not checked against its source when it is loaded (PEP 552), so it holds no date; the paths in it are
relative. The report lists the number of files and what could not be compiled.
"""

from __future__ import annotations

import json
import py_compile
import sys
from pathlib import Path


def compile_all(directory: Path) -> dict[str, object]:
    """Compile in the order of the names, so that equal trees give equal byte code."""
    failures: list[dict[str, object]] = []
    files = sorted(path for path in directory.rglob("*.py") if path.is_file())
    for path in files:
        name = path.relative_to(directory).as_posix()
        try:
            py_compile.compile(
                str(path), dfile=name, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
            )
        except py_compile.PyCompileError as error:
            failures.append({"file": name, **described(error.exc_value)})
        except (SyntaxError, UnicodeDecodeError, ValueError) as error:
            failures.append({"file": name, **described(error)})
    return {"files": len(files), "failures": failures}


def described(error: BaseException) -> dict[str, object]:
    line = error.lineno or 0 if isinstance(error, SyntaxError) else 0
    return {"line": line, "said": error.msg if isinstance(error, SyntaxError) else str(error)}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(compile_all(Path(sys.argv[1]))), encoding="utf-8")
