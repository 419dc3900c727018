"""A dump that is not whole accuses nobody through what it lacks, and is not called healthy."""

from __future__ import annotations

from dataclasses import replace

from crashext.analysis.partial import nothing
from crashext.analysis.results.evidence import Reachability
from crashext.analysis.verdict.rules import judge
from crashext.analysis.verdict.thresholds import LOST
from crashext.hosts.base import Info
from tests.analysis.verdict.test_verdict import (
    BLIND,
    HEALTHY,
    LEAST_AREAS,
    MIB,
    areas,
    cache,
    only,
    split,
    unreachable,
)

DAMAGE = "truncated: its headers describe 2 bytes, it has 1; 1 of the 2 bytes are missing"
MISSING = round(1000 * LOST) + 1


def seen(missing: int) -> Reachability:
    return Reachability(1000 - missing, missing, 1, 1, 1, 1, slab_pages_missing=missing)


def test_much_missing_of_a_damaged_dump_accuses_nobody() -> None:
    """Not even where content names a module: a filesystem's tables are its objects' only roots."""
    facts = replace(
        areas(LEAST_AREAS, LEAST_AREAS), unreachable=(unreachable(100 * MIB),), damage=DAMAGE
    )
    little = judge(replace(facts, reachability=seen(MISSING - 1)))
    assert [(v.kind, v.where) for v in little] == [("leak", "slab"), ("leak", "vmalloc")]
    (found,) = judge(replace(facts, reachability=seen(MISSING)))
    assert (found.kind, found.where, found.confidence) == ("cannot-tell", "slab", "low")
    assert (found.culprit.cache, found.bytes) == ("kmalloc-64", 100 * MIB)
    assert "look unreachable" in found.says
    assert "1.1 % of kernel memory" in found.says


def test_much_missing_of_a_whole_dump_is_makedumpfiles_filter() -> None:
    """Pages of zeros count as missing there: what content accuses stays accused."""
    facts = replace(HEALTHY, unreachable=(unreachable(100 * MIB),), reachability=seen(500))
    assert only(facts).kind == "leak"


def test_a_damaged_dump_where_nothing_is_wrong_is_healthy_only_if_little_is_missing() -> None:
    facts = replace(HEALTHY, damage=DAMAGE)
    assert only(replace(facts, reachability=seen(MISSING - 1))).kind == "healthy"
    found = only(replace(facts, reachability=seen(MISSING)))
    assert (found.kind, found.where, found.confidence) == ("cannot-tell", "none", "low")
    assert DAMAGE in found.says


def test_without_the_memory_map_the_counters_name_the_largest_cache() -> None:
    large = cache("kmalloc-32", 500 * MIB)
    facts = replace(
        BLIND,
        split=split(slab_unreclaimable=500 * MIB),
        caches=(large,),
        limits=("no struct page",),
        damage=DAMAGE,
    )
    (found,) = judge(facts)
    assert (found.kind, found.culprit.cache) == ("cannot-tell", "kmalloc-32")
    assert "not seen: no struct page" in found.against
    nobody = only(replace(facts, split=split(), caches=()))
    assert nobody.kind == "cannot-tell"
    assert nobody.says.endswith("; no struct page")


def test_a_dump_without_the_kernels_variables_says_so() -> None:
    info = Info("6.1", "x86_64", 4096, False, "vmcore", {}, DAMAGE)
    found = only(nothing(info, "its variables are missing"))
    assert found.kind == "cannot-tell"
    assert found.says == f"cannot tell: the dump is {DAMAGE}; its variables are missing"
