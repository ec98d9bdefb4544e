"""Limits of time: what one cuts off is told from all else, and the next is not touched by it."""

from __future__ import annotations

import math

import anyio
import pytest

from pipeline import StageTimeout
from pipeline.limit import Limit


async def endless() -> None:
    await anyio.sleep_forever()


async def given(value: int) -> int:
    await anyio.lowlevel.checkpoint()
    return value


async def armed_later(limit: Limit) -> None:
    """Arm it once something goes on."""
    await anyio.lowlevel.checkpoint()
    limit.arm()


def test_what_takes_too_long_is_cut_off_and_what_follows_is_not() -> None:
    async def main() -> None:
        async with anyio.create_task_group() as group:
            with Limit() as limit:
                for _ in range(3):
                    group.start_soon(armed_later, limit)
                    with pytest.raises(StageTimeout, match=r"it took longer than 0\.01 s"):
                        await limit.within(0.01, "it", endless())
                    assert await limit.within(3600, "it", given(7)) == 7
                    await anyio.sleep(0.02)

    anyio.run(main)


def test_what_ends_in_time_leaves_no_limit_for_what_follows() -> None:
    async def main() -> None:
        async with anyio.create_task_group() as group:
            with Limit() as limit:
                group.start_soon(armed_later, limit)
                await limit.within(0.05, "it", anyio.sleep(0.01))
                assert limit._scope.deadline == math.inf
                await anyio.sleep(0.1)
                assert await limit.within(3600, "it", given(7)) == 7

    anyio.run(main)


def test_what_gives_a_result_although_it_was_cut_off_has_given_it() -> None:
    async def stubborn() -> int:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.05)
        return 7

    async def main() -> None:
        async with anyio.create_task_group() as group:
            with Limit() as limit:
                group.start_soon(armed_later, limit)
                assert await limit.within(0.01, "it", stubborn()) == 7
                await anyio.sleep(0.01)  # nor is what follows cut off

    anyio.run(main)


def test_an_error_on_the_way_out_is_told_instead() -> None:
    async def fails() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError("closing")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            with Limit() as limit:
                group.start_soon(armed_later, limit)
                with pytest.raises(KeyError, match="closing"):
                    await limit.within(0.01, "it", fails())
                await anyio.sleep(0.01)

    anyio.run(main)


def test_several_errors_on_the_way_out_leave_the_limit_whole() -> None:
    async def fails() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class() as error:
            raise BaseExceptionGroup("several", [error, ValueError("closing")]) from None

    async def main() -> None:
        async with anyio.create_task_group() as group:
            with Limit() as limit:
                for _ in range(2):
                    group.start_soon(armed_later, limit)
                    with pytest.raises(BaseExceptionGroup, match="several"):
                        await limit.within(0.01, "it", fails())
                    assert await limit.within(3600, "it", given(7)) == 7

    anyio.run(main)


def test_a_limit_that_holds_at_once_needs_nobody() -> None:
    async def main() -> None:
        with Limit(at_once=True) as limit:
            for _ in range(2):
                with pytest.raises(StageTimeout):
                    await limit.within(0.01, "it", endless())
                assert await limit.within(3600, "it", given(7)) == 7

    anyio.run(main)


def test_who_is_cancelled_from_outside_ran_out_of_no_time() -> None:
    async def main() -> None:
        with anyio.CancelScope() as outer:
            with Limit() as limit:
                outer.cancel()
                await limit.within(3600, "it", endless())
        assert outer.cancelled_caught

    anyio.run(main)


def test_who_is_cancelled_from_outside_when_time_is_up_stays_cancelled() -> None:
    async def both(outer: anyio.CancelScope, limit: Limit) -> None:
        await armed_later(limit)
        outer.cancel()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as outer, Limit() as limit:
                group.start_soon(both, outer, limit)
                await limit.within(0.0, "it", endless())
            assert outer.cancelled_caught
            await anyio.sleep(0.01)

    anyio.run(main)
