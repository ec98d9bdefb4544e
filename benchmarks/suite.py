"""The project's own tests: how long they take, and how much of the machine and of the rules they reach."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure, python, seconds


def measure() -> Iterator[Figure]:
    """All tests once as `./dev test` runs them, then those of the machine and the rules with lines and branches counted."""
    yield Figure("all tests on 2 processors", seconds(python("-m", "pytest", "-q")), "s", 360)
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as place:
        report = Path(place, "coverage.json")
        seconds(python("-m", "pytest", "-q", "tests/pipeline", "tests/gates", "--cov", f"--cov-report=json:{report}"))
        totals = json.loads(report.read_text())["totals"]
    reached = 100 * (totals["covered_lines"] + totals["covered_branches"]) / (totals["num_statements"] + totals["num_branches"])
    detail = (
        f"{totals['covered_lines']:,} of {totals['num_statements']:,} lines, "
        f"{totals['covered_branches']:,} of {totals['num_branches']:,} branches, by their own tests alone"
    )
    yield Figure("lines and branches of pipeline/ and gates/ that tests reach", reached, "%", 95, least=True, detail=detail)
