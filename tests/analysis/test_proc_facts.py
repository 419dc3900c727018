"""Proc files as facts, and what the verdict's rules say of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from crashext.analysis.proc import read_snapshot, report
from crashext.analysis.proc_facts import proc_facts, reclaimable
from crashext.analysis.verdict.facts import Facts
from crashext.analysis.verdict.rules import judge
from crashext.analysis.verdict.verdict import Verdict
from crashext.procfs.folder import ProcFolder
from tests.conftest import lab_dump, lab_view
from tests.procfs.test_kmemleak import GUEST
from tests.procfs.test_pageowner import DRIVER
from tests.procfs.test_vmallocinfo import GIGABYTE

MEMINFO = """\
MemTotal:        4025164 kB
MemFree:         {free} kB
Buffers:           22300 kB
Cached:           512000 kB
Shmem:              9000 kB
AnonPages:        310000 kB
Slab:             {slab} kB
SReclaimable:      61000 kB
SUnreclaim:       {unreclaimable} kB
KernelStack:        5200 kB
PageTables:        11000 kB
VmallocUsed:      {vmalloc} kB
Percpu:             2100 kB
KReclaimable:      61000 kB
"""
SLABINFO = """\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>
kmalloc-512     {n} {n} 512 32 4 : tunables 0 0 0 : slabdata {slabs} {slabs} 0
kmalloc-cg-512  64 64 512 32 4 : tunables 0 0 0 : slabdata 2 2 0
my_things       128 128 320 25 2 : tunables 0 0 0 : slabdata 6 6 0
dentry          315000 315000 192 21 1 : tunables 0 0 0 : slabdata 15000 15000 0
dentry(77:a.scope) 2100 2100 192 21 1 : tunables 0 0 0 : slabdata 100 100 0
"""


def saved(
    folder: Path, stuck: int = 60_000, vmalloc: int = 0, lost: int = 0, **files: str
) -> Facts:
    """Facts of a 4 GiB machine.

    In kB: `stuck` of slab memory cannot be reclaimed, `vmalloc` is what that has, and `lost` is in
    no counter.
    """
    objects = stuck * 2 // 32 * 32
    counted = 22_300 + 512_000 + 310_000 + stuck + 61_000 + 5_200 + 11_000 + vmalloc + 2_100
    texts = {
        "meminfo": MEMINFO.format(
            slab=stuck + 61_000,
            unreclaimable=stuck,
            vmalloc=vmalloc + 5_200,
            free=4_025_164 - counted - lost,
        ),
        "slabinfo": SLABINFO.format(n=objects, slabs=objects // 32),
        **files,
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return proc_facts(report([read_snapshot(ProcFolder(folder))]))


def only(facts: Facts) -> Verdict:
    (found,) = judge(facts)
    return found


def test_a_gibibyte_of_one_caller_is_named_with_pages_and_share(tmp_path: Path) -> None:
    found = only(saved(tmp_path, vmalloc=1 << 20, vmallocinfo=GIGABYTE))
    assert (found.kind, found.where, found.bytes) == ("held-growth", "vmalloc", 1 << 30)
    assert (found.culprit.caller, found.culprit.module) == ("kmem_alloc", "kmem_test")
    assert "kmem_alloc [kmem_test] holds 1.0 GiB of vmalloc memory, 26.1 % of all" in found.says
    assert "1 area of one caller, 262,144 pages" in found.evidence
    assert any("only a vmcore would tell whether" in t for t in found.against)


def test_much_that_only_slabinfo_tells_cannot_be_told(tmp_path: Path) -> None:
    found = only(saved(tmp_path, stuck=900_000))
    assert (found.kind, found.where, found.confidence) == ("cannot-tell", "slab", "low")
    assert found.culprit.cache == "kmalloc-512"
    assert found.bytes == 900_000 << 10
    assert any("what the objects are" in t for t in found.against)
    assert only(saved(tmp_path, stuck=300_000)).kind == "healthy"


def test_alloc_traces_name_the_site_of_the_riddle(tmp_path: Path) -> None:
    trace = "1700000 my_alloc+0x1c/0x40 [my_driver] age=1/2/3 pid=7 cpus=0\n9 other+0x1/0x9 pid=1\n"
    path = "sys/kernel/debug/slab/kmalloc-512/alloc_traces"
    found = only(saved(tmp_path, 900_000, 0, 0, **{path: trace}))
    assert found.kind == "cannot-tell"
    assert (found.culprit.caller, found.culprit.module) == ("my_alloc", "my_driver")


def kmemleak(count: int, size: int = 512, allocator: str = "kmalloc_trace") -> str:
    block = GUEST[: GUEST.index("unreferenced", 5)]
    block = block.replace("(size 32)", f"(size {size})").replace("kmalloc_trace", allocator)
    return "".join(block.replace("9f97c02a93e0", f"9f97c{n:07x}") for n in range(count))


def test_blocks_of_kmemleak_are_a_leak_of_their_caller(tmp_path: Path) -> None:
    found = only(saved(tmp_path, kmemleak=kmemleak(2_000)))
    assert (found.kind, found.where, found.confidence) == ("leak", "slab", "high")
    assert found.culprit.cache == "kmalloc-512"
    assert (found.culprit.caller, found.culprit.module) == ("leaklab_leak_nodes", "leaklab")
    assert found.bytes == 2_000 * 512
    assert found.says.startswith("2,000 kmalloc-512 objects (1000.0 KiB) are leaked")
    assert any("leaklab_leak_nodes [leaklab] <- make_everything" in t for t in found.evidence)
    few = only(saved(tmp_path, kmemleak=kmemleak(2)))
    assert (few.kind, few.confidence, few.culprit.module) == ("leak", "low", "leaklab")


@pytest.mark.parametrize(
    ("size", "allocator", "cache"),
    [
        (320, "kmem_cache_alloc", "my_things"),  # the only cache of that size
        (512, "kmem_cache_alloc", ""),  # kmalloc() goes by another name
        (321, "kmem_cache_alloc", ""),
        (1024, "__kmalloc", "kmalloc-1k"),
        (96, "kmalloc_trace", "kmalloc-96"),
        (16384, "__kmalloc", ""),
        (100, "__kmalloc", ""),
    ],
)
def test_the_cache_of_a_block_is_named_where_it_is_known(
    tmp_path: Path, size: int, allocator: str, cache: str
) -> None:
    facts = saved(tmp_path, kmemleak=kmemleak(1, size, allocator))
    assert facts.unreachable is not None
    assert [f.cache for f in facts.unreachable] == [cache]


def test_an_area_that_kmemleak_reports_is_lost(tmp_path: Path) -> None:
    size = 8 << 20
    block = kmemleak(1, size, "__vmalloc_node_range")
    line = f"0x1000-0x2000 {size + 4096} leaklab_leak_nodes+0x1/0x2 [leaklab] pages=2048 vmalloc"
    for vmallocinfo in ("", line):
        facts = saved(tmp_path, vmalloc=8 << 10, kmemleak=block, vmallocinfo=vmallocinfo)
        assert facts.unreachable == ()
        (area,) = facts.areas
        assert (area.caller, area.pages, area.unreachable) == ("leaklab_leak_nodes", 2048, size)
    found = only(saved(tmp_path / "x", vmalloc=32 << 10, kmemleak=kmemleak(4, size, "vmalloc")))
    assert (found.kind, found.where, found.bytes) == ("leak", "vmalloc", 32 << 20)


def test_page_owner_names_the_driver_of_pages_in_no_counter(tmp_path: Path) -> None:
    lost = 1_200_000
    found = only(saved(tmp_path, lost=lost))
    assert (found.kind, found.where, found.bytes) == ("cannot-tell", "pages", lost << 10)
    many = DRIVER.replace("order 2", "order 10") * 290
    facts = saved(tmp_path, lost=lost, page_owner=many)
    assert facts.pages is not None
    ((what, module, share),) = facts.pages.groups
    assert "296,960 pages of my_ring_alloc+0x31/0xa0 [my_driver]" in what
    assert module == "my_driver"
    assert share == pytest.approx(296_960 * 4 / lost)
    found = only(facts)
    # Pages that a driver uses look the same here: it is named, and not accused.
    assert (found.kind, found.where, found.culprit.module) == ("cannot-tell", "pages", "my_driver")
    assert "allocated by my_ring_alloc [my_driver]" in found.says


def test_children_of_memory_cgroups_are_their_parents(tmp_path: Path) -> None:
    caches = {c.name: c for c in saved(tmp_path).caches}
    assert caches["dentry"].slabs == 15_100
    assert caches["dentry"].bytes == 15_100 * 4096
    assert "kmalloc-cg-512" in caches  # names stay exact


def test_reclaimable_by_name_only_where_the_kernels_sum_agrees() -> None:
    sizes = {"dentry": 60 << 20, "kmalloc-64": 90 << 20, "tiny": 4096}
    agreed = reclaimable(sizes, {}, 60 << 20)
    assert agreed == {"dentry": True, "kmalloc-64": False}  # tiny may be in the rounding
    assert reclaimable(sizes, {}, 30 << 20) == {}  # dentry cannot be: the sum is smaller
    assert reclaimable(sizes, {}, 200 << 20) == {"dentry": True}  # and others, who knows which
    assert reclaimable(sizes, {}, None) == {}
    said = reclaimable(sizes, {"dentry": True, "kmalloc-64": False, "gone": True}, None)
    assert said == {"dentry": True, "kmalloc-64": False}


def test_sysfs_says_which_caches_can_be_reclaimed(tmp_path: Path) -> None:
    for name, text in ((":a-0000512", "0\n"), ("my_things", "1\n"), ("odd", "x\n")):
        (tmp_path / "sys/kernel/slab" / name).mkdir(parents=True)
        (tmp_path / "sys/kernel/slab" / name / "reclaim_account").write_text(text)
    (tmp_path / "sys/kernel/slab/kmalloc-512").symlink_to(":a-0000512")
    known = {c.name: c.reclaimable for c in saved(tmp_path).caches}
    assert (known["my_things"], known["kmalloc-512"]) == (True, False)


@pytest.mark.parametrize(
    ("name", "no"),
    [
        ("healthy", {"kernfs_node_cache"}),
        ("default", {"kmalloc-32", "kernfs_node_cache"}),
        ("dentries", set()),  # the sum is too coarse there
    ],
)
def test_what_is_reclaimable_agrees_with_the_flags_in_the_dump(name: str, no: set[str]) -> None:
    folder = lab_dump(name).folder / "proc"
    flags = {
        alias: "RECLAIM_ACCOUNT" in cache.flags
        for cache in lab_view(name).caches.all
        for alias in (cache.name, *cache.aliases)
    }
    facts = proc_facts(report([read_snapshot(ProcFolder(folder))]))
    known = {c.name: c.reclaimable for c in facts.caches if c.reclaimable is not None and c.bytes}
    assert known["dentry"] is True
    assert no <= {n for n, yes in known.items() if not yes}
    assert known == {n: flags[n] for n in known}
