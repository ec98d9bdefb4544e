"""The key: the digest of everything a stage's result depends on, kept in named components."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from json.encoder import encode_basestring
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel

from pipeline import digest
from pipeline.errors import WiringError
from pipeline.stage import Stage, settings, uses

SHIPPED = ("gates", "stages")
"""The packages of stages that come with this library."""

FORMAT = "1"
"""Raised when this library changes what a recorded result means, so that older ones are made again."""


def components(stage: Stage[Any], inputs: Mapping[Stage[Any], str], *, observed: str | None, platform: str) -> dict[str, str]:
    """What the result of `stage` depends on, each part under a name that people understand.

    `inputs` maps every input stage to the digest of its result.
    """
    parts = own(stage, observed=observed, platform=platform)
    for name, source in uses(stage):
        parts[f"input {name}"] = inputs[source]
    return parts


def own(stage: Stage[Any], *, observed: str | None, platform: str) -> dict[str, str]:
    """What the result of `stage` depends on besides its inputs."""
    parts = {
        "format": FORMAT,
        "type": f"{type(stage).__module__}.{type(stage).__qualname__}",
        "code": code(type(stage)),
        "platform": platform,
    }
    if observed is not None:
        parts["observed"] = observed
    return parts | described(stage)


def text(stage: Stage[Any], inputs: Mapping[Stage[Any], str], *, observed: str | None, platform: str) -> str:
    """The components as canonical JSON, written piece by piece in the order of their names: of ten thousand stages, quickly."""
    head, tail = ends(type(stage))
    return f"{head},{between(stage, inputs, observed=observed, platform=platform)},{tail}"


def between(stage: Stage[Any], inputs: Mapping[Stage[Any], str], *, observed: str | None, platform: str) -> str:
    """The part of that text that is not the same for all stages of a class."""
    parts = sorted([f'"input {name}":"{inputs[source]}"' for name, source in uses(stage)])
    if observed is not None:
        parts.append(f'"observed":{encode_basestring(observed)}')
    parts += (f'"platform":{encode_basestring(platform)}', *configured(stage))
    return ",".join(parts)


def configured(stage: Stage[Any]) -> tuple[str, ...]:
    """The settings of a stage as they stand in that text; written once.

    Raises WiringError for one that has no plain form, and so could not be told from another.
    """
    found: tuple[str, ...] | None = stage.__dict__.get(CONFIGURED)
    if found is None:
        found = tuple(sorted([f'"setting {name}":{encode_basestring(value)}' for name, value in _settings(stage)]))
        vars(stage)[CONFIGURED] = found
    return found


CONFIGURED = "settings of the stage as text"
"""Where they are kept; no field can have this name."""


@functools.cache
def ends(cls: type) -> tuple[str, str]:
    """What comes first and last in that text, of all stages of a class."""
    name = encode_basestring(f"{cls.__module__}.{cls.__qualname__}")
    return f'{{"code":{encode_basestring(code(cls))},"format":{encode_basestring(FORMAT)}', f'"type":{name}}}'


def described(stage: Stage[Any]) -> dict[str, str]:
    """The settings of a stage. Raises WiringError as `configured` does."""
    return {f"setting {name}": text for name, text in _settings(stage)}


def _settings(stage: Stage[Any]) -> Iterator[tuple[str, str]]:
    for name, value in settings(stage).items():
        if type(value) is int:  # the most frequent one, and ten times as quick
            yield name, str(value)
        else:
            yield name, _text(value, f"{type(stage).__name__}.{name}")


def about(stage: Stage[Any], inputs: Mapping[Stage[Any], str]) -> digest.Digest:
    """Names what a side effect is about: equal for the same type, settings and inputs, whatever the code."""
    parts = components(stage, inputs, observed=None, platform="")
    return digest.of_json(
        {name: value for name, value in parts.items() if name == "type" or name.startswith(("setting ", "input "))}
    )


def of(parts: str) -> digest.Digest:
    """The key itself, of the text of its components."""
    return digest.Digest(hashlib.sha256(parts.encode(errors="surrogateescape")).hexdigest())


def _text(value: Any, where: str) -> str:
    try:
        encoded = digest.canonical(plain(value, where)).decode()
    except UnicodeError as error:  # what stands for such bytes in the text of an environment variable or a file's name
        raise WiringError(
            f"{where} holds bytes that are no UTF-8: {repr(value)[:80]}", right="text, or bytes as `bytes`"
        ) from error
    except ValueError as error:
        raise WiringError(f"{where} cannot be part of a key: {error}", right="a finite number") from error
    return encoded if len(encoded) <= 200 else f"sha256:{digest.of_text(encoded)}"


def plain(value: Any, where: str) -> Any:
    """`value` as plain JSON data in one form only. Raises WiringError for what has no such form."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Enum):
        return [type(value).__qualname__, value.name, plain(value.value, where), code(type(value))]
    if isinstance(value, bytes):
        return digest.of_bytes(value)
    if isinstance(value, BaseModel):
        known = {**{name: getattr(value, name) for name in type(value).model_fields}, **(value.model_extra or {})}
        fields = {name: _of_a_model(value, name, item, where) for name, item in known.items()}
        return [type(value).__qualname__, code(type(value)), fields]
    if isinstance(value, tuple | list):
        return [plain(item, where) for item in value]
    if isinstance(value, frozenset | set):
        return sorted((plain(item, where) for item in value), key=digest.canonical)
    if isinstance(value, Mapping):
        return _mapping(value, where)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name), where) for field in dataclasses.fields(value)}
        return [type(value).__qualname__, code(type(value)), fields]
    if isinstance(value, functools.partial):
        return ["partial", plain(value.func, where), plain(value.args, where), plain(value.keywords, where)]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        defaults = plain([value.__defaults__, value.__kwdefaults__], where)
        return [value.__qualname__, _code_of(value.__code__), plain(cells, where), defaults, _module_files(value.__module__)]
    if isinstance(value, type):
        return [value.__module__, value.__qualname__, code(value)]
    raise WiringError(
        f"{where} holds a {type(value).__name__}, which cannot be part of a key",
        right="plain data, an enum, a path, a frozen dataclass, a pydantic model or a function",
    )


def _of_a_model(model: BaseModel, name: str, item: Any, where: str) -> Any:
    """A field; of what has no plain form here, as a date, the one that pydantic gives it."""
    try:
        return plain(item, where)
    except WiringError:
        dumped = model.model_dump(mode="json", include={name})
        if name not in dumped:
            raise
        return dumped[name]


def _mapping(value: Mapping[Any, Any], where: str) -> Any:
    """An object where all keys are text, else a list of pairs: `1` and `"1"` are two keys."""
    if all(isinstance(key, str) for key in value):
        return {key: plain(item, where) for key, item in value.items()}
    return sorted(([plain(key, where), plain(item, where)] for key, item in value.items()), key=digest.canonical)


def _code_of(code_object: types.CodeType) -> str:
    constants = [_constant(item) for item in code_object.co_consts]
    return digest.of_json([digest.of_bytes(code_object.co_code), constants, list(code_object.co_names)])


def _constant(item: object) -> str:
    if isinstance(item, types.CodeType):
        return _code_of(item)
    return repr(sorted(map(repr, item))) if isinstance(item, frozenset) else repr(item)  # a set's order differs by process


@functools.cache
def code(cls: type) -> str:
    """The digest of the source files a class is made of: its module's and those of the modules they refer to.

    Of packages that are installed and not the class's own the version stands for the files, where files of a project refer to
    them. The standard library and `pipeline` itself are left out: `FORMAT` and the platform stand for them.
    """
    files: dict[str, str] = {}
    for base in cls.__mro__:
        if base.__module__.split(".")[0] not in ("builtins", "abc", "typing", "enum", "pipeline", "pydantic"):
            files |= _module_files(base.__module__)
    return digest.of_json(files) if files else "built in"


@functools.cache
def _module_files(name: str) -> dict[str, str]:
    """Every source file that `name` reaches through its globals, without leaving its own packages and what is not installed."""
    packages = {name.partition(".")[0], *SHIPPED}
    files: dict[str, str] = {}
    left, seen = [name], set[str]()
    while left:
        current = left.pop()
        if current in seen or (source := _source(current)) is None:
            continue
        seen.add(current)
        _, files[current], named = source
        for other in named - seen:
            if _within(other, packages):
                left.append(other)
            elif current.partition(".")[0] not in SHIPPED and (version := _version(other.partition(".")[0])):
                files[f"installed {other.partition('.')[0]}"] = version
    return files


@functools.cache
def _version(package: str) -> str:
    """The version of an installed package; empty for what is part of Python, of this library, or not installed."""
    path = _file(package)
    if path is None or package in sys.stdlib_module_names or package == "pipeline" or not _is_installed(path):
        return ""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # it is known by another name than that of its distribution
        names = metadata.packages_distributions().get(package, [])
        return " ".join(sorted(f"{name} {metadata.version(name)}" for name in names))


def _is_installed(path: str) -> bool:
    return f"{os.sep}site-packages{os.sep}" in path or f"{os.sep}dist-packages{os.sep}" in path


@functools.cache
def _source(name: str) -> tuple[str, str, frozenset[str]] | None:
    """A module's source file, the digest of that, and the names of what may be modules it refers to."""
    module, path = sys.modules.get(name), _file(name)
    if path is None or not path.endswith(".py"):
        return None
    named = _named(name, module, path)
    if name.partition(".")[0] not in SHIPPED:
        package = name if Path(path).name == "__init__.py" else name.rpartition(".")[0]
        named |= _imports(Path(path), package)  # a user's file may import a constant, or import inside a function
    return path, digest.of_file(Path(path)), frozenset(other for other in named if isinstance(other, str))


def _named(name: str, module: types.ModuleType | None, path: str) -> set[Any]:
    """The modules that what a module holds is from, whatever else was imported into this process, and by whom.

    So a package is not asked for its submodules, which are among its names once anybody has imported them; and one whose
    names load when they are first used is taken for all of its modules.
    """
    names = vars(module) if module else {}
    if "__path__" in names and "__getattr__" in names:
        return {f"{name}.{file.stem}" for file in Path(path).parent.glob("*.py") if file.stem != "__init__"}
    below = f"{name}."
    found = {
        value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        for value in list(names.values())
    }
    return {other for other in found if not (isinstance(other, str) and other.startswith(below) and "__path__" in names)}


def _imports(path: Path, package: str) -> set[str | None]:
    """Every module a file of `package` imports, at its top or in a function, and what it may import from it."""
    found: set[str | None] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            around = package.split(".")[: 1 - node.level or None] if node.level else []
            module = ".".join([*around, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def _within(name: str, packages: set[str]) -> bool:
    """Whether a module belongs to one of the packages, or is a project's own: neither installed nor a part of Python."""
    package = name.partition(".")[0]
    if package in packages:
        return True
    if package in sys.stdlib_module_names or package == "pipeline":
        return False
    path = _file(name)
    return path is not None and not _is_installed(path)


@functools.cache
def _file(name: str) -> str | None:
    """The source file of a module, loaded or not; None where it has none."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        path = getattr(loaded, "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return None
        path = spec.origin if spec and spec.has_location else None
    return path or None
