"""A deployment: what came of a rollout that is complete, and how it is taken back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from gates.words import counted
from pipeline import BrokenOff, NotNow, StageFailed, Stays, Work
from stages.delivery.course import Course, NobodyWell, NothingLeft, nothing_left, recovered
from stages.delivery.model import Deployment, State, is_shadow
from stages.delivery.probe import Ready
from stages.delivery.rollout import Rollout, state, unchanged
from stages.delivery.router import Placed, Router
from stages.delivery.strategy import Strategy, shared
from stages.delivery.target import Target
from stages.image import Image

if TYPE_CHECKING:
    from pipeline.journal import Event


async def settle(work: Work, rollout: Rollout, strategy: Strategy) -> None:
    """Take back what an earlier run left in the middle, and people said to go on over (`--again`), or an `undo` did.

    Where there is nothing to go back to, or what there is does not get ready, the way is forward, from what serves.
    """
    if (begun := Course.of(work.events).cut_off) is not None:
        with going_on(work):
            await rollout.take_up(strategy, begun)


@contextlib.contextmanager
def going_on(work: Work) -> Iterator[None]:
    """What cannot be gone back from in here stays, and that is said."""
    try:
        yield
    except (NothingLeft, NotNow, BrokenOff) as error:
        work.say(error.what)
        work.record("rollout.stays", why=error.what)


async def ended(work: Work, rollout: Rollout, strategy: Strategy) -> Event | None:
    """How the rollout began that an effect of unknown outcome has completed; None where it did not, and is taken back here.

    Raises StageFailed where it cannot be: what nobody has verified serves, and people have to say that it may.
    """
    course = Course.of(work.attempted)
    if course.is_complete:
        return course.started[-1]
    if (begun := course.cut_off) is not None:
        with needing_people(work):
            await rollout.take_up(strategy, begun)
    return None


@contextlib.contextmanager
def needing_people(work: Work) -> Iterator[None]:
    """Where in here nobody is left to go back to, or well, it is told how to go on."""
    over = f"look at it, then python -m pipeline run --again {work.name}"
    try:
        yield
    except NobodyWell as error:
        raise NobodyWell(error.what, right=error.right, next=f"{error.next}; or {over}") from error
    except NothingLeft as error:
        raise StageFailed(error.what, right=error.right, next=over) from error


async def deployment(rollout: Rollout, image: Image, group: str, groups: Iterable[str], weights: Mapping[str, int]) -> Deployment:
    """A complete rollout of `group`; `groups` ran before it, and traffic went by `weights`.

    Raises BrokenOff where nobody can look: the group serves, and must not be taken for one that does not.
    """
    try:
        now = await rollout.state()
    except StageFailed as error:
        raise BrokenOff(
            f"{group} was rolled out, and what runs now cannot be looked at: {error.what}", next="python -m pipeline recover"
        ) from error
    warm = [name for name in (*State(weights=weights).serving, *now.groups, *sorted(now.resting)) if name != group]
    return Deployment(
        address=rollout.router.address,
        image=image.digest,
        group=group,
        previous=warm[0] if warm else "",
        before=dict(weights),
        started=group not in groups,
    )


async def started_again(target: Target, router: Router) -> str:
    """A router that died is there again, as it was; what is told of it."""
    if not (isinstance(router, Placed) and await router.died()):
        return ""
    there = router.in_place()
    now = await state(target, there)
    if not now.serving:
        return ""
    await there.start_again()
    return f"the router had died, and was started again at {there.address.summary()} for {', '.join(now.serving)}"


async def standing(target: Target, router: Router, ready: Ready) -> list[str]:
    """What runs now, as target and router say: where users come in, then each group. Raises StageFailed where nobody can look."""
    now = await state(target, router)
    if not (now.groups or now.resting):
        return ["nothing runs"]
    known = True
    try:
        users = await router.check()
    except StageFailed as error:
        users, known = error.what, False
    order = sorted(now.groups, key=lambda name: (-now.weights.get(name, 0), name))
    ill = {name: await target.unready(name, await target.readiness(name) or ready) for name in now.serving}
    return [
        users,
        *(f"{name}: {_many(now, name)}{_traffic(now, name) if known else ''}{_ill(ill.get(name))}" for name in order),
        *(f"{name}: rests, to be started again for a way back" for name in sorted(now.resting)),
    ]


def _many(now: State, group: str) -> str:
    return counted(len(now.groups[group].instances), "instance")


def _ill(why: str | None) -> str:
    return f"; it cannot serve: {why}" if why else ""


def _traffic(now: State, group: str) -> str:
    share = now.weights.get(group, 0)
    if share > 0:
        return f", {share} % of the traffic"
    return ", in shadow" if is_shadow(group) else ", no traffic"


async def way_back(work: Work, rollout: Rollout, course: Course, result: Deployment, *, interrupted: bool) -> State | str:
    """To what served before, kept warm for this, or where a way back leads that was cut off; what is told where there is none.

    That is when another rollout has replaced it meanwhile, when another run has rolled it out since, and that stands, or, if its
    run was only `interrupted`, when it served before too.
    Raises NothingLeft where there is nobody to go back to who can serve, and NotNow where that cannot be found out. Nothing is
    changed here.
    """
    standing = {event.run for event in work.events("effect.stands")}
    if work.of and (since := course.rolled_out_since(result.group, work.of, standing)):
        return Stays(f"run {since} has rolled {result.group} out since, and that stands")
    with unchanged():
        now = await rollout.state()
        to = _whereto(now, course, result, interrupted=interrupted)
        if isinstance(to, State):
            await rollout.check_way_back(now, to, result.group)
    return to


def _whereto(now: State, course: Course, result: Deployment, *, interrupted: bool) -> State | str:
    """As `way_back`, whoever is well. Pure."""
    if (begun := course.way_back(result.group)) is not None:
        return recovered(now, begun)
    if not now.weights.get(result.group) and now.serving:  # where nobody does, all of its instances may have died
        return f"{result.group} does not serve any more: there is nothing to go back from"
    groups = {name: group for name, group in now.groups.items() if name != result.group or not result.started}
    weights = result.before
    if own := weights.get(result.group, 0):
        if interrupted and own == 100:
            return Stays(f"{result.group} served before this run too, and nothing was found wrong with it: it stays")
        others = {name: share for name, share in weights.items() if share and name != result.group}
        weights = dict(shared(100, others)) if others else _warm(result, now)
    gone = sorted(name for name, share in weights.items() if share and name not in groups and name not in now.resting)
    if gone:
        raise nothing_left(result.group, gone)
    return State(groups=groups, weights=weights)


def told(group: str, to: State | str) -> str:
    """What people are told of a way back from the group, when it was gone."""
    if not isinstance(to, State):
        return to
    serving = " and ".join(to.serving)
    now = f"{serving} has the traffic again" if serving else f"nobody served before {group}, and nobody does now"
    return f"{group} is taken back: {now}"


def _warm(result: Deployment, now: State) -> dict[str, int]:
    """All traffic to the group kept warm. Raises NothingLeft when there is none."""
    if result.previous not in now.groups and result.previous not in now.resting:
        why = f"{result.previous} was removed" if result.previous else "there is none"
        raise NothingLeft(
            f"{result.group} goes on serving, as before this run; it has no release to go back to: {why}",
            right="a release kept warm from an earlier deployment",
        )
    return {result.previous: 100}
