"""When a stage takes part: conditions over the facts of a run."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pipeline.frozen import Frozen


class Facts(Frozen):
    """What is known of the occasion of a run. Empty strings and None mean: not known."""

    branch: str = ""
    """In a pull request `pull/NUMBER`, on a tag empty: no pattern for a branch of yours lets either of them in."""
    commit: str = ""
    event: str = "manual"
    """`manual`, `push`, `pull_request`, `schedule`, `tag`; anything else as the CI system names it."""
    environment: str = ""
    changed: frozenset[str] | None = None
    """Paths changed since the base, relative to the project; None when no base is known."""
    ci: str = ""
    """The CI system the run takes place in; empty on a laptop."""


class Only(Frozen):
    """Every condition that is given must hold. Patterns are shell patterns; `**` crosses directories."""

    branch: tuple[str, ...] = ()
    event: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def refuses(self, facts: Facts) -> str | None:
        """Why the stage takes no part, or None when it does.

        An unknown branch, event or environment matches no pattern. Unknown changes match every
        pattern: work is done once too often rather than left out.
        """
        if not (self.branch or self.event or self.environment or self.changed):
            return None  # as for most stages
        for name, patterns in (("branch", self.branch), ("event", self.event), ("environment", self.environment)):
            fact: str = getattr(facts, name)
            if patterns and not any(fnmatchcase(fact, pattern) for pattern in patterns):
                return f"{name} is {fact or 'unknown'}, only on {' or '.join(patterns)}"
        known = self.changed and facts.changed is not None
        if known and not any(matches(path, pattern) for path in facts.changed or () for pattern in self.changed):
            return f"nothing changed under {' or '.join(self.changed)}"
        return None


def matches(path: str, pattern: str) -> bool:
    """Whether a relative path with `/` matches a pattern in which `**` stands for any directories.

    >>> matches("src/a/b.py", "src/**/*.py"), matches("src/b.py", "src/**/*.py"), matches("src/a/b.py", "src/*.py")
    (True, True, False)
    >>> matches("docs/x.md", "docs"), matches("a/docs/x.md", "docs")
    (True, False)
    """
    return _match(tuple(path.split("/")), tuple(part for part in pattern.split("/") if part not in ("", ".")))


def _match(parts: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    if not patterns:
        return True  # a pattern that names a directory covers what is in it
    if patterns[0] == "**":
        return any(_match(parts[i:], patterns[1:]) for i in range(len(parts))) or len(patterns) == 1
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _match(parts[1:], patterns[1:])
