"""Going on with a run that was cut off: which one, and whether what it was made from is still the same. Pure."""

from __future__ import annotations

import shlex

from pipeline.errors import ConfigError, Exit
from pipeline.history import RunHistory
from pipeline.plan import Plan

CUT_OFF = (None, Exit.INTERRUPTED, Exit.UNUSABLE)
"""How a run ended that can go on: not at all, because it was asked to, or for want of a disk, an engine or the journal."""


def check_cut_off(run: RunHistory) -> None:
    """Raise ConfigError for a run that came to its end."""
    if run.exit not in CUT_OFF:
        raise ConfigError(
            f"run {run.id} has ended ({run.state})",
            right="a run that was cut off",
            next="python -m pipeline run --failed" if run.exit else "python -m pipeline run",
        )


def check_unchanged(plan: Plan, run: RunHistory) -> None:
    """Raise ConfigError where what is planned is not what the run was doing: a result it had would not be its own any more."""
    now = {step.name: step.key for step in plan.steps if step.key is not None}
    changed = [name for name, stage in run.stages.items() if stage.key and now.get(name, stage.key) != stage.key]
    if changed or now.keys() - run.stages.keys():
        names = ", ".join(sorted(changed) or sorted(now.keys() - run.stages.keys()))
        explain = f"python -m pipeline explain --since {run.id} {shlex.quote(changed[0])}; " if changed else ""
        raise ConfigError(
            f"run {run.id} cannot go on: what {names} depends on is not what it was",
            right="files, settings and tools as the run found them, or a new run, which takes what is still true",
            next=f"{explain}python -m pipeline run",
        )
