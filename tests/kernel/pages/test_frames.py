"""What every page frame is used for, against drgn, the allocator's lists and /proc."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import drgn
import numpy as np
import pytest
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import PageReserved, PageSlab, page_to_pfn, pfn_to_page
from drgn.helpers.linux.mmzone import for_each_online_pgdat
from drgn.helpers.linux.percpu import per_cpu_ptr

from crashext.hosts.base import UnknownLayout
from crashext.kernel.byframe import ByFrame
from crashext.kernel.pages.frames import Frames, FrameUse, frames
from crashext.progress import silent
from tests.conftest import few, lab_dump, lab_view
from tests.fake import INFO, layout
from tests.kernel.machine import PAGE, VMEMMAP, Machine
from tests.kernel.oracle import drgn_program
from tests.lab import read_addresses


@few
def found(name: str) -> Frames:
    view = lab_view(name)
    return frames(view.host, view.memory, view.space, silent)


def zones(prog: drgn.Program) -> list[Any]:
    """struct zone objects with pages."""
    return [
        zone
        for pgdat in for_each_online_pgdat(prog)
        for zone in pgdat.node_zones
        if zone.present_pages
    ]


def on_pcp_lists(prog: drgn.Program) -> list[int]:
    """Page frames of every per-CPU free list, walked by drgn: blocks of the list's order each."""
    kinds = prog.constant("MIGRATE_PCPTYPES").value_()
    return [
        page_to_pfn(page).value_() + i
        for zone in zones(prog)
        for cpu in for_each_online_cpu(prog)
        for number, head in enumerate(per_cpu_ptr(zone.per_cpu_pageset, cpu).lists)
        for page in list_for_each_entry("struct page", head.address_of_(), "lru")
        for i in range(1 << (number // kinds if number < 4 * kinds else 9))
    ]


def in_buddy_lists(prog: drgn.Program) -> set[int]:
    """Page frames of every free block, from zone->free_area's lists."""
    free: set[int] = set()
    for zone in zones(prog):
        for order, area in enumerate(zone.free_area):
            for head in area.free_list:
                for page in list_for_each_entry("struct page", head.address_of_(), "lru"):
                    pfn = page_to_pfn(page).value_()
                    free.update(range(pfn, pfn + (1 << order)))
    return free


@pytest.mark.parametrize("name", ["default", "innocent"])
def test_free_pages_are_those_of_the_allocators_own_lists(name: str) -> None:
    prog, use = drgn_program(name), found(name).use[:]
    pcp = on_pcp_lists(prog)
    buddy = in_buddy_lists(prog)
    assert found(name).pcp == len(pcp) == len(set(pcp)) > 0
    assert (use[sorted(buddy)] == FrameUse.FREE).all()
    assert (use[pcp] == FrameUse.FREE).all()
    assert set(np.flatnonzero(use == FrameUse.FREE).tolist()) >= buddy | set(pcp)
    # Pages that nobody counts and no list has: the boot's, never given to the allocator.
    more = set(np.flatnonzero(use == FrameUse.FREE).tolist()) - buddy - set(pcp)
    assert len(more) < 0.01 * len(use)


@pytest.mark.parametrize("name", ["default", "healthy"])
def test_free_blocks_are_as_many_as_buddyinfo_counted(name: str) -> None:
    """The file was read a moment before the dump: a few blocks have changed."""
    text = (lab_dump(name).proc / "buddyinfo").read_text()
    counted = sum(
        int(count) << order
        for line in text.splitlines()
        for order, count in enumerate(line.split("zone")[1].split()[1:])
    )
    free = found(name).count(FrameUse.FREE) - found(name).pcp
    assert counted == pytest.approx(free, rel=0.02)


def test_each_page_is_what_its_flags_say() -> None:
    """drgn's helpers for every 7th page of the machine."""
    prog, use = drgn_program("default"), found("default").use[:]
    checked: Counter[str] = Counter()
    for pfn in range(0, len(use), 7):
        if use[pfn] == FrameUse.ABSENT:
            continue
        page = pfn_to_page(prog, pfn)
        head = page
        link = page.compound_head.value_()
        if link & 1:
            head = drgn.Object(prog, "struct page *", value=link - 1)
        if PageSlab(head):
            expected = FrameUse.SLAB
        elif page._mapcount.counter.value_() & 0xFFFFFFFF == 0xFFFFFF7F:  # PG_buddy cleared
            expected = FrameUse.FREE
        elif PageReserved(head):
            expected = FrameUse.RESERVED
        else:
            assert use[pfn] not in (FrameUse.SLAB, FrameUse.RESERVED)
            continue
        assert use[pfn] == expected, hex(pfn)
        checked[expected.name] += 1
    assert set(checked) == {"SLAB", "FREE", "RESERVED"}


def meminfo(name: str) -> dict[str, int]:
    rows = (lab_dump(name).proc / "meminfo").read_text().splitlines()
    return {r.split(":")[0]: int(r.split()[1]) for r in rows}


@pytest.mark.parametrize("name", ["default", "healthy", "innocent"])
def test_sums_are_those_of_meminfo(name: str) -> None:
    info, use = meminfo(name), found(name)
    # meminfo's Slab has what kmalloc() took straight from the page allocator, too.
    rows = (lab_dump(name).proc / "slabinfo").read_text().splitlines()[2:]
    slabs = sum(int(r.split()[5]) * int(r.split(":")[2].split()[2]) for r in rows)
    assert use.count(FrameUse.SLAB) == pytest.approx(slabs, rel=0.01)
    assert 4 * use.count(FrameUse.SLAB) <= info["Slab"]
    assert 4 * use.count(FrameUse.TABLE) == pytest.approx(info["PageTables"], abs=64)
    assert 4 * use.count(FrameUse.ANON) == pytest.approx(info["AnonPages"], abs=128)
    assert 4 * use.count(FrameUse.FREE) == pytest.approx(info["MemFree"], rel=0.03)
    assert 4 * (use.count(FrameUse.FILE) + use.count(FrameUse.SHMEM)) == pytest.approx(
        info["Cached"] + info["Buffers"], rel=0.05
    )


@pytest.mark.parametrize("part", ["pages0", "pages1", "pages2", "pages3"])
def test_pages_taken_from_the_allocator_are_the_kernels(part: str) -> None:
    """Higher orders are not compound: only the first page counts references."""
    dump, view = lab_dump("default"), lab_view("default")
    order = int(part[-1])
    starts = np.array(read_addresses(dump.addresses(part)), np.uint64)
    pfns = ((starts - np.uint64(view.space.direct.start)) >> np.uint64(12)).astype(np.int64)
    every = (pfns[:, None] + np.arange(1 << order)).reshape(-1)
    assert (found("default").use[every] == FrameUse.KERNEL).all()


def test_runs_join_neighbours_and_count_them() -> None:
    use = np.array([2, 2, 9, 0, 3, 3, 9], np.uint8)
    some = Frames(ByFrame(len(use), None, use[None]), 0, 0)
    assert some.runs(FrameUse.SLAB, FrameUse.KERNEL).tolist() == [[0, 3], [6, 7]]
    assert some.count(FrameUse.SLAB, FrameUse.KERNEL) == 4
    assert some.runs(FrameUse.ANON).tolist() == []


FULL_PAGE = layout(
    "struct page",
    64,
    **{k: (m.offset, m.size, m.bit_offset, m.bit_size) for k, m in PAGE.members.items()},
    _refcount=(52, 4),
    lru=(8, 16),
    private=(40, 8),
)


def machine(pages: int = 64) -> Machine:
    """Page frames with one reference each."""
    made = Machine(pages, page=FULL_PAGE)
    for pfn in range(pages):
        made.put(pfn, 48, 0x1_FFFFFFFF)  # page_type -1, _refcount 1
    return made


def classified(made: Machine) -> Frames:
    return frames(made.host, made.memory, made.space, silent)


def buddy(made: Machine, pfn: int, order: int) -> None:
    made.put(pfn, 48, 0xFFFFFF7F)
    made.put(pfn, 40, order)


def test_a_free_block_covers_all_its_pages_and_ends_with_memory() -> None:
    made = machine()
    buddy(made, 8, 3)
    buddy(made, 60, 4)  # past the end: an order that cannot be
    use = classified(made).use[:]
    assert np.flatnonzero(use == FrameUse.FREE).tolist() == [*range(8, 16), *range(60, 64)]


def test_an_absurd_order_is_not_believed() -> None:
    made = machine()
    buddy(made, 8, 1 << 60)
    buddy(made, 32, 2)
    assert np.flatnonzero(classified(made).use[:] == FrameUse.FREE).tolist() == [32, 33, 34, 35]


def test_tails_of_an_uncounted_allocation_belong_to_it() -> None:
    """alloc_pages() of order 2 without __GFP_COMP: three pages without a reference."""
    made = machine()
    for pfn in (21, 22, 23):
        made.put(pfn, 48, 0xFFFFFFFF)
    assert (classified(made).use[20:24] == FrameUse.KERNEL).all()


def test_a_tail_that_points_forward_or_nowhere_is_not_followed() -> None:
    made = machine()
    for pfn, head in ((5, VMEMMAP + 64 * 9), (6, VMEMMAP + 64 * 10**6), (7, 0xDEAD00)):
        made.put(pfn, 8, head | 1)
    assert (classified(made).use[5:8] == FrameUse.KERNEL).all()


def test_missing_struct_pages_are_unknown_and_counted() -> None:
    made = machine(256)
    made.slab(3)
    made.put(3, 48, 0x1_FFFFFFFF)
    made.tear(64, 64)
    result = classified(made)
    assert (result.use[64:128] == FrameUse.UNKNOWN).all()
    assert result.missing == 64
    assert result.use[3] == FrameUse.SLAB
    assert (result.use[128:] == FrameUse.KERNEL).all()


def test_a_kernel_without_struct_page_is_refused() -> None:
    made = machine()
    memory = made.memory
    made.host.layouts["struct page"] = layout("struct page", 64, slab_cache=(24, 8))
    with pytest.raises(UnknownLayout):
        frames(made.host, memory, made.space, silent)


HEAD, ACTIVE = 6, 8  # bits of page flags


@pytest.mark.parametrize(
    ("notes", "enumerators", "page_type", "second"),
    [
        ({}, {"PG_hugetlb": ACTIVE}, 0xFFFFFFFF, 1 << ACTIVE),
        ({"NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)": "-2049"}, {}, 0xFFFFF7FF, 0),
        ({"NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)": "-2049"}, {"PG_hugetlb": 0x800}, 0xFFFFF7FF, 0),
        (
            {"NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)": str(~0x04000000)},
            {"PG_hugetlb": 0x04000000},
            0xFBFFFFFF,
            0,
        ),
        ({}, {"PGTY_hugetlb": 0xF4, "PGTY_table": 0xF2, "PGTY_buddy": 0xF0}, 0xF4000000, 0),
    ],
    ids=["6.6", "6.9", "6.10", "6.11", "6.12"],
)
@pytest.mark.parametrize("references", [0, 1])
def test_a_huge_page_is_one_in_use_or_waiting_in_its_pool(
    notes: dict[str, str],
    enumerators: dict[str, int],
    page_type: int,
    second: int,
    references: int,
) -> None:
    """And a page of user space that was used lately, whose flag has the same bit, is none."""
    made = Machine(64, page=FULL_PAGE, info=replace(INFO, vmcoreinfo=notes))
    made.host.enumerators |= {"PG_head": HEAD, **enumerators}
    for pfn in range(64):
        made.put(pfn, 48, 0x1_FFFFFFFF)
    made.put(16, 0, 1 << HEAD)
    made.put(16, 48, references << 32 | page_type)
    for pfn in range(17, 24):
        made.put(pfn, 8, VMEMMAP + 64 * 16 | 1)
    made.put(17, 0, second)
    made.put(40, 0, 1 << ACTIVE)
    made.put(48, 0, 1 << HEAD | 1 << ACTIVE)
    made.put(49, 8, VMEMMAP + 64 * 48 | 1)
    use = classified(made).use[:]
    assert np.flatnonzero(use == FrameUse.HUGETLB).tolist() == list(range(16, 24))


TAIL = 7
FREES_HUGE_PAGE = 0xFFFFFFFF81166D30


def test_a_huge_page_is_one_whose_destructor_frees_huge_pages() -> None:
    """As before 4.4: its address is in place of the second page's lru."""
    members = {k: (m.offset, m.size) for k, m in FULL_PAGE.members.items() if k != "compound_head"}
    made = Machine(64, page=layout("struct page", 64, **members, first_page=(32, 8)))
    made.host.enumerators |= {"PG_head": HEAD, "PG_tail": TAIL}
    made.host.symbols["free_huge_page"] = FREES_HUGE_PAGE
    for pfn in range(64):
        made.put(pfn, 48, 0x1_FFFFFFFF)
    for head, destructor in ((16, FREES_HUGE_PAGE), (32, FREES_HUGE_PAGE + 0x40)):
        made.put(head, 0, 1 << HEAD)
        for pfn in range(head + 1, head + 8):
            made.put(pfn, 0, 1 << TAIL)
            made.put(pfn, 32, VMEMMAP + 64 * head)
        made.put(head + 1, 8, destructor)
    use = classified(made).use[:]
    assert np.flatnonzero(use == FrameUse.HUGETLB).tolist() == list(range(16, 24))


@pytest.mark.parametrize("references", [0, 1])
def test_what_looks_like_a_head_amid_a_huge_page_is_of_it(references: int) -> None:
    """hugetlb_free_vmemmap: each page of its struct pages is the first one again. 168 pages of
    zeros were unreachable on a 6.1 with 24 huge pages in use."""
    made = Machine(256, page=FULL_PAGE)
    made.host.enumerators |= {"PG_head": HEAD, "PG_hugetlb": ACTIVE}
    for pfn in range(256):
        made.put(pfn, 48, 0x1_FFFFFFFF)
    for pfn in range(64, 192):
        if pfn % 64:
            made.put(pfn, 8, VMEMMAP + 64 * 64 | 1)
            made.put(pfn, 0, (pfn % 64 == 1) << ACTIVE)
        else:
            made.put(pfn, 0, 1 << HEAD)
            made.put(pfn, 48, references << 32 | 0xFFFFFFFF)
    made.put(192, 0, 1 << HEAD)  # a real head, of another kind
    made.put(193, 8, VMEMMAP + 64 * 192 | 1)
    use = classified(made).use[:]
    assert np.flatnonzero(use == FrameUse.HUGETLB).tolist() == list(range(64, 192))


@pytest.mark.parametrize(
    ("enumerators", "page_type"),
    [
        ({}, 0xFFFFFDFF),
        ({}, 0xFFFFFBFF),
        ({"PG_table": 0x200}, 0xFFFFFDFF),
        ({"PG_table": 0x10000000}, 0xEFFFFFFF),
        ({"PGTY_table": 0xF2, "PGTY_buddy": 0xF0}, 0xF2000000),
    ],
    ids=["5.11", "5.10", "6.10", "6.11", "6.12"],
)
def test_a_page_table_by_its_type(enumerators: dict[str, int], page_type: int) -> None:
    made = machine()
    made.host.enumerators |= enumerators
    made.put(16, 48, 1 << 32 | page_type)
    assert np.flatnonzero(classified(made).use[:] == FrameUse.TABLE).tolist() == [16]


def test_of_pages_that_a_memory_cgroup_is_charged_for_some_are_tables() -> None:
    """A bit of the type of its own from 4.18 to 5.10, beside that of tables."""
    made = machine()
    owner = layout("struct page", 64, mem_cgroup=(56, 8))
    members = {**FULL_PAGE.members, **owner.members}
    made.host.layouts["struct page"] = replace(FULL_PAGE, members=members)
    for pfn, page_type in ((16, 0xFFFFFBFF), (17, 0xFFFFF9FF), (18, 0xFFFFFDFF)):
        made.put(pfn, 48, 1 << 32 | page_type)
    use = classified(made).use[:]
    assert use[16:19].tolist() == [FrameUse.TABLE, FrameUse.TABLE, FrameUse.KERNEL]
