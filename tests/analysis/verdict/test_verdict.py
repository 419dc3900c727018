"""Each rule of the verdict on both sides of its thresholds, over numbers made up for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from crashext.analysis.memory.growth import CacheGrowth, CallerGrowth, Growth
from crashext.analysis.memory.memsplit import MemorySplit, Part
from crashext.analysis.results.estimate import Estimate
from crashext.analysis.results.evidence import Reachability, UnreachableMemory
from crashext.analysis.verdict import thresholds as rules
from crashext.analysis.verdict.facts import (
    AreaFact,
    BacklogFact,
    CacheFact,
    Facts,
    HolderFact,
    MountFact,
    PagesFact,
    PagesHolder,
    SiteFact,
    UnreachableFact,
)
from crashext.analysis.verdict.growth_rules import GROWN_LEAST, GROWN_SHARE
from crashext.analysis.verdict.rules import judge
from crashext.analysis.verdict.thresholds import excessive
from crashext.analysis.verdict.verdict import Verdict
from crashext.procfs.processes import Process

MIB, GIB = 1 << 20, 1 << 30
TOTAL = 1 * GIB
SEEN = Reachability(1000, 0, 1, 1, 1, 1)


def split(total: int = TOTAL, **parts: int) -> MemorySplit:
    """``slab_unreclaimable=1`` is the part named ``slab, unreclaimable``."""
    names = {"slab_unreclaimable": "slab, unreclaimable", "file_cache": "file cache"}
    found = [Part(names.get(n, n.replace("_", " ")), "kernel", size) for n, size in parts.items()]
    used = sum(p.bytes for p in found)
    return MemorySplit(total, (Part("free", "free", total - used), *found), 0)


HEALTHY = Facts(
    split=split(),
    caches=(),
    unreachable=(),
    explained=0,
    holders=(),
    areas=(),
    pages=PagesFact(0, 0, ()),
    backlog=BacklogFact(0, 0),
    processes=(),
    mounts=(),
    reachability=SEEN,
    limits=(),
)
BLIND = replace(HEALTHY, unreachable=None, reachability=None, pages=None, backlog=None)


def cache(
    name: str,
    size: int,
    use: float = 1.0,
    reclaimable: bool | None = False,
    slot: int = 64,
) -> CacheFact:
    slots = size // slot
    return CacheFact(name, size, size // 4096, int(slots * use), slots, slot, reclaimable)


def unreachable(
    size: int,
    name: str = "kmalloc-64",
    by: Literal["reachability", "kmemleak"] = "reachability",
    caller: str = "",
) -> UnreachableFact:
    return UnreachableFact(by, "slab", name, Estimate.known(size // 64), size, "mod", caller, ())


def process(**sizes: int) -> Process:
    return Process(7, "eater", sizes.pop("rss", 0), **sizes)


def kinds(facts: Facts) -> list[tuple[str, str]]:
    return [(v.kind, v.where) for v in judge(facts)]


def only(facts: Facts) -> Verdict:
    (found,) = judge(facts)
    return found


def test_a_mark_that_is_not_to_be_believed_accuses_nobody() -> None:
    wrong = replace(SEEN, misgivings=("5 of 9 tasks look unreachable",), notes=("a limit",))
    facts = replace(
        areas(LEAST_AREAS, LEAST_AREAS),
        unreachable=(unreachable(100 * MIB), unreachable(50 * MIB, "dentry")),
        pages=pages(LEAST_PAGES, LEAST_PAGES).pages,
        holders=held(LEAST_HELD).holders,
    )
    assert "leak" in dict(kinds(facts))
    found = judge(replace(facts, reachability=wrong))
    assert {v.kind for v in found} == {"cannot-tell"}
    (slab,) = (v for v in found if v.where == "slab")
    assert slab.bytes == 150 * MIB
    assert (slab.confidence, slab.evidence) == ("low", wrong.misgivings)
    assert slab.against == ("a limit",)


def test_what_kmemleak_said_stands_beside_a_mark_that_is_not_believed() -> None:
    wrong = replace(SEEN, misgivings=("5 of 9 tasks look unreachable",))
    facts = replace(
        HEALTHY,
        reachability=wrong,
        unreachable=(unreachable(MIB), unreachable(2 * MIB, "dentry", by="kmemleak")),
    )
    assert [(v.kind, v.bytes) for v in judge(facts)] == [("leak", 2 * MIB), ("cannot-tell", MIB)]


LEAST_LOST = rules.UNREACHABLE_LEAST
LEAST_AREAS = int(rules.AREAS_SHARE * TOTAL) + 1
LEAST_PAGES = int(rules.PAGES_SHARE * TOTAL) + 1
LEAST_LEAKED_PAGES = int(rules.PAGES_UNREACHABLE_SHARE * TOTAL) + 1
LEAST_HELD = int(rules.HELD_SHARE * TOTAL) + 1
LEAST_WASTE = int(rules.WASTE_SHARE * TOTAL) + 4096
LEAST_USER = int(rules.USER_SHARE * TOTAL)
LEAST_TABLES = int(rules.TABLES_SHARE * TOTAL) + 1
LEAST_HUGETLB = int(rules.HUGETLB_SHARE * TOTAL) + 1
LEAST_RECLAIMABLE = int(rules.RECLAIMABLE_SHARE * TOTAL) + 1


def areas(size: int, unnamed: int | None) -> Facts:
    return replace(HEALTHY, areas=(AreaFact("take", "mod", 1, size // 4096, size, unnamed),))


def pages(
    size: int,
    unreachable: int | None,
    *groups: tuple[str, str, float],
    module: str = "mod",
    disagreement: int | None = 0,
    held: tuple[PagesHolder, ...] = (),
) -> Facts:
    memory = (
        UnreachableMemory("pages", "text: so", module, 1, 1, unreachable or 0, ((0, 1),), ()),
    )
    return replace(
        HEALTHY,
        pages=PagesFact(
            size,
            unreachable,
            groups,
            memory=memory if unreachable else (),
            disagreement=disagreement,
            held=held,
        ),
    )


def held(size: int, share: float = 0.9, root: str = "queue") -> Facts:
    return replace(
        HEALTHY,
        caches=(cache("kmalloc-64", size),),
        holders=(HolderFact("kmalloc-64", root, "mod", size // 64, size, share),),
    )


def waiting(callbacks: int, frees: int) -> Facts:
    return replace(HEALTHY, backlog=BacklogFact(callbacks, frees))


@pytest.mark.parametrize(
    ("enough", "too_little", "expected"),
    [
        (
            replace(HEALTHY, unreachable=(unreachable(LEAST_LOST),)),
            replace(HEALTHY, unreachable=(unreachable(LEAST_LOST - 64),)),
            ("leak", "slab"),
        ),
        (
            replace(HEALTHY, split=split(slab=500 * MIB), unreachable=(unreachable(MIB // 2),)),
            replace(HEALTHY, split=split(slab=501 * MIB), unreachable=(unreachable(MIB // 2),)),
            ("leak", "slab"),
        ),
        (
            areas(LEAST_AREAS, LEAST_AREAS),
            areas(LEAST_AREAS - 2, LEAST_AREAS - 2),
            ("leak", "vmalloc"),
        ),
        # Half of a caller's areas at least.
        (
            areas(2 * LEAST_AREAS, LEAST_AREAS),
            areas(2 * LEAST_AREAS + 4096, LEAST_AREAS),
            ("leak", "vmalloc"),
        ),
        (
            areas(LEAST_USER, 0),
            areas(LEAST_USER - 4096, 0),
            ("held-growth", "vmalloc"),
        ),
        (
            pages(LEAST_LEAKED_PAGES, LEAST_LEAKED_PAGES),
            pages(LEAST_LEAKED_PAGES - 2, LEAST_LEAKED_PAGES - 2),
            ("leak", "pages"),
        ),
        (waiting(9_000, 1_000), waiting(9_000, 999), ("deferred-free", "slab")),
        (held(LEAST_HELD), held(LEAST_HELD - 64), ("held-growth", "slab")),
        (held(LEAST_HELD, 0.5), held(LEAST_HELD, 0.49), ("held-growth", "slab")),
        (
            replace(HEALTHY, caches=(cache("holes", 2 * LEAST_WASTE, 0.49),)),
            replace(HEALTHY, caches=(cache("holes", 2 * LEAST_WASTE, 0.5),)),
            ("fragmentation", "slab"),
        ),
        (
            replace(HEALTHY, caches=(cache("holes", LEAST_WASTE, 0.0),)),
            replace(HEALTHY, caches=(cache("holes", LEAST_WASTE - 8192, 0.0),)),
            ("fragmentation", "slab"),
        ),
        (
            replace(HEALTHY, processes=(process(rss=TOTAL, rss_anon=LEAST_USER),)),
            replace(HEALTHY, processes=(process(rss=TOTAL, rss_anon=LEAST_USER - 1),)),
            ("user-space", "user"),
        ),
        (
            replace(HEALTHY, processes=(process(rss=LEAST_USER),)),
            replace(HEALTHY, processes=(process(rss=LEAST_USER - 1),)),
            ("user-space", "user"),
        ),
        (
            replace(
                HEALTHY,
                split=split(page_tables=LEAST_TABLES),
                processes=(process(page_tables=LEAST_TABLES),),
            ),
            replace(
                HEALTHY,
                split=split(page_tables=LEAST_TABLES - 2),
                processes=(process(page_tables=LEAST_TABLES),),
            ),
            ("user-space", "user"),
        ),
        (
            replace(HEALTHY, mounts=(MountFact("/tmp", LEAST_USER),)),
            replace(HEALTHY, mounts=(MountFact("/tmp", LEAST_USER - 1),)),
            ("user-space", "user"),
        ),
        (
            replace(HEALTHY, split=split(hugetlb=LEAST_HUGETLB)),
            replace(HEALTHY, split=split(hugetlb=LEAST_HUGETLB - 2)),
            ("user-space", "user"),
        ),
        (
            replace(HEALTHY, caches=(cache("dentry", LEAST_RECLAIMABLE, reclaimable=True),)),
            replace(HEALTHY, caches=(cache("dentry", LEAST_RECLAIMABLE - 64, reclaimable=True),)),
            ("reclaimable", "slab"),
        ),
        (
            replace(HEALTHY, split=split(file_cache=LEAST_USER - 1, buffers=1)),
            replace(HEALTHY, split=split(file_cache=LEAST_USER - 1)),
            ("reclaimable", "user"),
        ),
        (
            replace(BLIND, split=split(slab_unreclaimable=LEAST_RECLAIMABLE)),
            replace(BLIND, split=split(slab_unreclaimable=LEAST_RECLAIMABLE - 2)),
            ("cannot-tell", "slab"),
        ),
    ],
)
def test_both_sides_of_a_threshold(
    enough: Facts, too_little: Facts, expected: tuple[str, str]
) -> None:
    assert kinds(enough) == [expected]
    assert kinds(too_little) == [("healthy", "none")]


def test_a_root_must_hold_much_of_what_cannot_be_reclaimed() -> None:
    facts = held(LEAST_HELD)
    share = rules.HELD_OF_SLAB
    beside = cache("other", int(LEAST_HELD / share) - LEAST_HELD - 4096)
    assert kinds(replace(facts, caches=(*facts.caches, beside))) == [("held-growth", "slab")]
    beside = cache("other", int(LEAST_HELD / share) - LEAST_HELD + 4096)
    assert kinds(replace(facts, caches=(*facts.caches, beside))) == [("healthy", "none")]


def test_what_can_be_reclaimed_or_waits_for_rcu_is_no_growth() -> None:
    facts = held(LEAST_HELD)
    easy = replace(facts, caches=(cache("kmalloc-64", LEAST_HELD, reclaimable=True),))
    assert kinds(easy) == [("healthy", "none")]
    assert kinds(held(LEAST_HELD, root="rcu_data")) == [("healthy", "none")]


def test_frees_that_wait_name_whose_they_are() -> None:
    facts = replace(held(LEAST_HELD, root="krc"), backlog=BacklogFact(5_000, 5_000))
    found = only(facts)
    assert (found.kind, found.confidence) == ("deferred-free", "high")
    assert (found.culprit.cache, found.culprit.module) == ("kmalloc-64", "mod")
    assert (found.bytes, only(waiting(10_000, 0)).confidence) == (LEAST_HELD, "medium")


def test_a_sheaf_of_frees_is_one_callback() -> None:
    """So what hangs on RCU's queues is counted, where kfree_rcu() fills sheaves (6.18)."""
    facts = held(LEAST_HELD, root="rcu_data")
    few = BacklogFact(100, 0)
    assert kinds(replace(facts, backlog=few)) == [("healthy", "none")]
    found = only(replace(facts, backlog=replace(few, sheaves=True)))
    assert found.kind == "deferred-free"
    assert found.says.startswith(f"{LEAST_HELD // 64:,} frees wait")


@pytest.mark.parametrize(
    ("used", "total", "much"),
    [
        (int(1.5 * GIB) + 1, 15 * GIB, True),
        (int(1.5 * GIB), 15 * GIB - 1, False),  # not more than 1.5 GiB
        (int(1.6 * GIB), 16 * GIB, False),  # 10 % at most
        (int(1.6 * GIB) + 2, 16 * GIB, True),
        (6 * GIB, 100 * GIB, False),
        (6 * GIB + 1, 100 * GIB, True),
        (6 * GIB + 1, 100 * GIB + 1, False),
        (10 * GIB, 200 * GIB, False),
        (10 * GIB + 1, 200 * GIB, True),
    ],
)
def test_thresholds_of_sysak(used: int, total: int, much: bool) -> None:
    assert excessive(used, total) is much


def test_large_machines_are_judged_by_amounts() -> None:
    """7 GiB of 256 are 2.7 %: neither is much here. 11 GiB are, whatever their share."""
    for size, expected in ((7 * GIB, "healthy"), (11 * GIB, "held-growth")):
        assert only(replace(held(size), split=split(512 * GIB))).kind == expected
        assert only(replace(pages(size, None), split=split(512 * GIB))).kind == (
            "cannot-tell" if size > 10 * GIB else "healthy"
        )


def test_nothing_is_said_where_numbers_are_missing() -> None:
    assert kinds(BLIND) == [("healthy", "none")]
    assert only(BLIND).confidence == "low"
    for facts in (
        areas(2 * LEAST_AREAS, None),
        pages(LEAST_PAGES - 2, None),
        replace(BLIND, caches=(cache("x", 50 * MIB, reclaimable=None),)),
    ):
        assert kinds(facts) == [("healthy", "none")]
    # Enough to ask, not enough to accuse.
    assert kinds(pages(LEAST_PAGES, None)) == [("cannot-tell", "pages")]
    much = areas(int(rules.AREAS_UNJUDGED_SHARE * TOTAL) + 1, None)
    assert [(v.kind, v.confidence) for v in judge(much)] == [("held-growth", "low")]


def test_pages_without_a_look_at_memory_are_unaccounted_and_no_leak() -> None:
    found = only(pages(LEAST_PAGES, None, ("page_owner has 9 pages of f", "mod", 0.25)))
    assert (found.kind, found.culprit.module, found.confidence) == ("cannot-tell", "mod", "low")
    assert "leaked, or a driver's" in found.says
    other = only(pages(LEAST_PAGES, None, ("other", "mod", 0.24)))
    assert (other.kind, other.culprit.module) == ("cannot-tell", "")


def test_unreachable_pages_are_a_leak_however_much_is_held_beside_them() -> None:
    found = only(pages(LEAST_PAGES, LEAST_LEAKED_PAGES))
    assert (found.kind, found.where, found.culprit.module) == ("leak", "pages", "mod")
    assert (found.bytes, found.confidence) == (LEAST_LEAKED_PAGES, "high")
    # Nothing says whose they are: a driver of a kind that the product does not know is possible.
    assert only(pages(LEAST_PAGES, LEAST_LEAKED_PAGES, module="")).confidence == "medium"
    assert kinds(pages(LEAST_PAGES, 0)) == [("healthy", "none")]


def test_leaked_pages_are_whose_record_they_have_not_whose_are_unaccounted_for() -> None:
    facts = pages(LEAST_PAGES, LEAST_LEAKED_PAGES, module="")
    assert facts.pages is not None
    (lost,) = facts.pages.memory
    site = "drivers/net/bond.c:77 bond_alloc"
    recorded = replace(
        facts.pages,
        owner="mm/mm_init.c:2453 alloc_large_system_hash",
        memory=(replace(lost, module="bond", allocator=site),),
    )
    found = only(replace(facts, pages=recorded))
    assert (found.culprit.caller, found.culprit.module) == (site, "bond")
    assert found.says.endswith(f"; allocated by {site} [bond]")
    assert (found.confidence, found.next.split(" #")[0]) == ("high", "crash> sym bond_alloc")


def test_pages_accuse_nobody_where_the_two_counts_of_memory_differ_by_more() -> None:
    size = LEAST_LEAKED_PAGES
    assert only(pages(size, size, disagreement=size)).kind == "leak"
    for differ in (size + 1, None):
        found = only(pages(size, size, disagreement=differ))
        assert (found.kind, found.where, found.culprit.module) == ("cannot-tell", "pages", "")


def test_who_holds_very_many_pages_is_named() -> None:
    least = int(rules.PAGES_HELD_SHARE * TOTAL) + 1
    pool = PagesHolder("drbd_pp_pool", "drbd", 8192, least)
    found = only(pages(least, 0, held=(pool,)))
    assert (found.kind, found.where, found.confidence) == ("held-growth", "pages", "low")
    assert (found.culprit.caller, found.culprit.module) == ("drbd_pp_pool", "drbd")
    assert kinds(pages(least, 0, held=(replace(pool, bytes=least - 2),))) == [("healthy", "none")]


@pytest.mark.parametrize(
    ("root", "module", "name"),
    [
        ("zswap_trees", "", "zswap"),
        ("zram_index_idr", "zram", "zram"),
        ("nullb_list", "null_blk", "null_blk"),
    ],
)
def test_who_keeps_what_others_wrote_is_no_growth(root: str, module: str, name: str) -> None:
    """zswap in a pool that no counter has, as Debian 12's, held a fifth of a clean machine."""
    keeper = PagesHolder(root, module, 40_608, TOTAL // 4)
    found = only(pages(TOTAL // 4, 0, held=(keeper,)))
    assert (found.kind, found.where, found.confidence) == ("known-holder", "pages", "high")
    assert found.says.startswith(f"{name} holds ")
    assert "page_owner" not in found.next


def test_without_memtotal_nothing_is_much() -> None:
    facts = replace(
        BLIND,
        split=MemorySplit(0, (), 0),
        caches=(cache("kmalloc-64", GIB),),
        areas=(AreaFact("take", "mod", 1, 2 * GIB // 4096, 2 * GIB, None),),
        processes=(process(rss=GIB),),
        source="procfs",
    )
    found = only(facts)
    assert (found.kind, found.where, found.culprit.caller) == ("cannot-tell", "vmalloc", "take")
    assert kinds(replace(facts, unreachable=(unreachable(MIB, by="kmemleak"),))) == [
        ("leak", "slab")
    ]
    assert kinds(replace(facts, caches=(), areas=())) == [("cannot-tell", "none")]


def test_worst_first_and_the_larger_of_two() -> None:
    facts = replace(
        HEALTHY,
        split=split(file_cache=LEAST_USER),
        caches=(
            cache("holes", 2 * LEAST_WASTE, 0.1),
            cache("kmalloc-64", LEAST_HELD),
            cache("dentry", LEAST_RECLAIMABLE, reclaimable=True),
        ),
        unreachable=(unreachable(MIB, "small"), unreachable(2 * MIB, "large")),
        holders=(HolderFact("kmalloc-64", "queue", "mod", 1, LEAST_HELD, 0.9),),
        backlog=BacklogFact(20_000, 0),
        processes=(process(rss=LEAST_USER),),
    )
    found = judge(facts)
    assert [v.kind for v in found] == [
        "leak",
        "leak",
        "deferred-free",
        "held-growth",
        "fragmentation",
        "user-space",
        "reclaimable",
        "reclaimable",
    ]
    assert [v.culprit.cache for v in found[:2]] == ["large", "small"]
    assert all(v.evidence and v.next for v in found)


def test_what_limits_the_look_limits_the_confidence() -> None:
    facts = replace(HEALTHY, unreachable=(unreachable(MIB),))
    assert only(facts).confidence == "high"
    for seen in (
        replace(SEEN, pages_missing=11),
        replace(SEEN, sampled=True),
        replace(SEEN, notes=("no stacks",)),
    ):
        assert only(replace(facts, reachability=seen)).confidence == "medium"
    noted = only(replace(facts, reachability=replace(SEEN, notes=("no stacks",))))
    assert noted.against[0] == "no stacks"
    assert only(replace(facts, reachability=replace(SEEN, pages_missing=10))).confidence == "high"


def test_where_slab_pages_are_missing_only_content_accuses() -> None:
    nameless = replace(unreachable(LEAST_LOST), module="")
    holed = replace(SEEN, slab_pages_missing=1)
    for seen, module, kind in (
        (holed, "", "cannot-tell"),
        (holed, "mod", "leak"),
        (SEEN, "", "leak"),
    ):
        fact = replace(nameless, module=module)
        found = only(replace(HEALTHY, unreachable=(fact,), reachability=seen))
        assert (found.kind, found.where) == (kind, "slab")


def test_a_leak_says_where_it_is_not_why_memory_is_short() -> None:
    least = int(rules.LITTLE * TOTAL) + 1
    for size, said in ((least - 2, True), (least, False)):
        for facts in (
            replace(HEALTHY, unreachable=(unreachable(size),)),
            areas(size, size),
            pages(size, size),
        ):
            assert any("not why it is short" in t for t in only(facts).against) is said


def test_kmemleak_accuses_of_little_too_but_softly() -> None:
    few = replace(BLIND, unreachable=(unreachable(64, "", "kmemleak", "take"),), source="procfs")
    found = only(few)
    assert (found.kind, found.confidence, found.culprit.caller) == ("leak", "low", "take")
    assert found.says.startswith("1 object (64 bytes) is leaked: kmemleak reports it")
    assert any("another scan" in t for t in found.against)
    assert kinds(replace(HEALTHY, unreachable=(unreachable(64),))) == [("healthy", "none")]
    much = replace(BLIND, unreachable=(unreachable(LEAST_LOST, "", "kmemleak", "take"),))
    assert only(much).confidence == "high"


def test_who_cannot_see_says_so_beside_what_is_seen() -> None:
    """A large process does not hide that slab memory is a riddle; an explained one is none."""
    stuck = split(slab_unreclaimable=LEAST_RECLAIMABLE + MIB)
    facts = replace(BLIND, split=stuck, processes=(process(rss=LEAST_USER),), source="procfs")
    assert kinds(facts) == [("cannot-tell", "slab"), ("user-space", "user")]
    explained = replace(facts, unreachable=(unreachable(2 * MIB, by="kmemleak"),), processes=())
    assert kinds(explained) == [("leak", "slab")]
    barely = replace(facts, unreachable=(unreachable(MIB // 2, by="kmemleak"),), processes=())
    assert kinds(barely) == [("cannot-tell", "slab")]
    assert any("only a vmcore" in t for t in judge(barely)[0].against)


def grown(
    size: int, objects: int = 1000, name: str = "kmalloc-64", use: tuple[float, float] = (1.0, 1.0)
) -> Growth:
    change = CacheGrowth(name, objects, size // 64, size // 4096, size, use, (0, size), True)
    return Growth(
        ("old", "new"), 1800.0, "date", False, (change,), (), (), ("slabinfo", "vmallocinfo"), True
    )


LEAST_GROWN = max(GROWN_LEAST, int(GROWN_SHARE * TOTAL) + 1)
BESIDE = replace(HEALTHY, caches=(cache("kmalloc-64", LEAST_GROWN), cache("kmalloc-cg-64", 4096)))


def test_growth_of_one_cache_between_two_moments() -> None:
    found = only(replace(BESIDE, growth=grown(LEAST_GROWN)))
    assert (found.kind, found.confidence, found.bytes) == ("held-growth", "medium", LEAST_GROWN)
    assert found.culprit.cache == "kmalloc-64"
    assert any("10.2 MiB per hour" in t for t in found.evidence)
    assert kinds(replace(BESIDE, growth=grown(LEAST_GROWN - 2))) == [("healthy", "none")]
    blind = replace(BLIND, caches=BESIDE.caches, growth=grown(LEAST_GROWN))
    assert only(blind).confidence == "low"
    small = replace(BESIDE, split=split(64 * MIB))
    assert kinds(replace(small, growth=grown(GROWN_LEAST))) == [("held-growth", "slab")]
    assert kinds(replace(small, growth=grown(GROWN_LEAST - 1))) == [("healthy", "none")]
    easy = replace(BESIDE, caches=(cache("kmalloc-64", LEAST_GROWN, reclaimable=True),))
    assert kinds(replace(easy, growth=grown(LEAST_GROWN))) == [("healthy", "none")]


def test_growth_in_slabs_alone_is_fragmentation() -> None:
    holes = grown(LEAST_GROWN, objects=10, use=(1.0, 0.5))
    assert kinds(replace(BESIDE, growth=holes)) == [("fragmentation", "slab")]
    change = replace(holes.caches[0], alike=False)
    other_count = replace(holes, caches=(change,), alike=False)
    assert kinds(replace(BESIDE, growth=other_count)) == [("held-growth", "slab")]


def test_growth_speaks_for_and_against() -> None:
    leak = replace(BESIDE, unreachable=(unreachable(11 * MIB, "kmalloc-cg-64"),))
    found = only(replace(leak, growth=grown(LEAST_GROWN)))  # no second verdict on one family
    assert any(t.startswith("kmalloc-64 grew by 1,000 objects, 5.1 MiB") for t in found.evidence)
    still = only(replace(leak, growth=grown(MIB, name="other")))
    assert still.against == ("kmalloc-64 did not grow between the two",)
    unknown = replace(grown(MIB, name="other"), compared=())
    assert only(replace(leak, growth=unknown)).against == ()
    timeless = replace(grown(LEAST_GROWN), seconds=None)
    assert not any("per hour" in t for t in only(replace(leak, growth=timeless)).evidence)


def test_growth_of_one_caller() -> None:
    def by(size: int) -> Growth:
        return replace(grown(0), caches=(), vmalloc=(CallerGrowth("take", "mod", 3, size),))

    assert kinds(replace(HEALTHY, growth=by(LEAST_GROWN))) == [("held-growth", "vmalloc")]
    assert kinds(replace(HEALTHY, growth=by(LEAST_GROWN - 2))) == [("healthy", "none")]
    leak = replace(areas(LEAST_AREAS, LEAST_AREAS), growth=by(LEAST_GROWN))
    assert any("it grew by" in t for t in only(leak).evidence)


def test_who_allocated_most_of_a_cache_is_named() -> None:
    facts = replace(
        BLIND,
        split=split(slab_unreclaimable=LEAST_RECLAIMABLE),
        caches=(cache("kmalloc-64", LEAST_RECLAIMABLE),),
        source="procfs",
    )
    half = replace(facts, sites=(SiteFact("kmalloc-64", "take", "mod", 500, 1000),))
    found = only(half)
    assert (found.kind, found.culprit.caller, found.culprit.module) == (
        "cannot-tell",
        "take",
        "mod",
    )
    assert any("take [mod] allocated 500 of the 1,000" in t for t in found.evidence)
    less = replace(facts, sites=(SiteFact("kmalloc-64", "take", "mod", 499, 1000),))
    assert only(less).culprit.caller == ""


def test_many_processes_that_are_each_small() -> None:
    facts = replace(
        HEALTHY,
        split=split(anonymous=LEAST_USER),
        processes=(Process(7, "one", LEAST_USER // 3), Process(8, "two", LEAST_USER // 3)),
    )
    (verdict,) = judge(facts)
    assert (verdict.kind, verdict.culprit.process) == ("user-space", "one (pid 7)")
    assert kinds(replace(facts, split=split(anonymous=LEAST_USER - 4096))) == kinds(HEALTHY)


def says(*some: UnreachableFact) -> str:
    return only(replace(HEALTHY, unreachable=some)).says


def test_a_headline_counts_all_objects_of_the_cache_and_apart_what_hangs_below() -> None:
    tasks = replace(
        unreachable(MIB, "task_struct"), objects=Estimate.known(199), contains_symbols=True
    )
    with_others = replace(tasks, below=Estimate.known(995))
    assert says(with_others).startswith(
        "199 task_struct objects are leaked, 995 other objects hang below them (1.0 MiB in all): "
        "nothing reaches them; they contain symbols of mod"
    )
    stack = replace(with_others, contains_symbols=False)
    assert says(stack).endswith("nothing reaches them; they may be mod's")
    one = replace(with_others, objects=Estimate.known(1), below=Estimate.known(1))
    assert says(one).startswith(
        "1 task_struct object is leaked, 1 other object hangs below it (1.0 MiB in all): "
        "nothing reaches it"
    )


def test_an_estimate_says_so_in_the_headline() -> None:
    sampled = replace(unreachable(MIB), objects=Estimate(419_440_627, 400_000_000, 419_440_700))
    below = replace(sampled, below=Estimate(20, 18, 23))
    assert says(sampled).startswith(
        "~419,440,627 (400,000,000 to 419,440,700) kmalloc-64 objects (1.0 MiB) are leaked"
    )
    assert "~20 (18 to 23) other objects hang below them" in says(below)


def test_no_line_of_evidence_stands_twice() -> None:
    told = replace(unreachable(MIB), evidence=("an empty list_head at +0x8", "of one size"))
    again = replace(told, evidence=("an empty list_head at +0x8", "of another size"))
    (verdict,) = judge(replace(HEALTHY, unreachable=(told, again)))
    assert verdict.evidence == ("an empty list_head at +0x8", "of one size", "of another size")


@pytest.mark.parametrize("caller", ["", "take"])
def test_areas_of_a_caller_that_is_not_noted(caller: str) -> None:
    for unreached in (64 * MIB, None):
        area = AreaFact(caller, "", 1, 16384, 64 * MIB, unreached)
        for verdict in judge(replace(HEALTHY, split=split(vmalloc=64 * MIB), areas=(area,))):
            assert "nobody" not in verdict.says
            assert "  " not in verdict.says
            assert not verdict.next.endswith("-i ")


def test_objects_that_are_explained_are_not_said_to_be_reached() -> None:
    (found,) = judge(HEALTHY)
    assert "every slab object can be reached" in found.evidence
    (found,) = judge(replace(HEALTHY, explained=2))
    assert "every slab object but 2 that are explained can be reached" in found.evidence


@pytest.mark.parametrize(
    ("cgroups", "caches", "says"),
    [
        ((1 << 18, 1 << 17), ("kmalloc-64",), "131,072 of them removed and not gone,"),
        ((1 << 18, 0), ("kmalloc-64",), "262,144 memory cgroups have most of"),
        ((1000, 1000), ("kmalloc-64",), "the variable queue holds"),
        ((1 << 18, 1 << 17), ("kmalloc-32",), "the variable queue holds"),
        ((None, None), ("kmalloc-64",), "the variable queue holds"),
    ],
)
def test_memory_cgroups_are_named_where_they_are_what_is_held(
    cgroups: tuple[int | None, int | None], caches: tuple[str, ...], says: str
) -> None:
    facts = replace(held(1 << 26), cgroups=cgroups, cgroup_caches=caches)
    found = judge(facts)[0]
    assert (found.kind, found.where) == ("held-growth", "slab")
    assert says in found.says, found.says
    told = any("are dying" in line for line in found.evidence)
    assert told == ("removed" in found.says)
