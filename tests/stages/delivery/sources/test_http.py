"""Figures that a real page answers with."""

from __future__ import annotations

import json

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import WiringError
from stages.delivery.sources.http import HttpMetrics, HttpShare, at
from stages.delivery.sources.polled import Unknown
from tests.stages.delivery.sources.conftest import Pages
from tests.stages.delivery.sources.watching import Seen


def share(pages: Pages, **more: str) -> HttpShare:
    settings = {
        "url": f"http://127.0.0.1:{pages.port}/stats?group={{group}}",
        "bad": "/orders/failed",
        "of": "/orders/all",
        **more,
    }
    return HttpShare(name="orders", every=0.02, **settings)  # type: ignore[arg-type]  # texts


def told(pages: Pages, group: str, failed: object, total: object) -> None:
    pages.pages[f"/stats?group={group}"] = (200, json.dumps({"orders": {"failed": failed, "all": total}}))


def test_what_two_figures_grew_by_is_counted(pages: Pages) -> None:
    told(pages, "one", 7, 100)
    told(pages, "two", 0, 0)

    async def main() -> None:
        async with HttpMetrics(share(pages), print).watch({"one"}, {"two"}) as counted:
            seen = Seen(counted)
            await seen.known()
            told(pages, "one", 8, 150)
            told(pages, "two", 3, 5)
            await seen.reach((1, 50), (3, 5))

    anyio.run(main)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"orders": {"failed": NaN, "all": 9}}', "is no count: nan"),
        ('{"orders": {"failed": Infinity, "all": 9}}', "is no count: inf"),
        ('{"orders": {"failed": 0.5, "all": 9}}', "is no count: 0.5"),
        ('{"orders": {"failed": null, "all": 9}}', "is no count: None"),
        ('{"orders": {"failed": -1, "all": 9}}', "is no count: -1"),
        ('{"orders": {"failed": "1", "all": 9}}', "is no count: '1'"),
        ('{"orders": {"failed": true, "all": 9}}', "is no count: True"),
        ('{"orders": {"all": 9}}', "there is nothing at /orders/failed"),
        ("<html>", "is no JSON"),
    ],
)
def test_a_figure_that_is_no_count_is_unknown(pages: Pages, text: str, reason: str) -> None:
    told(pages, "one", 7, 100)
    told(pages, "two", 0, 0)

    async def main() -> None:
        said: list[str] = []
        async with HttpMetrics(share(pages), said.append).watch({"one"}, {"two"}) as counted:
            seen = Seen(counted)
            await seen.known()
            pages.pages["/stats?group=two"] = (200, text)
            await seen.unknown()
            assert reason in said[-1]
            told(pages, "two", 1, 2)
            await seen.known()

    anyio.run(main)


def test_a_page_that_is_nested_without_measure_or_too_long_is_unknown(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.delivery.sources.polled.LARGEST", 300_000)
    said: list[str] = []
    told(pages, "one", 0, 0)

    async def main() -> None:
        async with HttpMetrics(share(pages), said.append).watch({"one"}, {"one"}) as counted:
            for text, reason in (("[" * 200_000, "is no JSON"), ("1" * 300_001, "answers with more than 300,000 bytes")):
                pages.pages["/stats?group=one"] = (200, text)
                with anyio.fail_after(10):
                    while not (said and reason in said[-1]):
                        await anyio.sleep(0.01)
                assert counted.shares() == [None, None]

    anyio.run(main)


def test_a_page_that_is_not_there_is_unknown(pages: Pages) -> None:
    async def main() -> None:
        said: list[str] = []
        async with HttpMetrics(share(pages), said.append).watch({"one"}, {"two"}) as counted:
            assert counted.shares() == [None, None]
        assert said[0].endswith("answers 404")

    anyio.run(main)


def test_an_address_that_is_the_same_for_all_releases_and_a_path_that_is_no_pointer_are_refused(pages: Pages) -> None:
    with pytest.raises(WiringError, match="asks about all releases at once"):
        share(pages, url="http://127.0.0.1:1/stats")
    with pytest.raises(WiringError, match=r"orders\.failed is no JSON pointer") as refused:
        share(pages, bad=".orders.failed")
    assert "/orders/failed" in str(refused.value)


KEYS = st.text(alphabet="a/~01 é", max_size=4)


@given(keys=st.lists(KEYS, max_size=4), value=st.integers())
def test_a_pointer_finds_what_its_keys_lead_to(keys: list[str], value: int) -> None:
    document: object = value
    for key in reversed(keys):
        document = {key: document, key + "x": None}
    pointer = "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)
    assert at(document, pointer) == value
    with pytest.raises(Unknown):
        at(document, pointer + "/more")


@pytest.mark.parametrize("token", ["01", "-", "+1", "2", "²"])
def test_only_a_number_of_a_list_is_an_item_of_it(token: str) -> None:
    assert at([7, 8], "/1") == 8
    with pytest.raises(Unknown):
        at([7, 8], f"/{token}")
