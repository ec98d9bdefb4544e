"""Tests split between several stages, by how long they took."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from gates.tests import Case, TestReport
from pipeline import Blob, FanOut, Stage, StageFailed, WiringError, Work
from stages.coverage import json_action, measured
from stages.pytest import UnitTests
from stages.scripts import combine


class SplitTests(FanOut[TestReport, TestReport], UnitTests):
    """pytest over the test files of `source` in up to `into` stages at once; together they give one report.

    All fields but `into` and `files` are those of `UnitTests`, and mean the same for each part. A file is the least that is
    moved: the files that lie below `tests` and whose names match one of `files` are divided so that the parts take equally
    long, by what each took when all of them last passed here. A file that was never measured counts as one that takes as long as
    the others do on average.

    Raises StageFailed where no file matches.
    """

    into: int = 4
    files: tuple[str, ...] = ("test_*.py", "*_test.py")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.into < 1:
            raise WiringError(f"SplitTests has its tests split into {self.into} parts", right="1 or more")

    async def parts(self, work: Work) -> Mapping[str, Stage[TestReport]]:
        found = chosen((entry.path for entry in work.store.entries(work[self.source])), self.tests, self.files)
        if not found:
            raise StageFailed(
                f"no file below {' or '.join(self.tests)} is called {' or '.join(self.files)}",
                right="test files, or other `files`",
            )
        latest = work.latest(self)
        shares = divided(found, seconds_by_file(latest.cases) if latest else {}, self.into)
        return {str(number): self._part(share) for number, share in enumerate(shares, start=1)}

    def _part(self, tests: tuple[str, ...]) -> UnitTests:
        return UnitTests(
            source=self.source,
            environment=self.environment,
            tests=tests,
            paths=self.paths,
            packages=self.packages,
            markers=self.markers,
            args=self.args,
            services=self.services,
            env=self.env,
            cover=self.cover,
            reruns=self.reruns,
            timeout=self.timeout,
            retry=self.retry,
            resources=self.resources,
        )

    async def join(self, work: Work, parts: Mapping[str, TestReport]) -> TestReport:
        reports = tuple(parts.values())
        ran = tuple(report for report in reports if report.cases)
        return TestReport(
            tool=reports[0].tool,
            cases=tuple(case for report in reports for case in report.cases),
            report=work.store.put(joined([work.store.read(report.report) for report in reports])),
            coverage=await self._coverage(work, ran) if self.cover and ran else None,
        )

    async def _coverage(self, work: Work, reports: tuple[TestReport, ...]) -> Blob:
        program = work.store.put_file(Path(combine.__file__))
        action = json_action(measured(reports), work[self.source], work[self.environment], program)
        result = await work.execute(replace(action, outputs=("coverage.data",)))
        return result.require().output("coverage.data").blob


def chosen(paths: Iterable[str], tests: tuple[str, ...], files: tuple[str, ...]) -> tuple[str, ...]:
    """The paths below one of `tests`, or one of them itself, whose names match one of `files`; sorted."""
    places = tuple(posixpath.normpath(test) for test in tests)
    return tuple(
        sorted(
            path
            for path in paths
            if any(place in (".", path) or path.startswith(f"{place}/") for place in places)
            and any(fnmatchcase(posixpath.basename(path), pattern) for pattern in files)
        )
    )


def seconds_by_file(cases: Iterable[Case]) -> dict[str, float]:
    """How long the tests of each file took together."""
    found: dict[str, float] = {}
    for case in cases:
        found[case.file] = found.get(case.file, 0.0) + case.seconds
    return found


def divided(files: tuple[str, ...], seconds: Mapping[str, float], into: int) -> list[tuple[str, ...]]:
    """The files in up to `into` shares that take equally long, each sorted: the longest first, to whoever has least.

    No share takes longer than 4/3 of what the best division could do (R. L. Graham, Bounds on Multiprocessing Timing
    Anomalies, SIAM Journal on Applied Mathematics 17, 1969), by these measurements.

    >>> divided(("a", "b", "c", "d"), {"a": 5, "b": 3, "c": 3}, 2)
    [('a', 'c'), ('b', 'd')]
    """
    known = [seconds[file] for file in files if file in seconds]
    average = sum(known) / len(known) if known else 1.0
    shares: list[list[str]] = [[] for _ in range(min(into, len(files)))]
    loads = [0.0] * len(shares)
    for file in sorted(files, key=lambda file: (-seconds.get(file, average), file)):
        least = min(range(len(shares)), key=lambda number: (loads[number], len(shares[number]), number))
        shares[least].append(file)
        loads[least] += seconds.get(file, average)
    return [tuple(sorted(share)) for share in shares if share]


def joined(reports: Iterable[bytes]) -> bytes:
    """JUnit reports as one, with the suites of all of them."""
    from xml.etree.ElementTree import Element, tostring

    from defusedxml import ElementTree

    whole = Element("testsuites")
    for report in reports:
        if report:
            root = ElementTree.fromstring(report)
            whole.extend([root] if root.tag == "testsuite" else root)
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + tostring(whole)
