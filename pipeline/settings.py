"""`[tool.pipeline]` in pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from pipeline.errors import ConfigError, did_you_mean


class Settings(BaseModel):
    """The table `[tool.pipeline]`. Every key is optional."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, title="[tool.pipeline]")

    file: str = Field(default="delivery.py", description="The Python file that holds the pipeline, relative to pyproject.toml.")
    object: str = Field(default="pipeline", description="The name of the Pipeline object in that file.")
    engine: Literal["auto", "host", "dagger"] = Field(default="auto", description="What executes actions.")
    image: str = Field(default="", description="Default container image; empty: the slim Python image of the running version.")
    jobs: int = Field(default=0, ge=0, description="Processors the stages may use together; 0: those of the machine.")
    memory: int = Field(default=0, ge=0, description="MiB the stages may use together; 0: not limited.")
    store_size: int = Field(
        default=0, ge=0, description="MiB the store may hold; what was used least recently goes. 0: not limited."
    )
    store_days: int = Field(default=0, ge=0, description="Days after which what was not used goes from the store; 0: never.")
    base: str = Field(default="", description="The git revision that changed paths and lines are measured against.")
    environment: str = Field(default="", description="The environment that conditions see when none is given.")
    remote_cache: str = Field(default="", description="The address of a remote cache (Bazel's HTTP protocol); empty: none.")
    remote_cache_write: bool = Field(default=False, description="Whether results made here are sent to the remote cache.")
    remote_cache_trusted: list[str] = Field(
        default=[], description="Public keys (Ed25519) of those whose results may stand before and behind a gate."
    )
    operators: dict[str, list[str]] = Field(
        default={}, description="Who may give which orders (promote, abort, ... or *), as user names; of others everybody may."
    )

    @field_validator("operators")
    @classmethod
    def _known(cls, operators: dict[str, list[str]]) -> dict[str, list[str]]:
        """A list for an order that there is not would let everybody give the one that was meant."""
        from pipeline.order import ALL, VERBS

        for verb in operators:
            if verb not in (*VERBS, ALL):
                raise ValueError(f"there is no order {verb!r}: {did_you_mean(verb, (*VERBS, ALL))}")
        return operators

    journal: str = Field(
        default="",
        description="Where the journal is: postgresql://HOST/DATABASE, no password in it; empty: a file in the state directory.",
    )


def read(root: Path) -> Settings:
    """The settings of the project at `root`; the defaults where it has none. Raises ConfigError."""
    path = root / "pyproject.toml"
    if not path.exists():
        return Settings.model_construct()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"is not valid TOML: {error}", where=str(path), right="TOML 1.0 in UTF-8") from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    tool = document.get("tool", {})
    return checked(tool.get("pipeline", {}) if isinstance(tool, dict) else tool, path)


def checked(table: Any, path: Path) -> Settings:
    """The table as settings. Raises ConfigError that names the key and what it should be."""
    if not isinstance(table, dict):
        raise ConfigError("[tool.pipeline] is no table", where=str(path), right="[tool.pipeline] with keys below it")
    known = Settings.model_fields
    for name in table:
        if name not in known:
            raise ConfigError(f"[tool.pipeline] has no key {name!r}", where=str(path), right=did_you_mean(name, known))
    if all(_is_plainly_right(known[name], value) for name, value in table.items()):
        return Settings.model_construct(**table)  # what checks the rest takes as long to build as it takes to plan
    try:
        return Settings.model_validate(table, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise ConfigError(
            f"[tool.pipeline] {name} = {first['input']!r}: {first['msg'].lower()}",
            where=str(path),
            right=known[name].description or "",
        ) from error


def _is_plainly_right(field: FieldInfo, value: object) -> bool:
    """Whether the value is of the one type that the field may have, or one of those that it names."""
    if get_origin(field.annotation) is Literal:
        return isinstance(value, str) and value in get_args(field.annotation)
    return type(value) is field.annotation and not field.metadata
