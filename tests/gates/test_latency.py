"""Evidence of speed: which of it a later run may take."""

from __future__ import annotations

from typing import Any

import pytest

from gates import LoadReport


def report(**more: Any) -> LoadReport:
    times = dict.fromkeys(("p50", "p90", "p95", "p99", "longest"), 5.0)
    return LoadReport(**{"tool": "t", "seconds": 10, "requests": 100, "failed": 0, "wanted_rate": 10, **times, **more})


@pytest.mark.parametrize("more", [{}, {"wanted_rate": 0}, {"requests": 40}])
def test_a_load_that_was_answered_is_taken_again(more: dict[str, Any]) -> None:
    assert report(**more).reusable()


@pytest.mark.parametrize("more", [{"failed": 1}, {"requests": 0}])
def test_a_load_that_failed_or_was_never_sent_is_measured_again(more: dict[str, Any]) -> None:
    assert not report(**more).reusable()
