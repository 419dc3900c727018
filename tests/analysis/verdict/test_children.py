"""Slab caches of memory cgroups (before 5.9): what is spread over them counts together."""

from __future__ import annotations

from dataclasses import replace

from crashext.analysis.verdict.facts import HolderFact
from tests.analysis.verdict.test_verdict import HEALTHY, MIB, TOTAL, cache, only, split, unreachable

NAMES = [f"kmalloc-64({n}:service{n})" for n in range(40)]


def test_a_leak_is_summed_over_the_caches_of_cgroups() -> None:
    size = 48 << 10  # of each: too little to accuse anybody
    some = tuple(unreachable(size + 64 * (n == "kmalloc-64"), n) for n in ("kmalloc-64", *NAMES))
    assert only(replace(HEALTHY, unreachable=some[:1])).kind == "healthy"
    found = only(replace(HEALTHY, unreachable=some))
    assert (found.kind, found.culprit.cache, found.bytes) == ("leak", "kmalloc-64", 41 * size + 64)
    assert found.says.startswith(f"{41 * (size // 64) + 1:,} kmalloc-64 objects")
    assert any(
        line.startswith("in 41 caches, those of memory cgroups included: kmalloc-64, ")
        for line in found.evidence
    )
    assert found.next == "leakscan kmalloc-64"


def test_the_child_that_has_most_is_the_one_to_look_at() -> None:
    some = (unreachable(MIB, "dentry"), unreachable(2 * MIB, "dentry(7:a b)"))
    found = only(replace(HEALTHY, unreachable=some))
    assert (found.culprit.cache, found.next) == ("dentry", "leakscan 'dentry(7:a b)'")


def test_a_leak_of_one_child_alone_keeps_its_name() -> None:
    found = only(replace(HEALTHY, unreachable=(unreachable(MIB, NAMES[3]),)))
    assert found.culprit.cache == NAMES[3]
    assert not any("of memory cgroups" in line for line in found.evidence)


def test_holes_of_all_children_are_one_fragmentation() -> None:
    caches = tuple(cache(n, TOTAL // 400, use=0.2) for n in NAMES)
    found = only(replace(HEALTHY, caches=caches))
    assert (found.kind, found.culprit.cache) == ("fragmentation", "kmalloc-64")
    assert found.next == f"leakscan '{NAMES[0]}'"


def test_what_can_be_reclaimed_is_summed() -> None:
    caches = tuple(cache(f"dentry({n}:x)", TOTAL // 50, reclaimable=True) for n in range(10))
    found = only(replace(HEALTHY, caches=caches))
    assert (found.kind, found.culprit.cache, found.bytes) == (
        "reclaimable",
        "dentry",
        10 * (TOTAL // 50),
    )


def test_a_root_that_holds_objects_of_every_child_holds_them_all() -> None:
    size = TOTAL // 400
    caches = tuple(cache(n, size) for n in NAMES)
    holders = tuple(HolderFact(n, "queue", "mod", size // 64, size, 0.9) for n in NAMES)
    facts = replace(
        HEALTHY, caches=caches, holders=holders, split=split(slab_unreclaimable=40 * size)
    )
    found = only(facts)
    assert (found.kind, found.culprit.cache, found.culprit.module) == (
        "held-growth",
        "kmalloc-64",
        "mod",
    )
    assert found.bytes == 40 * size
