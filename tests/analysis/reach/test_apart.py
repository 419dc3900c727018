"""Of a cache with very many slabs few are read; nobody is accused of what the others hold."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.analysis.reach import apart, sampling
from crashext.analysis.reach.group_reach import reachability_of
from crashext.analysis.reach.reachability import Class
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


def test_what_an_unread_table_in_use_holds_is_no_orphan() -> None:
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


def test_what_lost_tables_hold_is_lost_and_they_are_not_searched() -> None:
    kernel, tables, child = crowded(held=False)
    kernel.write(unread(kernel, tables), child)
    marked = kernel.marked()
    assert not marked.searched
    assert class_of(marked, child) == [Class.ORPHAN]
    notes = reachability_of(marked).notes
    assert any("at most 52.7 % of the rest hold anything else (95 %)" in note for note in notes)


def test_too_many_slabs_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "MOST_SEARCHED", 8 * 4096)
    kernel, _, child = crowded(held=True)
    marked = kernel.marked()
    assert not marked.searched
    assert class_of(marked, child) == [Class.ORPHAN]
