"""Of a cache with very many slabs few are read; nobody is accused of what the others hold."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.analysis.reach import apart, sampling
from crashext.analysis.reach import unread as unread_slabs
from crashext.analysis.reach.group_reach import reachability_of
from crashext.analysis.reach.reachability import Class, Reach
from crashext.analysis.reach.totals import count, unreachable_of
from crashext.kernel.slab import thinning
from tests.kernel.whole import Kernel, class_of

TABLES, PER_SLAB = 640, 16


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinning, "MOST", 8)
    monkeypatch.setattr(thinning, "PENDING", 1)
    monkeypatch.setattr(sampling, "_TARGETS", 4 * PER_SLAB)


def crowded(held: bool) -> tuple[Kernel, list[int], int]:
    """Forty slabs of tables, which a page has a list of if they are `held`; and one more object."""
    kernel = Kernel()
    tables = [kernel.object("kmalloc-256", 7, 7) for _ in range(TABLES)]
    pages = [kernel.page() for _ in range(2)]
    for i, page in enumerate(pages):
        kernel.write(page, *(tables[i * 512 : i * 512 + 512] if held else ()))
    kernel.variable("lists", *pages)
    return kernel, tables, kernel.object("kmalloc-96", 1, 2)


def unread(kernel: Kernel, tables: list[int]) -> int:
    """A table in a slab that the mark does not read."""
    seen = kernel.marked().table.at(np.array(tables, np.uint64)) >= 0
    assert seen.any()
    assert not seen.all()
    return tables[int(np.flatnonzero(~seen)[0])]


def test_what_an_unread_table_in_use_holds_is_no_orphan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread_slabs, "_MOST_SLABS", 8)
    kernel, tables, child = crowded(held=True)
    marked = kernel.marked()
    assert class_of(marked, child) == [Class.ORPHAN]
    assert marked.searched
    kernel.write(unread(kernel, tables), child)
    marked = kernel.marked()
    assert class_of(marked, child) == [Class.HELD]
    # By what may be free, or lost as well: no certainty.
    assert marked.unsure[marked.table.at(np.array([child], np.uint64))].all()
    assert any("the rest was searched" in note for note in reachability_of(marked).notes)


def areas_and_pages(marked: Reach, area: int, page: int) -> list[bool]:
    """Whether they are reached."""
    nodes = marked.nodes.pointed_at(np.array([area, page], np.uint64))
    assert (nodes >= 0).all()
    found: list[bool] = marked.marks.reached[nodes].tolist()
    return found


def test_of_lost_tables_the_few_in_use_hold_what_they_hold() -> None:
    """All that were drawn are lost; two that were not, one behind the other, are not."""
    kernel, tables, child = crowded(held=False)
    area, page, task = kernel.area(1), kernel.page(), kernel.object("task_struct", 5)
    # An area's vm_struct, list entry and so on: nobody else knows the area.
    seen = kernel.marked().table.at(np.array(tables, np.uint64)) >= 0
    first, *_, second = (tables[i] for i in np.flatnonzero(~seen))
    lists = kernel.host.symbols["lists"]
    held_by_lists = int.from_bytes(kernel.host.read(lists, 8), "little")
    marked = kernel.marked()
    assert class_of(marked, child, task) == [Class.ORPHAN, Class.ORPHAN]
    assert areas_and_pages(marked, area, page) == [False, False]
    kernel.write(first, second)
    kernel.write(second, child, area, page, task)
    marked = kernel.marked()
    assert class_of(marked, child, task) == [Class.ORPHAN, Class.ORPHAN]
    kernel.write(held_by_lists, first)
    marked = kernel.marked()
    assert marked.followed
    assert not marked.searched
    assert class_of(marked, first, second, child, task) == [Class.HELD] * 4
    assert areas_and_pages(marked, area, page) == [True, True]
    lost = next(c for c in marked.view.caches.all if c.name == "kmalloc-256")
    found = count(marked, lost, unreachable_of(marked, lost))
    assert found.low < found.estimate == TABLES - 2 <= found.high
    notes = reachability_of(marked).notes
    assert any("2 more, to which pointers lead" in n for n in notes)


def test_what_lost_tables_hold_is_lost_and_they_are_not_searched() -> None:
    kernel, tables, child = crowded(held=False)
    kernel.write(unread(kernel, tables), child)
    marked = kernel.marked()
    assert not marked.searched
    assert class_of(marked, child) == [Class.ORPHAN]
    notes = reachability_of(marked).notes
    assert any("at most 52.7 % of the rest hold anything else (95 %)" in note for note in notes)


def test_where_too_many_slabs_would_be_searched_nobody_is_accused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apart, "MOST_SEARCHED", 8 * 4096)
    monkeypatch.setattr(unread_slabs, "_MOST_SLABS", 8)
    kernel, _, child = crowded(held=True)
    area, page = kernel.area(1), kernel.page()
    marked = kernel.marked()
    assert not marked.searched
    assert class_of(marked, child) == [Class.HELD]
    assert areas_and_pages(marked, area, page) == [True, True]
    assert marked.unsure[marked.table.at(np.array([child], np.uint64))].all()
    assert marked.spared == ("kmalloc-96", "vmalloc areas", "pages")
    assert any("not judged: slabs that were not" in n for n in reachability_of(marked).notes)
