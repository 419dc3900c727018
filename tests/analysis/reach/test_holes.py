"""Nobody is accused through pages that a dump lacks, and what they cannot explain is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from crashext.analysis import described
from crashext.analysis.origin import callers
from crashext.analysis.orphans import orphan_report, scan_orphans
from crashext.analysis.reach.group_reach import reachability_of
from crashext.analysis.reach.holes import orphans_by_holes
from crashext.analysis.reach.reachability import Class
from crashext.analysis.results.evidence import HIDDEN
from crashext.analysis.results.reports import OrphanReport
from crashext.analysis.settings import DEFAULT_THRESHOLD, MEMORY_BUDGET, Settings
from crashext.analysis.verdict.rules import judge
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from tests.analysis.verdict.test_verdict import HEALTHY, MIB, unreachable
from tests.kernel.whole import DIRECT, PAGE, VMEMMAP, Kernel, class_of

SETTINGS = Settings(samples=1000, seed=0, threshold=DEFAULT_THRESHOLD, metric="levenshtein", hops=1)
INODES, LEAKED = 320, 200


def kernel_with_a_hole(leaked: int = LEAKED) -> Kernel:
    """Tables in a list, each with a child; the page of 16 tables is lost; others are leaked."""
    kernel = Kernel()
    tables = []
    for i in range(INODES):
        child = kernel.object("kmalloc-64", *([0x1000 + i] * 8))
        tables.append(kernel.object("kmalloc-256", child, 7))
    kernel.variable("tables", *tables)
    for i in range(leaked):
        kernel.object("kmalloc-96", *([0x2000 + i] * 12))
    kernel.lose(tables[40] & ~0xFFF)
    return kernel


def report(kernel: Kernel) -> OrphanReport:
    return scan_orphans(kernel.view(), SETTINGS, silent, MEMORY_BUDGET).report


def test_what_a_missing_page_accounts_for_is_not_called_leaked() -> None:
    found = report(kernel_with_a_hole())
    hidden = [g for g in found.orphans if g.explanation == HIDDEN]
    assert {g.cache for g in hidden} == {"kmalloc-64"}
    assert sum(g.heads for g in hidden) == 16
    assert {c.cache for c in found.caches} == {"kmalloc-96"}
    assert sum(g.heads for g in found.orphans if not g.explanation) == LEAKED


def test_a_verdict_does_not_ask_who_allocated_what_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    rank = callers.rank_callers

    def noted(view: KernelView, cache: SlabCache, *rest: Any) -> Any:
        asked.append(cache.name)
        return rank(view, cache, *rest)

    monkeypatch.setattr(described, "rank_callers", noted)
    kernel = kernel_with_a_hole()
    whole = report(kernel)
    assert set(asked) == {"kmalloc-64", "kmalloc-96"}
    asked.clear()
    found = orphan_report(kernel.marked(), SETTINGS, silent)
    assert set(asked) == {"kmalloc-96"}
    accused = [[g for g in r.orphans if not g.explanation] for r in (whole, found)]
    assert accused[0] == accused[1]
    assert (found.totals, found.caches) == (whole.totals, whole.caches)


def test_a_cache_that_missing_objects_never_point_at_is_explained_by_no_more_than_a_few() -> None:
    kernel = kernel_with_a_hole()
    marked = kernel.marked()
    most = dict(
        zip([c.name for c in marked.view.caches.all], orphans_by_holes(marked), strict=True)
    )
    assert most["kmalloc-64"] >= 32
    assert most["kmalloc-96"] < 20


def test_a_dump_that_lacks_nothing_explains_nothing() -> None:
    kernel = Kernel()
    for i in range(5):
        kernel.object("kmalloc-96", *([i] * 12))
    assert not np.any(orphans_by_holes(kernel.marked()))
    assert all(not g.explanation for g in report(kernel).orphans)


def test_pages_without_a_struct_page_may_hold_anything() -> None:
    """What is in them points at others, as if they were variables; what is missing may be slabs."""
    kernel = Kernel()
    held = [kernel.object("kmalloc-96", *([i + 1] * 12)) for i in range(100)]
    kernel.variable("first", held[0])
    kernel.align(64)  # a page of struct pages
    page = kernel.page()
    gone = kernel.page()
    for i, address in enumerate(held):
        kernel.write(page + 8 * i, address)
    maps = VMEMMAP + 64 * ((page - DIRECT) // PAGE)
    assert set(class_of(kernel.marked(), *held[1:])) == {Class.STRUCTURE}
    kernel.lose(kernel.host.mapped.pop(maps))
    kernel.lose(gone)
    marked = kernel.marked()
    assert marked.frames.missing == 64
    assert set(class_of(marked, *held)) == {Class.HELD}
    assert marked.references.coverage.missing_slab == 1
    assert np.any(orphans_by_holes(marked))


def test_a_kernel_newer_than_any_tested_is_said_to_be_so() -> None:
    for release, newer in (("7.2.13+deb14-amd64", 0), ("7.3.0-rc1", 1), ("10.0", 1), ("odd", 0)):
        kernel = Kernel()
        kernel.object()
        kernel.host._info = replace(kernel.host.info(), release=release)
        notes = reachability_of(kernel.marked()).notes
        assert sum("newer than 7.2, the newest that was tested" in note for note in notes) == newer


@pytest.mark.parametrize("misread", [False, True])
def test_of_a_newer_kernel_the_self_check_decides_whether_anybody_is_accused(misread: bool) -> None:
    """What it changed moved the variables that hold everything: then the mark doubts itself."""
    kernel = Kernel()
    kernel.host._info = replace(kernel.host.info(), release="8.0.1")
    for number in range(14):
        kept = [kernel.object(f"kmalloc-{64 + 8 * number}", 5) for _ in range(20)]
        if not misread:
            kernel.variable(f"holder{number}", *kept)
    lost = [kernel.object("kmalloc-512", i) for i in range(400)]
    seen = reachability_of(kernel.marked())
    assert any("8.0 is newer than" in note for note in seen.notes)
    assert bool(seen.misgivings) == misread
    assert set(class_of(kernel.marked(), *lost)) == {Class.ORPHAN}
    facts = replace(HEALTHY, reachability=seen, unreachable=(unreachable(100 * MIB),))
    (verdict,) = judge(facts)
    assert verdict.kind == ("cannot-tell" if misread else "leak")
    assert any("8.0 is newer than" in line for line in verdict.against)


def test_pages_that_nobody_knows_may_be_in_use_where_slab_pages_are_missing() -> None:
    """The record of a module's memory was in a missing page: what its variables hold is held."""
    for lost in (False, True):
        kernel = Kernel()
        spare = kernel.object("kmalloc-256")
        kernel.variable("spare", spare)
        held = [kernel.object("kmalloc-96", *([i + 1] * 12)) for i in range(100)]
        page = kernel.page()
        for i, address in enumerate(held):
            kernel.write(page + 8 * i, address)
        if lost:
            kernel.lose(spare & ~0xFFF)
        classes = class_of(kernel.marked(), *held)
        assert set(classes) == {Class.HELD if lost else Class.STRUCTURE}
