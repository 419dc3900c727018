"""Numbers that look like physical addresses of lost pages, where much is lost."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from crashext.analysis.reach import chance
from crashext.analysis.reach.chance import _beyond_chance
from crashext.analysis.reach.reachability import Reach
from tests.fake import layout
from tests.kernel.whole import CALLER, DIRECT, PAGE, Kernel

PAGES = 1024


@pytest.fixture
def kernel() -> Kernel:
    return Kernel(PAGES)


def lose(kernel: Kernel, pages: int) -> list[int]:
    """So many pages that nobody holds, none the rest of another."""
    kernel.free_page()
    return [kernel.page() for _ in range(pages)]


def held(marked: Reach, pages: list[int]) -> int:
    nodes = marked.nodes.pointed_at(np.array(pages, np.uint64))
    return int(marked.marks.reached[nodes].sum())


@pytest.mark.parametrize(("lost", "found"), [(7, 1), (64, 0)])
def test_where_much_is_lost_a_number_alone_holds_nothing(
    kernel: Kernel, lost: int, found: int
) -> None:
    pages = lose(kernel, lost)
    kernel.variable("known", kernel.object("kmalloc-64", 0, pages[3] - DIRECT))
    assert held(kernel.marked(), pages) == found


def test_a_ring_of_addresses_holds_where_much_is_lost(kernel: Kernel) -> None:
    pages = lose(kernel, 64)
    ring = [page - DIRECT for page in pages[:8]]
    kernel.variable("known", kernel.object("kmalloc-128", *ring))
    assert held(kernel.marked(), pages) == len(ring)


def test_a_ring_of_which_most_is_held_otherwise_holds_the_rest(kernel: Kernel) -> None:
    """User memory, and one page that only the device knows."""
    users = [kernel.user_page() for _ in range(100)]
    pages = lose(kernel, 64)
    ring = [page - DIRECT for page in (*users, pages[5])]
    kernel.variable("known", kernel.object("kmalloc-1024", *ring))
    assert held(kernel.marked(), pages) == 1


def test_a_ring_holds_beyond_what_is_read_of_a_large_area(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chance, "_MOST_READ", 2 * PAGE)
    ring = kernel.area(3)
    kernel.variable("known", ring)
    pages = lose(kernel, 64)
    kernel.write(ring + 2 * PAGE, *(page - DIRECT for page in pages[:8]))
    assert held(kernel.marked(), pages) == 8


def test_a_ring_holds_though_a_page_beside_it_is_not_in_the_dump(kernel: Kernel) -> None:
    ring = kernel.area(3)
    kernel.variable("known", ring)
    pages = lose(kernel, 64)
    kernel.write(ring + 2 * PAGE, *(page - DIRECT for page in pages[:8]))
    kernel.lose(kernel.host.mapped[ring])
    assert held(kernel.marked(), pages) == 8


@pytest.mark.parametrize("addresses", [True, False])
def test_the_same_place_of_other_objects_says_whether_it_has_addresses(
    kernel: Kernel, addresses: bool
) -> None:
    """Of a place that has numbers, one that hits a lost page says no more than the others."""
    pages = lose(kernel, 64)
    free = [(PAGES - 1 - i) * PAGE for i in range(60)]
    said = [page - DIRECT for page in pages[:6]] if addresses else [*free, pages[9] - DIRECT]
    kernel.variable("known", *(kernel.object("kmalloc-64", 0, 0, number) for number in said))
    assert held(kernel.marked(), pages) == (len(said) if addresses else 0)


def test_a_timers_flags_hold_nothing_however_little_is_lost(kernel: Kernel) -> None:
    timer = layout(
        "struct timer_list", 40, entry=(0, 16), expires=(16, 8), function=(24, 8), flags=(32, 4)
    )
    kernel.align(64)
    page = kernel.page()
    kernel.variable("known", kernel.object("kmalloc-64", 0, 0, 7, CALLER, page - DIRECT))
    assert held(kernel.marked(), [page]) == 1
    kernel.host.layouts["struct timer_list"] = timer
    assert held(kernel.marked(), [page]) == 0


@pytest.mark.parametrize(("tries", "hits"), [(1, 1), (5, 2), (40, 7), (200, 12), (200, 40)])
@pytest.mark.parametrize("share", [0.002, 0.06, 0.5])
def test_what_is_beyond_chance_is_what_a_binomial_distribution_says(
    tries: int, hits: int, share: float
) -> None:
    tail = sum(
        comb(tries, n) * share**n * (1 - share) ** (tries - n) for n in range(hits, tries + 1)
    )
    hit = np.arange(tries) < hits
    assert _beyond_chance(hit, share) == (tail < 0.01)


def test_without_a_hit_or_without_a_chance() -> None:
    hit = np.ones(3, np.bool_)
    assert [_beyond_chance(~hit, 0.1), _beyond_chance(hit, 1.0), _beyond_chance(hit, 0.0)] == [
        False,
        False,
        True,
    ]
