"""The overview's text: caches of one purpose under their sum, and nothing hostile in it."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from crashext.analysis.memory.growth import CacheGrowth, CallerGrowth
from crashext.analysis.results.estimate import Estimate
from crashext.analysis.verdict.facts import CacheFact, Facts
from crashext.analysis.verdict.verdict import Culprit, Verdict
from crashext.report.asking import Asking
from crashext.report.growth_text import print_growth
from crashext.report.verdict_text import cache_families, print_caches, print_verdicts
from tests.analysis.verdict.test_verdict import HEALTHY, cache, grown, unreachable

KIB = 1024
NAMES = {
    "kmalloc-64": 400,
    "kmalloc-cg-64": 300,
    "kmalloc-rcl-64": 200,
    "kmalloc-rnd-07-64": 40,
    "dma-kmalloc-64": 4,
    "filp": 800,
    "kmalloc-128": 100,
    "kmalloc-cg-128": 0,
}


def facts(*caches: CacheFact) -> Facts:
    return replace(HEALTHY, caches=caches)


def printed(known: Facts, verbose: bool = False) -> list[str]:
    console = Console(width=200, highlight=False, markup=False)
    with console.capture() as page:
        print_caches(known, console, verbose)
    return page.get().splitlines()


FAMILIES = facts(*(cache(name, size * KIB, 0.5) for name, size in NAMES.items()))


def test_a_family_ranks_by_its_sum_and_hides_no_member() -> None:
    lines = printed(FAMILIES, verbose=True)[1:]
    assert [line.split("  ")[1].strip() or line.split()[0] for line in lines] == [
        "kmalloc-64, 5 caches",
        "kmalloc-64",
        "kmalloc-cg-64",
        "kmalloc-rcl-64",
        "kmalloc-rnd-07-64",
        "dma-kmalloc-64",
        "filp",
        "kmalloc-128",  # the other has no slab
    ]
    assert "944.0 KiB" in lines[0]
    assert f"{944 * KIB // 128:,} objects,  50.0 % used" in lines[0]
    few = printed(FAMILIES)[1:]
    assert [line.split()[0] for line in few[1:5]] == [
        "kmalloc-64",
        "kmalloc-cg-64",
        "kmalloc-rcl-64",
        "2",
    ]
    assert "44.0 KiB" in few[4]


def test_what_is_known_stays_with_its_own_cache() -> None:
    judged = {"kmalloc-cg-64": Estimate.known(500), "kmalloc-64": Estimate.known(0)}
    known = replace(
        FAMILIES,
        caches=tuple(replace(c, unreachable=judged.get(c.name)) for c in FAMILIES.caches),
        # What hangs below them is of other caches: it is no part of this one's count.
        unreachable=(replace(unreachable(64 * 500, "kmalloc-cg-64"), below=Estimate.known(994)),),
    )
    (row,) = [line for line in printed(known) if "unreachable" in line]
    assert row.split()[0] == "kmalloc-cg-64"
    assert row.endswith("500 unreachable")


def test_children_of_memory_cgroups_are_one_family() -> None:
    named = cache_families([cache("dentry", 8 * KIB), cache("dentry(12:a.scope)", 4 * KIB)])
    assert [(name, len(members)) for name, members in named] == [("dentry", 2)]


def test_hostile_names_do_not_reach_the_terminal() -> None:
    evil = "EVIL\x1b[2J\x9b\u202e[bold]"
    console = Console(width=200, highlight=False, markup=False)
    verdict = Verdict("leak", "slab", Culprit(), 1, "low", evil, (evil,), (evil,), evil)
    growth = replace(
        grown(4096, name=evil),
        paths=(evil, evil),
        vmalloc=(CallerGrowth(evil, evil, 1, 4096),),
    )
    assert isinstance(growth.caches[0], CacheGrowth)
    with console.capture() as page:
        print_verdicts((verdict,), console, Asking())
        print_growth(growth, console, True)
        print_caches(facts(cache(evil, 4096), cache(f"{evil}(1:x)", 4096)), console, True)
    text = page.get()
    assert text.count("EVIL") >= 10
    assert all(c == "\n" or " " <= c <= "~" for c in text)
