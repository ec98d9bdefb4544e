"""Configuration files that belong to a release: they come with it, and go back with it."""

from __future__ import annotations

from pathlib import PurePosixPath

from pipeline import Blob, Result, Stage, StageFailed, Tree, WiringError, Work


class ReleaseFile(Result):
    """A file that instances find by the path in an environment variable."""

    variable: str
    name: str
    content: Blob
    env: dict[str, str] = {}  # noqa: RUF012 - pydantic copies defaults
    """What else whoever reads it has to be told."""

    def summary(self) -> str:
        return f"{self.variable}: {self.name}, {self.content.size:,} bytes"


class ConfigurationFile(Stage[ReleaseFile]):
    """The file at `path` of `source`, as part of a release's configuration: another content is another release."""

    source: Stage[Tree]
    path: str
    variable: str

    def __post_init__(self) -> None:
        if PurePosixPath(self.path).name in ("", "..") or not self.variable.isidentifier():
            raise WiringError(
                f"{type(self).__name__}: path is {self.path!r}, variable is {self.variable!r}",
                right="the path of a file in its source, and the name of an environment variable",
            )

    async def run(self, work: Work) -> ReleaseFile:
        content = work.store.file(work[self.source], self.path)
        self.check(work.store.read(content))
        return ReleaseFile(variable=self.variable, name=PurePosixPath(self.path).name, content=content, env=dict(self.env()))

    def check(self, content: bytes) -> None:
        """Raise StageFailed for a content that nobody could read."""

    def env(self) -> tuple[tuple[str, str], ...]:
        """Further variables for those who read it."""
        return ()


class Flags(ConfigurationFile):
    """Feature flags in flagd's format (https://flagd.dev/reference/flag-definitions), for OpenFeature's flagd provider.

    Instances need nothing but `FlagdProvider()`: FLAGD_RESOLVER and FLAGD_OFFLINE_FLAG_SOURCE_PATH tell it that it reads this
    file. Rules by segment are its `targeting` (JSONLogic), percentages its `fractional`. Fails for a file that flags could not be
    read from, and for a flag whose default or share names no variant.
    """

    path: str = "flags.json"
    variable: str = "FLAGD_OFFLINE_FLAG_SOURCE_PATH"

    def env(self) -> tuple[tuple[str, str], ...]:
        return (("FLAGD_RESOLVER", "file"),)

    def check(self, content: bytes) -> None:
        problems = wrong(content)
        if problems:
            raise StageFailed("\n".join(problems), where=self.path, right="flags as https://flagd.dev describes them")


def wrong(content: bytes) -> list[str]:
    """What keeps flags from being what they say; nothing when all is well. Pure."""
    import json

    try:
        flags = json.loads(content)["flags"]
        items = list(flags.items())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return [f"it holds no flags: {type(error).__name__}: {error}"]
    return [f"{name}: {problem}" for name, flag in items for problem in _wrong_with(flag)]


def _wrong_with(flag: object) -> list[str]:
    if not isinstance(flag, dict):
        return ["it is no object"]
    variants = flag.get("variants")
    if not isinstance(variants, dict) or not variants:
        return ["it has no variants"]
    found = []
    if flag.get("state") not in ("ENABLED", "DISABLED"):
        found.append(f"its state is {flag.get('state')!r}, neither ENABLED nor DISABLED")
    if len({type(value) for value in variants.values()}) > 1:
        found.append("its variants are of several types")
    default = flag.get("defaultVariant")
    if default is not None and default not in variants:
        found.append(f"its default {default!r} is none of its variants: {', '.join(variants)}")
    for share in _fractions(flag.get("targeting")):
        if not (isinstance(share, list) and share and share[0] in variants):
            found.append(f"a share is of {share!r}, which is none of its variants: {', '.join(variants)}")
        elif len(share) > 1 and not (isinstance(share[1], int) and share[1] >= 0):
            found.append(f"the share of {share[0]} is {share[1]!r}, no whole number")
    return found


def _fractions(rule: object) -> list[object]:
    """The shares of every `fractional` in a rule; what it is a share of, when that is named first, is none."""
    if isinstance(rule, list):
        return [share for part in rule for share in _fractions(part)]
    if not isinstance(rule, dict):
        return []
    shares = rule.get("fractional")
    if isinstance(shares, list):
        return [share for number, share in enumerate(shares) if number or isinstance(share, list)]
    return [share for part in rule.values() for share in _fractions(part)]
