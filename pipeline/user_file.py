"""The user's pipeline file: found, imported, and its Pipeline object taken out."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from pipeline.dag import Pipeline
from pipeline.errors import ConfigError, LockgateError, said
from pipeline.project import Project


def load(project: Project) -> Pipeline:
    """The project's pipeline. Raises ConfigError that names the file, the line and what would be right."""
    path = project.root / project.settings.file
    if not path.exists():
        raise ConfigError(
            "there is no pipeline file",
            where=str(path),
            right=f"a Python file with `{project.settings.object} = Pipeline(...)`",
            next="python -m pipeline init",
        )
    if path.name in ("pipeline.py", "stages.py", "gates.py"):
        raise ConfigError("the file hides the package of its name", where=str(path), right="another name, as delivery.py")
    module = _import(project, path.stem)
    found = getattr(module, project.settings.object, None)
    if not isinstance(found, Pipeline):
        what = "is missing" if found is None else f"is a {type(found).__name__}"
        raise ConfigError(
            f"`{project.settings.object}` {what}", where=str(path), right=f"{project.settings.object} = Pipeline('name', ...)"
        )
    return found


def _import(project: Project, name: str) -> ModuleType:
    path = project.root / project.settings.file
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError("is no Python file", where=str(path), right="a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    kept = project.home / "byte-code"
    try:
        try:
            _execute(path, module, kept)
        except (EOFError, ValueError) as error:
            if "null bytes" in str(error):  # a SyntaxError from Python 3.11.4 on
                raise SyntaxError(str(error)).with_traceback(error.__traceback__) from error
            if "marshal data" not in str(error):
                raise
            shutil.rmtree(kept, ignore_errors=True)  # byte code that a full disk cut off
            _execute(path, module, kept)
    except LockgateError as error:
        error.where = error.where or _place(error, str(path))
        raise
    except SyntaxError as error:
        # Python names no file for one with a NUL byte: it is this one, or what it imports in that line
        where = f"{error.filename}:{error.lineno}" if error.filename else _place(error, str(path))
        right = "" if error.filename else "text without NUL bytes, here and in what is imported here"
        raise ConfigError(f"syntax error: {error.msg}", where=where, right=right) from error
    except SystemExit as error:
        raise ConfigError(
            f"it ends the program ({said(error)})", where=_place(error, str(path)), right="a file that only defines the pipeline"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ConfigError(
            f"cannot be imported: {said(error)}", where=_place(error, str(path)), next="--verbose shows the whole trace"
        ) from error
    return module


def _execute(path: Path, module: ModuleType, kept: Path) -> None:
    with _byte_code_in(kept):
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))  # noqa: S102 # nosec B102 - what import does


@contextlib.contextmanager
def _byte_code_in(directory: Path) -> Iterator[None]:
    """Keep byte code out of the project, where it would be part of the working copy. The pipeline's own file never has any:
    what was edited within the second that its time stamp tells would not be seen."""
    before = sys.pycache_prefix
    sys.pycache_prefix = str(directory)
    try:
        yield
    finally:
        sys.pycache_prefix = before


def _place(error: BaseException, path: str) -> str:
    """The last line of the user's file that the error went through."""
    import traceback  # only who has made a mistake waits for it

    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{path}:{lines[-1]}" if lines else path
