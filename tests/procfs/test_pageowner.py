"""page_owner, as 3.19 to 6.18 print it, and what allocated the objects of a cache."""

from __future__ import annotations

from crashext.procfs.alloctraces import parse_alloc_traces, parse_allocinfo
from crashext.procfs.pageowner import parse_page_owner

DRIVER = """\
Page allocated via order 2, mask 0xdc0(GFP_KERNEL|__GFP_ZERO), pid 812, tgid 812 (insmod), \
ts 340615384 ns
PFN 0x4be0 type Unmovable Block 37 type Unmovable Flags 0xfffffc0000000(node=0|zone=1)
 post_alloc_hook+0x77/0xf0
 get_page_from_freelist+0x58d/0x14e0
 __alloc_pages+0x1b2/0x380
 my_ring_alloc+0x31/0xa0 [my_driver]
 my_open+0x3e/0x80 [my_driver]
Charged to memcg system.slice

"""
SLAB = """\
Page allocated via order 1, mask 0x12cc0(GFP_KERNEL|__GFP_NOWARN), pid 1 (swapper/0), ts 5 ns, \
free_ts 0 ns
PFN 20480 type Unmovable Block 40 type Unmovable Flags 0x200(slab)
 get_page_from_freelist+0x58d/0x14e0
 allocate_slab+0x31f/0x410
 kmalloc_trace+0x29/0x90
 my_probe+0x1/0x2
Page has been migrated, last migrate reason: compaction

"""
MOVABLE = """\
Page allocated via order 0, mask 0x1100cca(GFP_HIGHUSER_MOVABLE), pid 99, ts 7 ns
PFN 77 type Movable Block 0 type Movable Flags 0x0()
 get_page_from_freelist+0x58d/0x14e0
 do_anonymous_page+0x1/0x2

"""
OLD = """\
Page allocated via order 0, mask 0x8(ffffff80085fb714)
PFN 654411 type Unmovable Block 639 type CMA Flags 0x0(ffffffbe5c7f12c0)
 [<ffffff9b64989c14>] post_alloc_hook+0x70/0x80
 [<ffffff9b651216e8>] old_try_state+0x5f8/0x14f4

"""
STACKS = """\
 post_alloc_hook+0x177/0x1a0
 __alloc_pages+0x39e/0x7e0
 folio_alloc+0xd5/0x110
 xfs_file_buffered_read+0xe6/0x1d0 [xfs]
nr_base_pages: 20824

 post_alloc_hook+0x177/0x1a0
 inet_create+0x427/0xb50
handle: 42
stack_count: 16

"""


def test_blocks_are_summed_by_stack() -> None:
    found = parse_page_owner((DRIVER * 3 + SLAB + MOVABLE + OLD).splitlines())
    assert (found.allocations, found.pages, found.damaged) == (6, 16, 0)
    driver, slab, *ones = found.groups
    assert (driver.allocations, driver.pages, driver.orders) == (3, 12, {2: 3})
    assert (str(driver.origin), driver.module) == (
        "my_ring_alloc+0x31/0xa0 [my_driver]",
        "my_driver",
    )
    assert (driver.kind, driver.comm, driver.pid) == ("kernel", "insmod", 812)
    assert driver.mask == "GFP_KERNEL|__GFP_ZERO"
    assert (slab.kind, slab.pages, slab.comm) == ("slab", 2, "swapper/0")
    assert {(g.kind, g.pid) for g in ones} == {("movable", 99), ("kernel", None)}


def test_the_same_stack_movable_and_not_is_two_groups() -> None:
    found = parse_page_owner(
        (MOVABLE + MOVABLE.replace("type Movable", "type Unmovable")).splitlines()
    )
    assert sorted(g.kind for g in found.groups) == ["kernel", "movable"]


def test_sums_of_the_kernels_own_tool() -> None:
    found = parse_page_owner(("12 times, 48 pages:\n" + DRIVER + "5 times:\n" + OLD).splitlines())
    assert [(g.allocations, g.pages) for g in found.groups] == [(12, 48), (5, 5)]
    assert found.damaged == 0


def test_show_stacks() -> None:
    found = parse_page_owner(STACKS.splitlines())
    assert [(g.pages, g.module, g.kind) for g in found.groups] == [
        (20824, "xfs", "kernel"),
        (16, "", "kernel"),
    ]
    assert [g.orders for g in found.groups] == [{}, {}]
    assert found.damaged == 0


def test_a_cut_file_keeps_its_blocks() -> None:
    text = DRIVER * 2 + SLAB + MOVABLE
    for end in range(0, len(text), 11):
        found = parse_page_owner(text[:end].splitlines())
        assert found.allocations <= text[:end].count("Page allocated")
        assert found.allocations >= text[:end].count("PFN ") - 1
        assert sum(g.pages for g in found.groups) == found.pages
        assert found.damaged <= 1


def test_damage_is_counted() -> None:
    absurd = "Page allocated via order 64, mask 0x1(X), pid 1, ts 1 ns"
    found = parse_page_owner([absurd, "rubbish", *DRIVER.splitlines(), " lost+0x1/0x2", ""])
    assert (found.damaged, found.pages) == (3, 4)


ALLOC_CALLS = [
    "  18000 .alloc_fair_sched_group+0xec/0x1e0 age=2579/19587/286617 pid=1-8462 "
    "cpus=0-1,5,9 nodes=1",
    "      6 param_sysfs_setup+0x71/0x130 age=28451 pid=1",
    "     51 my_probe+0x6a6/0x782 [my_driver] waste=408/8 age=236886/237027/237772 pid=1 cpus=1",
    "     12 <not-available> age=4297678 pid=0",
]


def test_alloc_calls_of_sysfs() -> None:
    found = parse_alloc_traces([*ALLOC_CALLS, "No data", "nonsense here"])
    assert (found.objects, found.damaged) == (18069, 1)
    fair, probe, unknown, sysfs = found.sites
    assert str(fair.site) == "alloc_fair_sched_group+0xec/0x1e0"
    assert (fair.age, fair.pids, fair.cpus, fair.nodes) == (
        (2579, 19587, 286617),
        (1, 8462),
        "0-1,5,9",
        "1",
    )
    assert probe.site is not None
    assert probe.site.module == "my_driver"
    assert probe.pids == (1, 1)
    assert (unknown.site, unknown.age) == (None, (4297678, 4297678, 4297678))
    assert sysfs.count == 6


def test_alloc_traces_of_debugfs_have_stacks() -> None:
    stack = [
        "\t__slab_alloc+0x2b/0x40",
        "\tkmalloc_trace+0x29/0x90",
        "\tmy_probe+0x6a6/0x782 [my_driver]",
    ]
    (site, other) = parse_alloc_traces([ALLOC_CALLS[2], *stack, "", ALLOC_CALLS[1]]).sites
    assert [f.symbol for f in site.frames] == ["__slab_alloc", "kmalloc_trace", "my_probe"]
    assert other.frames == ()


def test_allocinfo() -> None:
    found = parse_allocinfo(
        [
            "allocinfo - version: 2.0",
            "#     <size>  <calls> <tag info>",
            "           0        0 init/main.c:1314 func:do_initcalls ",
            "          40        1 fs/xfs/xfs_log_cil.c:1775 [xfs] func:xlog_cil_init ",
            "       49152       48 arch/x86/kernel/cpu/mce/core.c:2709 func:mce_device_create "
            "accurate:no",
            "        -512        0 mm/slub.c:1 func:odd",
            "broken",
        ]
    )
    assert found.damaged == 1
    assert [(t.bytes, t.calls, t.module, t.function, t.accurate) for t in found.tags] == [
        (49152, 48, "", "mce_device_create", False),
        (40, 1, "xfs", "xlog_cil_init", True),
    ]
    assert (found.tags[1].file, found.tags[1].line) == ("fs/xfs/xfs_log_cil.c", 1775)
