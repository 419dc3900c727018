"""Which place of a module asked for the pages that nothing reaches, by the orders of the blocks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from crashext.analysis.origin import page_callers
from crashext.analysis.results.callsites import Callers
from crashext.analysis.results.evidence import UnreachableMemory
from crashext.hosts.base import Module, Symbol
from crashext.kernel.origin.entrypoints import ALLOCATING, Kind
from crashext.kernel.origin.fitting import Request
from crashext.kernel.slab.view import KernelView

TEXT = 0xFFFFFFFFC0000000
PAGES = next(e for e in ALLOCATING if e.kind is Kind.PAGES)


def place(number: int, name: str, *orders: int) -> Request:
    function = Symbol(name, TEXT + 0x100 * number, 0x100, "leaky")
    return Request(function.address + 0x10, PAGES, False, function, (), orders, None, 5)


def callers(
    monkeypatch: pytest.MonkeyPatch, places: list[Request], orders: dict[int, int]
) -> Callers:
    host = SimpleNamespace(modules=lambda: [Module("leaky", ((TEXT, TEXT + 0x10000),))])
    known = SimpleNamespace(of=lambda kinds, areas: places if Kind.PAGES in kinds else [])
    monkeypatch.setattr(page_callers, "requests_of", lambda host, caches: known)
    count = sum(orders.values())
    memory = UnreachableMemory(
        "pages", "text", "leaky", count, count, count << 12, tuple(orders.items()), ()
    )
    view = cast(KernelView, SimpleNamespace(host=host, caches=None))
    found = page_callers.with_callers(view, memory).callers
    assert found is not None
    return found


def test_one_place_for_blocks_of_all_orders_beats_places_of_one_order_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = [place(i, "pool", order) for i, order in enumerate((0, 1, 2, 0))]
    found = callers(monkeypatch, [*pool, place(9, "leak")], {0: 26, 1: 25, 2: 25, 3: 24})
    first: Any = found.sites[0]
    assert (first.site.function, found.clear, found.equals) == ("leak", True, 1)
    assert first.reasons[-1] == "asks for an order that it works out"
    assert found.sites[1].reasons[-1].startswith("asks for order 0, as 26.0 % of them are")


def test_blocks_of_one_order_are_those_of_the_place_that_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few blocks that were cut wrongly change nothing."""
    found = callers(
        monkeypatch, [place(0, "any"), place(1, "two", 2), place(2, "three", 3)], {2: 990, 3: 10}
    )
    assert found.sites[0].site.function == "two"
    assert found.sites[0].probability > found.sites[1].probability > found.sites[2].probability
    assert (found.clear, found.equals) == (False, 2)  # who works an order out may always get 2


def test_one_place_of_the_one_order_that_there_is_stands_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = callers(monkeypatch, [place(1, "two", 2), place(2, "three", 3)], {2: 990, 3: 10})
    assert (found.sites[0].site.function, found.clear) == ("two", True)


def test_equal_places_are_said_to_be_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    found = callers(monkeypatch, [place(0, "a", 1), place(1, "b", 1)], {1: 100})
    assert (found.clear, found.equals) == (False, 2)
    assert found.step
