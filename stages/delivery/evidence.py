"""The evidence of judged rollouts as a picture: python -m stages.delivery.evidence DIRECTORY [RUN] > evidence.svg

Over the seconds since the new release first served: its share of the traffic (in shadow: of the requests of which it got copies),
by each measure what both releases did, and how much evidence there is that the new one is worse, and that it does no harm, beside
what the judge needs. Of the last run in which a judge looked, or of RUN: all that was judged in it, one below the other.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gates.judge import Trial
from pipeline.errors import LockgateError
from stages.delivery.model import in_shadow

if TYPE_CHECKING:
    from pipeline.journal import Event

WIDTH, LEFT, RIGHT, HIGH, GAP = 960, 70, 190, 110, 46
"""Of the picture, and in it: of the margins, of a panel and between two panels. Pixels."""

BUCKETS = 60
"""Into so many parts of time a line of shares is divided at most: in a single tick little happens."""

ERRORS = 5
"""New errors that are named."""

ORDERS = {"rollout.paused": "paused", "rollout.promoted": "promoted", "rollout.aborted": "aborted"}
"""Events of what operators did about it, and what that is called."""

KINDS = ("rollout.started", "rollout.looked", "rollout.judged", "rollout.compared", "rollout.error", *ORDERS)
"""Events from which the picture is drawn."""

OLD, NEW, WORSE, HARMLESS, FAINT, TEXT = "#7a8290", "#1f6feb", "#c62828", "#2e7d32", "#d7dbe0", "#24292f"


def looked(trial: Trial) -> dict[str, Any]:
    """What is journalled of each look of a judge. Pure.

    Of each measure the counts of both releases since the beginning (k0, n0, k1, n1), and the decimal logarithms of the evidence
    that the new one is worse and that it does no harm.
    """
    return {
        "said": trial.said(),
        "seconds": round(trial.seconds, 3),
        "unknown": round(trial.unknown, 3),
        "needed": [_log(1 / trial.judge.alpha), _log(1 / trial.judge.beta)],
        "measures": {
            measure.name: [
                *(one.counts.k0, one.counts.n0, one.counts.k1, one.counts.n1),
                *(_log(one.e_worse), _log(one.e_harmless)),
            ]
            for measure, one in zip(trial.judge.measures, trial.evidence, strict=True)
        },
    }


def _log(value: float) -> float:
    return round(math.log10(max(value, 1e-300)), 3)


@dataclass(frozen=True)
class Seen:
    """One look of the judge at one measure."""

    seconds: float
    counts: tuple[int, int, int, int]
    """k0 of n0 on the old release, k1 of n1 on the new one, since the beginning."""
    worse: float
    harmless: float


@dataclass
class Judged:
    """A rollout before its judge: a fold over the events of one run."""

    group: str
    run: str = ""
    shares: list[tuple[float, int]] = field(default_factory=list)
    """From when on the new release had how many percent."""
    unknown: list[tuple[float, float]] = field(default_factory=list)
    """From when until when nothing was known."""
    needed: tuple[float, float] = (2.0, 1.3)
    measures: dict[str, list[Seen]] = field(default_factory=dict)
    said: str = ""
    """What the judge found last."""
    errors: dict[str, str] = field(default_factory=dict)
    """Fingerprint to title of the errors that users reported of the new release alone."""
    orders: list[str] = field(default_factory=list)
    """What operators did about it, and when."""

    @property
    def seconds(self) -> float:
        return max((seen[-1].seconds for seen in self.measures.values()), default=0.0)

    def see(self, event: Event) -> None:
        if event.kind in ORDERS:
            self._obey(event)
            return
        if event.kind in ("rollout.judged", "rollout.compared"):
            self.said = event.data["said"]
            return
        if event.kind == "rollout.error":
            self.errors[event.data["fingerprint"]] = event.data["title"]
            return
        data, before = event.data, self.seconds
        if not self.shares or self.shares[-1][1] != data["share"]:
            self.shares.append((before, data["share"]))
        if data["unknown"]:
            self.unknown.append((before, data["seconds"]))
        worse, harmless = data["needed"]
        self.needed = (worse, harmless)
        for name, (k0, n0, k1, n1, found, against) in data["measures"].items():
            self.measures.setdefault(name, []).append(Seen(data["seconds"], (k0, n0, k1, n1), found, against))

    def _obey(self, event: Event) -> None:
        by, why = event.data["by"], event.data["why"]
        if by != "the judge":  # whose reason is the evidence itself
            self.orders.append(f"{ORDERS[event.kind]} by {by} at {self.seconds:.0f} s{f': {why}' if why else ''}")


def judged(events: Iterable[Event]) -> list[Judged]:
    """The rollouts that a judge looked at, the oldest first. Pure."""
    found: list[Judged] = []
    latest: dict[str, Judged] = {}
    for event in sorted(events, key=lambda one: one.seq):
        group = event.data["group"]
        if event.kind == "rollout.started":
            latest.pop(group, None)
            latest.pop(in_shadow(group), None)
            continue
        if event.kind in ("rollout.looked", "rollout.error") and group not in latest:
            latest[group] = Judged(group, event.run)
            found.append(latest[group])
        if group in latest:
            latest[group].see(event)
    return found


def picture(*found: Judged) -> str:
    """SVG, one below the other. Pure."""
    body: list[str] = []
    high = 0
    for one in found:
        drawn, below = _drawn(one)
        body += [f'<g transform="translate(0,{high})">', *drawn, "</g>"]
        high += below
    box = f'viewBox="0 0 {WIDTH} {high}" width="{WIDTH}" height="{high}"'
    font = f'font-family="system-ui, sans-serif" font-size="12" fill="{TEXT}"'
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" {font}>'
    title = f"<title>Evidence about {escape(', '.join(one.group for one in found))}</title>"
    return "\n".join([begin, title, f'<rect width="{WIDTH}" height="{high}" fill="white"/>', *body, "</svg>\n"])


def _drawn(one: Judged) -> tuple[list[str], int]:
    """What is drawn of one, and how high that is."""
    panels = [_traffic(one)]
    for name, seen in one.measures.items():
        panels += [_shares(name, seen), _evidence(name, seen, one.needed)]
    lines = _wrapped(f"{one.group}: {one.said or 'not decided yet'}", 140)
    lines += [f"new error: {error}"[:140] for error in list(one.errors.values())[:ERRORS]]
    lines += [f"and {len(one.errors) - ERRORS} more"] if len(one.errors) > ERRORS else []
    lines += [line for order in one.orders for line in _wrapped(order, 140)]
    head = 26 + 16 * len(lines)
    high = head + len(panels) * (HIGH + GAP) + 10
    body = [text(LEFT, 24 + 16 * number, line) for number, line in enumerate(lines)]
    for number, panel in enumerate(panels):
        body += panel.drawn(one, head + number * (HIGH + GAP) + 14)
    return body, high


@dataclass(frozen=True)
class Line:
    """Points (seconds, value), None where nothing is known of a value."""

    name: str
    colour: str
    points: Sequence[tuple[float, float | None]]
    needed: float | None = None
    """A value drawn across as what has to be reached."""
    steps: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines over the same seconds, on one scale of values."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    low: float
    top: float

    def drawn(self, one: Judged, above: float) -> Iterator[str]:
        right = WIDTH - RIGHT

        def x(seconds: float) -> float:
            return LEFT + (right - LEFT) * seconds / (one.seconds or 1.0)

        def y(value: float) -> float:
            return above + HIGH * (1 - (min(max(value, self.low), self.top) - self.low) / (self.top - self.low))

        yield text(LEFT, above - 8, self.title, weight="bold")
        for since, until in one.unknown:
            wide = x(until) - x(since)
            yield f'<rect x="{x(since):.1f}" y="{above:.1f}" width="{wide:.1f}" height="{HIGH}" fill="{FAINT}"/>'
        for value in (self.low, (self.low + self.top) / 2, self.top):
            yield stroke(LEFT, y(value), right, y(value), FAINT)
            yield text(LEFT - 8, y(value) + 4, f"{value:.3g}{self.unit}", anchor="end")
        for share in (0.0, 0.5, 1.0):
            yield text(x(share * one.seconds), above + HIGH + 16, f"{share * one.seconds:.0f} s", anchor="middle")
        for number, line in enumerate(self.lines):
            for part in _known(line.points):
                spots = list(_stairs(part) if line.steps else part)
                where = " ".join(f"{x(seconds):.1f},{y(value):.1f}" for seconds, value in spots)
                yield f'<polyline points="{where}" fill="none" stroke="{line.colour}" stroke-width="2"/>'
                if len(spots) == 1:
                    yield f'<circle cx="{x(spots[0][0]):.1f}" cy="{y(spots[0][1]):.1f}" r="2.5" fill="{line.colour}"/>'
            if line.needed is not None:
                yield stroke(LEFT, y(line.needed), right, y(line.needed), line.colour, dashed=True)
            yield text(right + 12, above + 14 + 17 * number, line.name, colour=line.colour)


def _traffic(one: Judged) -> Panel:
    points = [*one.shares, (one.seconds, one.shares[-1][1])] if one.shares else []
    return Panel("share of the new release", " %", (Line("share", NEW, points, steps=True),), 0, 100)


def _shares(name: str, seen: Sequence[Seen]) -> Panel:
    old, new = _rates(seen, 0), _rates(seen, 2)
    top = max((value for _, value in (*old, *new) if value is not None), default=0.0)
    return Panel(name, " %", (Line("old release", OLD, old), Line("new release", NEW, new)), 0, top or 1.0)


def _rates(seen: Sequence[Seen], first: int) -> list[tuple[float, float | None]]:
    """Percent in each part of the time, of the counts that begin at `first`; None where nothing was compared."""
    each = max(1, math.ceil(len(seen) / BUCKETS))
    ends = [Seen(0.0, (0, 0, 0, 0), 0.0, 0.0), *seen[each - 1 :: each]]
    if seen and ends[-1] is not seen[-1]:
        ends.append(seen[-1])
    points: list[tuple[float, float | None]] = []
    for before, now in itertools.pairwise(ends):
        k, n = (now.counts[at] - before.counts[at] for at in (first, first + 1))
        points.append(((before.seconds + now.seconds) / 2, 100 * k / n if n else None))
    return points


def _evidence(name: str, seen: Sequence[Seen], needed: tuple[float, float]) -> Panel:
    worse = Line("it is worse (abort)", WORSE, [(0.0, 0.0), *((one.seconds, one.worse) for one in seen)], needed[0])
    harmless = Line("it does no harm (go on)", HARMLESS, [(0.0, 0.0), *((one.seconds, one.harmless) for one in seen)], needed[1])
    values = [value for line in (worse, harmless) for _, value in line.points if value is not None]
    top = max(needed) + 1
    return Panel(
        f"evidence by {name} (powers of ten; dashed: needed)", "", (worse, harmless), max(min([-1.0, *values]), -top), top
    )


def _known(points: Iterable[tuple[float, float | None]]) -> Iterator[list[tuple[float, float]]]:
    """Points in a row of which the values are known."""
    for known, part in itertools.groupby(points, key=lambda point: point[1] is not None):
        if known:
            yield [(seconds, value) for seconds, value in part if value is not None]


def _stairs(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    for number, (seconds, value) in enumerate(points):
        if number:
            yield seconds, points[number - 1][1]
        yield seconds, value


def text(x: float, y: float, said: str, *, anchor: str = "start", colour: str = TEXT, weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" fill="{colour}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(said)}</text>'


def stroke(x: float, y: float, to_x: float, to_y: float, colour: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{colour}"{dash}/>'


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)


def arguments(name: str, doc: str | None, last: str) -> argparse.ArgumentParser:
    """What a command is told that shows something of a run; without a run's id it is the `last` one."""
    about, _, more = (doc or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog=f"python -m stages.delivery.{name}", description=about, epilog=more)
    parser.add_argument("directory", metavar="DIRECTORY", type=Path, help="the project, as for `python -m pipeline -C`")
    parser.add_argument("run", metavar="RUN", nargs="?", default="", help=f"a run's id ({last})")
    return parser


def told(given: argparse.Namespace, kinds: tuple[str, ...], env: Mapping[str, str]) -> list[Event]:
    """The events of these kinds in the run that is asked for, or in all. Raises LockgateError."""
    from pipeline.project import Project
    from pipeline.session import open_journal

    journal = open_journal(Project.at(given.directory, env))
    found = list(journal.events(given.run, kind=kinds)) if journal.exists else []
    journal.close()
    return found


def main(*words: str, env: Mapping[str, str] = os.environ) -> int:
    given = arguments("evidence", __doc__, "the last one in which a judge looked").parse_args(words)
    try:
        found = judged(told(given, KINDS, env))
    except LockgateError as error:
        print(error, file=sys.stderr)
        return error.exit
    if not found:
        print("no judge has looked at a rollout" + (f" in run {given.run}" if given.run else ""), file=sys.stderr)
        return 1
    sys.stdout.write(picture(*(one for one in found if one.run == found[-1].run)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
