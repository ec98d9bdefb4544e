"""An experiment: two releases at once, each for a fixed share of the users, to learn what they do differently (A/B test).

As a page: python -m stages.delivery.experiment DIRECTORY [RUN] > report.md; with --svg, the picture of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any

import anyio

from gates import experiment
from gates.eprocess import Counts
from gates.experiment import Compared, ExperimentReport, Tally
from gates.judge import Business, ErrorRate, Judge
from gates.window import Window
from pipeline import LockgateError, StageFailed, WiringError, Work
from stages.delivery.audience import Chosen, Cohort
from stages.delivery.control import Control, heeding
from stages.delivery.course import recovered
from stages.delivery.deploy import Releases
from stages.delivery.deployment import needing_people
from stages.delivery.evidence import FAINT, GAP, LEFT, NEW, RIGHT, TEXT, WIDTH, arguments, stroke, text, told
from stages.delivery.freeze import check_not_frozen
from stages.delivery.hearing import because
from stages.delivery.lock import alone
from stages.delivery.metrics import OpensMetrics, measured, need_sources
from stages.delivery.model import Release, State
from stages.delivery.rollout import Rollout, state
from stages.delivery.step import Split, Start, Step, WaitReady
from stages.delivery.strategy import back, shared


class Experiment(Releases[ExperimentReport]):
    """Gives `share` percent of a cohort the release, the rest of it what serves, until all measures are sure or `lasts` is over.

    Nothing is switched: traffic is as before in the end, and the release is ended if this started it. The report is evidence
    for a `Check`, by which a later `Deploy` may be held back. `measures` are what should not happen; all their intervals hold
    at once with a chance of 1 - `alpha`. Sides that are uneven are noticed by what sources count, not by requests: those of one
    user go together. Seconds: `lasts`, `tick` from one look to the next, `within` to get ready, `drain`. Fails where nothing
    serves, where a measure has nothing to compare in all the time, and when an operator aborts it.
    """

    timeout: float = 30 * 86_400.0

    audience: Cohort
    lasts: float
    share: int = 50
    measures: tuple[ErrorRate | Business, ...] = (ErrorRate(),)
    metrics: tuple[OpensMetrics, ...] = ()
    alpha: float = 0.05
    tick: float = 1.0
    within: float = 60.0
    drain: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (1 <= self.share <= 99 and 0 < self.alpha < 1 and self.lasts > 0 and self.tick > 0 and self.measures):
            raise WiringError("Experiment", right="share from 1 to 99, alpha between 0 and 1, times above 0, one measure or more")
        if wrong := [measure.name for measure in self.measures if not isinstance(measure, ErrorRate | Business)]:
            raise WiringError(
                f"Experiment: {', '.join(wrong)} cannot be compared in it",
                right="ErrorRate() and Business(of=...); what takes too long is counted by a source of metrics",
            )
        need_sources("Experiment", Judge(measures=self.measures), self.metrics)

    async def run(self, work: Work) -> ExperimentReport:
        async with alone(work.state("deploy"), work.say):
            check_not_frozen(work)
            rollout = self.rollout_of(work, self.release_of(work))
            before, group = await rollout.state(), rollout.release.group
            rollout = await rollout.asking(before)
            blue = {name: before.weights[name] for name in before.serving}
            if not blue or group in blue:
                raise StageFailed(f"{group} has nobody to be compared with", right="another release that serves")
            rollout.control.begin()  # whoever sees that it has begun may give orders
            work.record("experiment.started", group=group, groups=sorted(before.groups), weights=dict(before.weights))
            ends = partial(self._end, rollout, before, group)
            try:
                report = await self._heeding(rollout, group, blue)
            except BaseException as error:
                await rollout.return_after(error, ends)
                raise
            with anyio.CancelScope(shield=True):
                await ends()
        return report

    def _begins(self, group: str, blue: Mapping[str, int]) -> tuple[Step, ...]:
        """The steps to where both sides are asked."""
        chosen = Chosen(self.audience, ((group, self.share), *shared(100 - self.share, blue)))
        return Start(group), WaitReady(group, self.within), Split(shared(100, blue), chosen)

    async def steps(self, work: Work) -> Sequence[str]:
        """From what runs now, to another release beside it, and back. Raises StageFailed where none may begin now."""
        check_not_frozen(work)
        now = await state(self.target.open(work), self.router.open(work, self.ready))
        blue = {name: now.weights[name] for name in now.serving}
        if not blue:
            return ["nothing serves that a release could be compared with"]
        observes = f"compare green with {', '.join(blue)}, at most {self.lasts:g} s"
        ends = back(now, "green", self.within, self.drain)
        return [*map(str, self._begins("green", blue)), observes, *map(str, ends)]

    async def undo(self, work: Work, result: Any) -> str | None:
        return "traffic is as it was before: an experiment ends by itself"

    async def recover(self, work: Work) -> ExperimentReport | None:
        """None once traffic is as it was: what a killed run counted is lost."""
        begun, ended = work.events("experiment.started"), work.events("experiment.ended")
        if begun and not any(event.seq > begun[-1].seq for event in ended):
            async with alone(work.state("deploy"), work.say):
                rollout = self.rollout_of(work)
                now, group = await rollout.state(), begun[-1].data["group"]
                if now.weights.get(group):
                    with needing_people(work):
                        before = recovered(now, begun[-1])
                else:
                    ran = {name: one for name, one in now.groups.items() if name != group or name in begun[-1].data["groups"]}
                    before = replace(now, groups=ran)
                await self._end(rollout, before, group)
        return None

    async def _end(self, rollout: Rollout, before: State, group: str) -> None:
        """Traffic is as it was, whatever can be written down of it. Raises BrokenOff where users are left where they are."""
        with rollout.half_way(f"ending the experiment with {group}"):
            quiet = rollout.quiet
            await quiet.run(back(before, group, self.within, self.drain))
        quiet.note("experiment.ended", group=group)

    async def _heeding(self, rollout: Rollout, group: str, blue: Mapping[str, int]) -> ExperimentReport:
        """Begin, and what was observed. Raises StageFailed where that is nothing, and when an operator says so."""
        found: list[ExperimentReport] = []

        async def observe() -> None:
            await rollout.run(self._begins(group, blue))
            found.append(await self._observe(rollout, group, tuple(blue)))

        control = rollout.control
        if not await heeding(observe, control.watch) and (order := control.aborted) is not None:
            raise StageFailed(f"{order.by} aborted the experiment with {group}{because(order.why)}")
        (report,) = found
        rollout.note("experiment.finished", report=report.model_dump(mode="json"))
        if nothing := [one.measure for one in report.compared if not (one.n0 and one.n1)]:
            raise StageFailed(
                f"{group}: nothing was compared by {', '.join(nothing)} in {report.seconds:.0f} s",
                right=f"what is counted of {self.audience} on both sides",
            )
        return report

    async def _observe(self, rollout: Rollout, group: str, blue: tuple[str, ...]) -> ExperimentReport:
        """Count both sides until what is known of every measure is sure, or the time is over."""
        tallies = dict.fromkeys((measure.name for measure in self.measures), Tally())
        unknown, began = 0.0, anyio.current_time()
        last = began
        async with measured(rollout.router.watch(), rollout.metrics, blue, (group,)) as watch:
            while True:
                await anyio.sleep_until(last + self.tick)
                before, last = last, anyio.current_time()
                old, new = watch.windows(blue, (group,))
                unknown += last - before if old is None or new is None else 0.0
                tallies = {measure.name: added(measure, tallies[measure.name], old, new) for measure in self.measures}
                report = ExperimentReport(
                    group=group,
                    against=blue,
                    audience=str(self.audience),
                    share=self.share,
                    seconds=last - began,
                    unknown=unknown,
                    sure=1 - self.alpha,
                    compared=tuple(self._compared(measure, tallies[measure.name]) for measure in self.measures),
                )
                rollout.note("experiment.looked", group=group, said=report.summary())
                if report.decided or report.seconds >= self.lasts:
                    return report

    def _compared(self, measure: ErrorRate | Business, tally: Tally) -> Compared:
        share = self.share / 100 if isinstance(measure, Business) else None
        return experiment.compared(measure.name, tally, alpha=self.alpha / len(self.measures), share=share)

    def rollout_of(self, work: Work, release: Release | None = None) -> Rollout:
        """With the orders of operators, and what is counted besides requests."""
        control = Control(orders=work.orders, say=work.say)
        return replace(super().rollout_of(work, release), control=control, metrics=tuple(one.open(work) for one in self.metrics))


def added(measure: ErrorRate | Business, tally: Tally, old: Window | None, new: Window | None) -> Tally:
    """With one more tick, where both sides are known. Pure."""
    then = measure.counts(old, None) if old is not None else None
    now = measure.counts(new, None) if new is not None else None
    if then is None or now is None:
        return tally
    return tally.after(Counts(*then, *now))


FOUND = {"fewer": "happens less often", "more": "happens more often", "open": "not decided"}


def page(report: ExperimentReport) -> str:
    """The report in Markdown. Pure."""
    lines = [
        f"# {report.group} against {', '.join(report.against)}",
        "",
        f"{report.share} % of {report.audience} for {report.seconds:.0f} s, of which {report.unknown:.0f} s are not known.",
        f"Each lift is between its bounds: all of them are, with a chance of {report.sure:.0%}, whenever it was looked at.",
        "",
        "| measure | before | new | lift | between | found | sides |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in report.compared:
        lift = "-" if one.lift is None else f"{one.lift:.2f}"
        high = "no bound" if one.high is None else f"{one.high:.2f}"
        sides = "not tested" if one.mismatch is None else "**uneven**" if one in report.uneven else "as wanted"
        before, new = (f"{k:,} of {n:,}" for k, n in ((one.k0, one.n0), (one.k1, one.n1)))
        lines.append(f"| {one.measure} | {before} | {new} | {lift} | {one.low:.2f} and {high} | {FOUND[one.found]} | {sides} |")
    return "\n".join([*lines, ""])


def picture(report: ExperimentReport) -> str:
    """The lifts and between what they are, as SVG; the scale ends at four times as often. Pure."""
    right, most = WIDTH - RIGHT, 4.0
    high = GAP * (len(report.compared) + 2)

    def x(lift: float) -> float:
        return 3 * LEFT + (right - 3 * LEFT) * min(lift, most) / most

    body = [text(LEFT, 24, f"{report.group} against {', '.join(report.against)}: how many times as often", weight="bold")]
    for value in (0.0, 1.0, 2.0, 3.0, most):
        body += [stroke(x(value), GAP, x(value), high - GAP, TEXT if value == 1 else FAINT)]
        body += [text(x(value), high - GAP + 16, f"{value:g}", anchor="middle")]
    for number, one in enumerate(report.compared):
        y = GAP * (number + 1.5)
        body += [text(LEFT, y + 4, one.measure), stroke(x(one.low), y, x(most if one.high is None else one.high), y, NEW)]
        if one.lift is not None:
            body.append(f'<circle cx="{x(one.lift):.1f}" cy="{y:.1f}" r="4" fill="{NEW}"/>')
        body.append(text(right + 12, y + 4, FOUND[one.found]))
    box = f'viewBox="0 0 {WIDTH} {high}" width="{WIDTH}" height="{high}"'
    font = f'font-family="system-ui, sans-serif" font-size="12" fill="{TEXT}"'
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" {font}>'
    title = f"<title>{escape(f'Experiment with {report.group}')}</title>"
    return "\n".join([begin, title, f'<rect width="{WIDTH}" height="{high}" fill="white"/>', *body, "</svg>\n"])


def main(*words: str, env: Mapping[str, str] = os.environ) -> int:
    parser = arguments("experiment", __doc__, "the last one with an experiment")
    parser.add_argument("--svg", action="store_true", help="the picture in place of the page")
    given = parser.parse_args(words)
    try:
        found = told(given, ("experiment.finished",), env)
    except LockgateError as error:
        print(error, file=sys.stderr)
        return error.exit
    if not found:
        print("no experiment has ended" + (f" in run {given.run}" if given.run else ""), file=sys.stderr)
        return 1
    report = ExperimentReport.model_validate(found[-1].data["report"])
    sys.stdout.write(picture(report) if given.svg else page(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
