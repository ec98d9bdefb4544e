"""Evidence of speed under load, and the rules for it."""

from __future__ import annotations

from dataclasses import dataclass

from gates import verdict
from gates.verdict import Verdict
from pipeline import Result
from pipeline.numbers import need_numbers


class LoadReport(Result):
    """What a load on a service showed. Times in milliseconds, of requests that were answered."""

    tool: str
    seconds: float
    requests: int
    failed: int
    wanted_rate: float
    """Requests a second that were to be sent; 0: as many as possible."""
    p50: float
    p90: float
    p95: float
    p99: float
    longest: float
    errors: tuple[str, ...] = ()
    """Each kind of failure once, with its count."""

    @property
    def rate(self) -> float:
        """Requests a second that were sent."""
        return self.requests / self.seconds if self.seconds > 0 else 0.0

    @property
    def error_rate(self) -> float:
        """Failed of all requests, 0 to 1."""
        return self.failed / self.requests if self.requests else 1.0

    def reusable(self) -> bool:
        """Only success is reused: requests that failed may have been the machine's fault."""
        return self.requests > 0 and self.failed == 0

    def summary(self) -> str:
        return (
            f"{self.requests:,} requests, {self.rate:.0f}/s, {self.failed} failed, "
            f"p50 {self.p50:.0f} ms, p95 {self.p95:.0f} ms, p99 {self.p99:.0f} ms"
        )


@dataclass(frozen=True)
class WithinBudget:
    """Latency at most so many milliseconds, errors at most so many of all requests (0 to 1), the rate held."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    errors: float = 0.0
    requests: int = 1
    """Fewer requests than this prove nothing."""
    held: float = 0.9
    """Of the wanted rate, the part that has to be reached."""

    def __post_init__(self) -> None:
        need_numbers(self)

    def __call__(self, report: LoadReport) -> Verdict:
        limits = [(name, limit) for name in ("p50", "p95", "p99") if (limit := getattr(self, name)) is not None]
        wanted = ", ".join(
            [f"{name} <= {limit:g} ms" for name, limit in limits]
            + [f"errors <= {self.errors:.2%}", f"at least {self.requests} requests"]
        )
        if report.requests < max(self.requests, 1):
            return verdict.error("WithinBudget", f"{report.requests} requests were sent", wanted=wanted)
        facts = [f"{name} is {getattr(report, name):.1f} ms" for name, limit in limits if not getattr(report, name) <= limit]
        if report.error_rate > self.errors:
            facts += [f"{report.error_rate:.2%} of the requests failed", *report.errors]
        if report.wanted_rate and report.rate < self.held * report.wanted_rate:
            facts.append(f"{report.rate:.1f} of {report.wanted_rate:g} requests/s were reached")
        if facts:
            return verdict.failed("WithinBudget", report.summary(), *facts, wanted=wanted)
        return verdict.passed("WithinBudget", report.summary(), wanted=wanted)


@dataclass(frozen=True)
class NotSlower:
    """The median and the 95th percentile at most `ratio` times the baseline's, and `grace` milliseconds."""

    ratio: float = 1.25
    grace: float = 2.0
    requests: int = 30

    def __post_init__(self) -> None:
        need_numbers(self)

    def __call__(self, report: LoadReport, baseline: LoadReport) -> Verdict:
        wanted = f"p50 and p95 at most {self.ratio:g}x the baseline + {self.grace:g} ms, from {self.requests} requests each"
        for which, one in (("the report", report), ("the baseline", baseline)):
            if one.requests - one.failed < self.requests:
                return verdict.error("NotSlower", f"{which} has {one.requests - one.failed} answered requests", wanted=wanted)
        pairs = [(name, getattr(report, name), getattr(baseline, name)) for name in ("p50", "p95")]
        said = ", ".join(f"{name} {now:.1f} ms (baseline {before:.1f} ms)" for name, now, before in pairs)
        if all(now <= before * self.ratio + self.grace for _, now, before in pairs):
            return verdict.passed("NotSlower", said, wanted=wanted)
        return verdict.failed("NotSlower", said, wanted=wanted)
