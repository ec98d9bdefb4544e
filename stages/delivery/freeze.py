"""A freeze: operators let no rollout begin."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pipeline import StageFailed
from stages.delivery.hearing import because

if TYPE_CHECKING:
    from pipeline import Work


def check_not_frozen(work: Work) -> None:
    """Raise StageFailed while operators have frozen this stage, or all deployments.

    Whoever needs a lock asks once it has it, as a freeze may begin meanwhile; and after ways back, which no freeze stops.
    """
    from pipeline.order import freeze

    order = freeze(work.orders(standing=True), time.time())
    if order is None:
        return
    until = f" until {time.strftime('%Y-%m-%d %H:%M', time.localtime(order.until))}" if order.until else ""
    raise StageFailed(
        f"{order.by} has frozen deployments{until}{because(order.why)}",
        right="a time when nothing is frozen",
        next="python -m pipeline freeze --end",
    )
