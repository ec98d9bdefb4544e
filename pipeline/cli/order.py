"""`promote`, `pause`, `abort`, `undo`, `retry`, `freeze`, `drain`: what operators ask of deployments."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TextIO

from pipeline.cli.paint import shown
from pipeline.errors import ConfigError, Exit, LockgateError, StageFailed, did_you_mean
from pipeline.events import new_id
from pipeline.journal import Journal
from pipeline.lease import Lease, end_work, is_at_work
from pipeline.order import ORDERED, TOLD, Order, freeze, give, operator, orders, refuse
from pipeline.project import Project
from pipeline.rollouts import RolloutHistory, all_rollouts, current
from pipeline.session import Session, make_home, open_journal

UNITS = {"m": 60, "h": 3600, "d": 86_400}
LONGEST = 36_525 * 86_400
"""Seconds of a century: the clocks of this machine can tell what is then."""


def command(arguments: argparse.Namespace, out: TextIO) -> int:
    verb = arguments.command
    if verb in ("undo", "drain", "recover"):
        return _operate(arguments, out)
    project = Project.at(Path(arguments.directory), os.environ)
    journal = open_journal(project)
    if verb == "freeze":
        return _freeze(project, journal, arguments, out)
    if verb == "retry":
        return _retry(project, journal, arguments, out)
    return _of_a_rollout(project, journal, arguments, out)


def _of_a_rollout(project: Project, journal: Journal, arguments: argparse.Namespace, out: TextIO) -> int:
    """Promote, pause or abort: the executor of the rollout reads it from the journal."""
    rollouts = going_on(journal, project.home, arguments.stage)
    if arguments.command != "abort" and rollouts[0].experiment:
        raise ConfigError(
            f"{rollouts[0].stage} is an experiment, which goes on as it is until it ends by itself",
            right="a rollout",
            next=f"python -m pipeline abort {shlex.quote(rollouts[0].stage)}, which ends it now",
        )
    if arguments.command == "promote" and (held := next((one for one in rollouts if one.state == "paused" and one.until), None)):
        raise ConfigError(
            f"{held.group} cannot go on before {held.until}",
            right="instances that get ready",
            next=f"python -m pipeline abort {shlex.quote(held.stage)}, which goes back, or wait",
        )
    going = max(rollouts, key=lambda one: one.step.left)  # others wait for those that are not as far
    order = _order(arguments)._replace(
        number=going.step.left if arguments.command == "promote" else 0,
        end=getattr(arguments, "end", False),
        of="all" if getattr(arguments, "all", False) else "",
    )
    give(journal, order, going.run, going.stage, project.settings.operators)
    what = {
        "promote": f"goes on to {'the end' if order.of else 'its next step'}",
        "pause": "is not paused any more" if order.end else "stays where it is from the next look on",
        "abort": "goes back",
    }[arguments.command]
    return _said(f"{going.stage}: the rollout of {', '.join(one.group for one in rollouts)} {what}", order, arguments, out)


def going_on(journal: Journal, home: Path, stage: str) -> list[RolloutHistory]:
    """The rollout that goes on, of the stage if one is named, or those of all its services.

    Raises ConfigError where there is none, or those of more than one stage.
    """
    found = current(journal, home).values()
    stages = {one.stage: one for one in found}
    if stage and stage not in stages:
        raise ConfigError(
            f"no rollout of {stage!r} is known", right=did_you_mean(stage, stages), next="python -m pipeline deployments"
        )
    of_stage = [one for one in found if stage in ("", one.stage)]
    going = [one for one in of_stage if one.state in ("going on", "paused")]
    if not going:
        verified = [one for one in of_stage if one.state == "deployed" and is_at_work(journal, home, one.run)]
        if verified:
            take_over = f"python -m pipeline recover {shlex.quote(verified[0].stage)} --take-over"
            raise ConfigError(
                f"{verified[0].group} is rolled out, and is being verified: no rollout goes on",
                right="an end of its verification, which takes it back if it fails",
                next=f"{take_over}, which ends its run, and takes it back",
            )
        back = [f"{one.group} goes back" for one in of_stage if one.state == "going back"]
        cut_off = [one.stage for one in of_stage if one.state == "cut off"]
        why = "its run has ended in the middle of it" if cut_off else "; ".join(back)
        raise ConfigError(
            f"no rollout is going on{f': {why}' if why else ''}",
            right="a rollout that has begun and not ended",
            next=f"python -m pipeline recover {shlex.quote(cut_off[0])}" if cut_off else "python -m pipeline deployments",
        )
    several = sorted({one.stage for one in going})
    if len(several) > 1:
        raise ConfigError(f"{len(several)} rollouts are going on", right=f"one of them: {', '.join(several)}")
    return going


def _freeze(project: Project, journal: Journal, arguments: argparse.Namespace, out: TextIO) -> int:
    now = time.time()
    order = _order(arguments)._replace(
        end=arguments.end, until=0.0 if arguments.during is None else now + seconds(arguments.during)
    )
    _check_stage(journal, arguments)
    before = freeze(orders(journal, project.settings.operators, stage=arguments.stage), now)
    whose = arguments.stage or "all deployments"
    if order.end and not _is_frozen(project, journal, arguments.stage, now):
        return _said(f"{whose}: not frozen", order, arguments, out)
    make_home(project.home)
    give(journal, order, new_id(now), arguments.stage, project.settings.operators)
    until = f" until {time.strftime('%Y-%m-%d %H:%M', time.localtime(order.until))}" if order.until else ""
    other = f", in place of what {before.by} said{f': {before.why}' if before.why else ''}" if before is not None else ""
    return _said(f"{whose}: {'not frozen any more' if order.end else f'frozen{until}{shown(other)}'}", order, arguments, out)


def _is_frozen(project: Project, journal: Journal, stage: str, now: float) -> bool:
    """Whether the stage is, or where none is named, any."""
    stages = {stage} if stage else {"", *(event.stage for event in journal.events(kind=ORDERED))}
    return any(freeze(orders(journal, project.settings.operators, stage=one), now) for one in stages)


def _check_stage(journal: Journal, arguments: argparse.Namespace) -> None:
    """Raise ConfigError for a stage that is none. A pipeline that cannot be read is no reason not to freeze what was deployed."""
    stage, known = arguments.stage, {one.stage for one in all_rollouts(journal)}
    if not stage or stage in known:
        return
    pipeline = Session.open(Path(arguments.directory), os.environ).pipeline
    known |= {pipeline.name_of(one) for one in pipeline.stages}
    if stage not in known:
        raise ConfigError(f"no stage is called {stage!r}", right=did_you_mean(stage, known))


def seconds(text: str) -> float:
    """A time as in `90m`, `8h`, `2d`. Raises ConfigError.

    >>> seconds("90m")
    5400.0
    """
    unit = UNITS.get(text[-1:])
    if unit is None or not text[:-1].isdecimal() or not 0 < int(text[:-1]) * unit <= LONGEST:
        raise ConfigError(f"{text!r} is no time", where="--for", right="minutes, hours or days, a century at most: 90m, 8h, 2d")
    return float(int(text[:-1]) * unit)


def _retry(project: Project, journal: Journal, arguments: argparse.Namespace, out: TextIO) -> int:
    """What did not pass in the latest run, once more: for a rollout that went back, the same release."""
    from pipeline.cli.arguments import parse
    from pipeline.cli.run import command as run

    give(journal, _order(arguments), new_id(time.time()), arguments.stage, project.settings.operators)
    words = ["run", *([arguments.stage] if arguments.stage else ["--failed"]), "-C", arguments.directory]
    return run(parse([*words, "--output", arguments.output, "--color", arguments.color]), out)


def _operate(arguments: argparse.Namespace, out: TextIO) -> int:
    """Undo or drain: done here and now, by the stage itself."""
    import anyio

    from pipeline.operation import NOTHING, Operation

    session = Session.open(Path(arguments.directory), os.environ)
    name = arguments.stage or _only(session, experiments=arguments.command == "recover")
    stage, run = session.pipeline[name], new_id(time.time())
    order = _order(arguments)._replace(of=getattr(arguments, "group", ""))
    give(session.journal, order, run, name, session.project.settings.operators)
    if getattr(arguments, "take_over", False):
        _take_over(session, order, name)
    operation = Operation(session, stage, run, lambda line: print(line, file=out))
    why = f"{order.by} said so{f': {order.why}' if order.why else ''}"

    async def act() -> str:
        if order.verb == "recover":
            return await operation.recover()
        return await (operation.undo(why) if order.verb == "undo" else operation.obey(order))

    lease = Lease(session.journal, session.project.home, run)  # others see that it is at work
    try:
        lease.take()
        said = anyio.run(act)
    except LockgateError as error:
        refuse(session.journal, order, error.what, run, name, given=True)
        if not isinstance(error, StageFailed | ConfigError):
            raise
        raise ConfigError(f"{name}: {error.what}", where=error.where, right=error.right, next=error.next) from error
    except KeyboardInterrupt:
        print(f"{name}: what was begun is not at its end; python -m pipeline recover {shlex.quote(name)}", file=sys.stderr)
        raise
    finally:
        lease.end()
    if said == NOTHING:
        refuse(session.journal, order, said, run, name, given=True)
    return _said(f"{name}: {said}", order, arguments, out)


def _take_over(session: Session, order: Order, name: str) -> None:
    """End the run whose rollout goes on or is being verified, or what takes it back, if this machine has it and this user may."""
    mine = [one for one in current(session.journal, session.project.home).values() if one.stage == name]
    going = (one for one in mine if one.open or one.state == "deployed")
    if (one := next(going, None)) is not None:
        give(session.journal, order._replace(verb="take-over"), one.worker, name, session.project.settings.operators)
        end_work(session.project.home, one.worker)


def _only(session: Session, *, experiments: bool) -> str:
    """The stage of the pipeline that has deployed, or tried, where there is one."""
    known = {session.pipeline.name_of(stage) for stage in session.pipeline.stages}
    has = {one.stage for one in all_rollouts(session.journal) if experiments or not one.experiment}
    found = sorted(has & known)
    if len(found) != 1:
        raise ConfigError(
            f"{len(found)} stages have deployed" if found else "nothing was deployed yet",
            right=f"the name of one: {', '.join(found)}" if found else "a deployment",
            next="python -m pipeline deployments",
        )
    return found[0]


def _order(arguments: argparse.Namespace) -> Order:
    return Order(verb=arguments.command, by=operator(), why=arguments.why)


def _said(text: str, order: Order, arguments: argparse.Namespace, out: TextIO) -> int:
    if arguments.output == "json":
        about = {name: value for name, value in order._asdict().items() if name not in TOLD}
        text = json.dumps({"kind": "order", "said": text, **about})
    print(text, file=out)
    return Exit.PASSED
