"""How much the tests against naive models try: little beside all others, and as much as LOCKGATE_EXAMPLES says."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def examples(few: int, *, steps: int = 30) -> settings:
    """That many programs of so many steps, unless LOCKGATE_EXAMPLES names another number."""
    number = int(os.environ.get("LOCKGATE_EXAMPLES") or few)
    return settings(
        max_examples=number,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
