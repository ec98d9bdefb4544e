"""Compilation: Python sources to byte code, C sources to extension modules."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline import Action, ActionResult, CommandFailed, Stage, StageFailed, Tree, Work
from stages.scripts import compile as compiler
from stages.scripts import extension


class ByteCompiled(Stage[Tree]):
    """The source with the byte code of every .py file in it, the same for equal trees and interpreters.

    The byte code is used without a look at the source, so nothing is compiled when the program starts, and a
    read-only file system costs nothing. Fails for a syntax error, with file and line, and for a tree without Python.
    """

    source: Stage[Tree]

    async def run(self, work: Work) -> Tree:
        action = Action(
            argv=("python", "compile.py", "src", "report.json"),
            inputs={"src": work[self.source], "compile.py": work.store.put_file(Path(compiler.__file__))},
            env={"PYTHONHASHSEED": "0"},
            outputs=("src", "report.json"),
        )
        result = (await work.execute(action)).require()
        _judge(result)
        return result.output("src").tree


def _judge(result: ActionResult) -> None:
    """Raises StageFailed for what could not be compiled, CommandFailed for a report that cannot be read."""
    try:
        report = json.loads(result.output("report.json").read())
        files, failures = int(report["files"]), list(report["failures"])
    except (ValueError, KeyError, TypeError) as error:
        raise CommandFailed(result.action.argv, result.exit_code, result.tail, expected="a report in JSON") from error
    if failures:
        first = failures[0]
        more = f" (and {len(failures) - 1} more files)" if len(failures) > 1 else ""
        raise StageFailed(f"{first['said']}{more}", where=f"{first['file']}:{first['line']}", right="Python that compiles")
    if not files:
        raise StageFailed("there is no .py file to compile", right="a tree with Python sources")


class NativeExtension(Stage[Tree]):
    """The source with an extension module beside every C file in it, made by the system's compiler.

    `image` names a container image with a compiler for engines that have containers. The modules hold no paths
    or dates: equal trees, compilers and interpreters give equal files. Fails without a compiler, without the
    interpreter's headers, for an error in the C, and for a tree without C files.
    """

    source: Stage[Tree]
    compiler: str = "cc"
    image: str = ""

    async def run(self, work: Work) -> Tree:
        source = work[self.source]
        if not any(entry.path.endswith(".c") for entry in work.store.entries(source)):
            raise StageFailed("there is no .c file to compile", right="a tree with the C source of an extension module")
        action = Action(
            argv=("python", "extension.py", "src", self.compiler),
            inputs={"src": source, "extension.py": work.store.put_file(Path(extension.__file__))},
            image=self.image,
            outputs=("src",),
        )
        result = await work.execute(action)
        if result.exit_code in (extension.NO_COMPILER, extension.NO_HEADERS):
            last = (result.tail.strip().splitlines() or ["no compiler"])[-1]
            raise StageFailed(
                last,
                where=work.engine,
                right="a C compiler and Python's headers (Debian: gcc, python3-dev), or an image= with both",
            )
        return result.require().output("src").tree
