"""The memory map and the slabs in it, and which slab a pointer points into."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crashext.hosts.base import ReadFault
from crashext.kernel.access import UnknownLayout
from crashext.kernel.memmap import BLOCK_PAGES, memory_map
from crashext.kernel.slab.pointers import SlabPointers, SlabTargets
from crashext.kernel.slab.slabs import SlabIndex, find_slabs
from crashext.progress import silent
from tests.fake import INFO, FakeHost, layout, slab_cache, word
from tests.kernel.machine import DIRECT, PAGE, PG_SLAB, VMEMMAP, Machine, address_space, numbered
from tests.kernel.whole import Kernel

MAP_BYTES = 64 * BLOCK_PAGES
SMALL, LARGE = slab_cache(), slab_cache("kmalloc-8k", 8192, address=0xFFFF888000101000, objects=4)


def scan(machine: Machine, seed: int = 0, budget: int = 1 << 30, wanted: int = 0) -> SlabIndex:
    wants = {0: wanted} if wanted else {}
    return find_slabs(machine.host, machine.memory, machine.caches, wants, seed, silent, budget)


def test_a_slab_is_found_with_its_counters() -> None:
    machine = Machine(64, SMALL, LARGE)
    bases = [machine.slab(40, LARGE, 3, 4, tails=7), machine.slab(2, SMALL, 64, 64)]
    found = scan(machine)
    assert found.address.tolist() == sorted(bases)
    assert (found.cache.tolist(), found.inuse.tolist()) == ([0, 1], [64, 3])
    assert found.objects.tolist() == [64, 4]
    assert (found.complete, found.scanned, found.missing) == (True, 1.0, 0)
    assert found.rows_of(1).tolist() == [1]


def test_a_tail_page_is_no_slab_of_its_own() -> None:
    """Before 4.10's PG_head rules a tail could carry PG_slab; bit 0 of compound_head decides."""
    machine = Machine(16, LARGE)
    machine.slab(8, tails=3, objects=1)
    for pfn in (9, 10):
        machine.put(pfn, 0, 1 << PG_SLAB)
        machine.put(pfn, 24, LARGE.address)
        machine.put(pfn, 40, 1 << 16)
    assert scan(machine).address.tolist() == [DIRECT + (8 << 12)]


@pytest.mark.parametrize("value", ["4110417920", "-184549376"], ids=["unsigned", "signed"])
def test_since_the_page_type_the_flag_says_nothing(value: str) -> None:
    """46df8e73a4a3 (6.10): PGTY_slab << 24 in page_type; bit 9 of flags is another flag now."""
    fields = {"NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)": value}
    machine = Machine(16, info=replace(INFO, vmcoreinfo=fields))
    slab = machine.slab(3, flags=0, page_type=0xF5000000)
    machine.slab(4, flags=1 << PG_SLAB, page_type=0xFFFFFFFF)
    machine.slab(5, flags=0, page_type=0xF0000000)  # PGTY_buddy
    assert scan(machine).address.tolist() == [slab]


def test_a_kernel_that_marks_slabs_in_neither_way_is_said_so() -> None:
    machine = Machine(16)
    machine.host.enumerators.clear()
    with pytest.raises(UnknownLayout, match="PG_slab"):
        scan(machine)


def test_struct_slab_is_read_where_there_is_one() -> None:
    """d122019bf061 (5.17) split it from struct page; the members moved."""
    machine = Machine(16)
    plain = {k: (m.offset, m.size) for k, m in PAGE.members.items() if k in ("flags",)}
    machine.host.layouts["struct page"] = layout("struct page", 64, compound_head=(8, 8), **plain)
    machine.host.layouts["struct slab"] = layout(
        "struct slab", 64, slab_cache=(24, 8), freelist=(32, 8), inuse=(40, 4, 0, 16),
        objects=(42, 4, 0, 15),
    )  # fmt: skip
    slab = machine.slab(7, inuse=5)
    found = scan(machine)
    assert (found.address.tolist(), found.inuse.tolist()) == ([slab], [5])


@pytest.mark.parametrize(
    ("inuse", "objects"), [(9, 8), (0, 0), (5, 0), (0xFFFF, 0x7FFF), (1, 0x7FFF)], ids=str
)
def test_counters_that_cannot_be_true_cost_the_slab(inuse: int, objects: int) -> None:
    machine = Machine(16, LARGE)
    good = machine.slab(2, inuse=1, objects=4)
    machine.slab(4, inuse=inuse, objects=objects)
    found = scan(machine)
    assert (found.address.tolist(), found.impossible) == ([good], 1)


def test_a_slab_of_no_known_cache_is_counted() -> None:
    machine = Machine(16, SMALL, LARGE)
    for pfn, address in ((1, 0), (2, SMALL.address - 8), (3, LARGE.address + 8), (4, 1 << 63)):
        machine.slab(pfn, replace(SMALL, address=address))
    found = scan(machine)
    assert (len(found.address), found.unknown, found.impossible) == (0, 4, 0)


def test_the_pool_of_kfence_is_left_out() -> None:
    """Its pages are marked as slabs of the caches they stand in for, one object a page."""
    machine = Machine(2048)
    pool = 256
    for pfn in (pool - 1, pool, pool + 300, pool + 511, pool + 512):
        machine.slab(pfn)
    assert len(scan(machine).address) == 5  # without the symbol they cannot be told
    machine.host.symbols["__kfence_pool"] = 0xFFFFFFFF82000000
    machine.host.put(0xFFFFFFFF82000000, word(DIRECT + (pool << 12)))
    kept = [DIRECT + (pfn << 12) for pfn in (pool - 1, pool + 512)]
    assert scan(machine).address.tolist() == kept
    machine.host.put(0xFFFFFFFF82000000, word(0))  # built in, but not enabled at boot
    assert len(scan(machine).address) == 5


def test_struct_pages_that_are_not_in_the_dump_are_counted_not_guessed() -> None:
    machine = Machine(64)
    slabs = [machine.slab(pfn) for pfn in (5, 20, 40)]
    machine.tear(16, 8)
    found = scan(machine)
    assert found.address.tolist() == [slabs[0], slabs[2]]
    assert (found.missing, found.complete) == (8, True)


def large() -> Machine:
    """12 blocks, three slabs in each."""
    machine = Machine(12 * BLOCK_PAGES)
    for block in range(12):
        for pfn in (0, 100, BLOCK_PAGES - 1):
            machine.slab(block * BLOCK_PAGES + pfn, inuse=block, objects=16)
    return machine


def test_a_pass_over_part_of_the_map_is_a_reproducible_sample_and_says_so() -> None:
    machine = large()
    one, same = (scan(machine, seed=1, budget=4 * MAP_BYTES) for _ in range(2))
    assert one.address.tolist() == same.address.tolist()
    assert len(one.address) == 12
    assert not one.complete
    assert one.scanned == pytest.approx(4 / 12)
    other = [scan(machine, seed=s, budget=4 * MAP_BYTES).address.tolist() for s in range(2, 6)]
    assert any(found != one.address.tolist() for found in other)
    blocks = set(one.inuse.tolist())
    assert len(blocks) == 4
    assert all(one.inuse.tolist().count(b) == 3 for b in blocks)  # whole blocks


def test_a_rare_cache_is_looked_for_beyond_the_budget_but_not_without_end() -> None:
    machine = large()
    assert scan(machine, budget=2 * MAP_BYTES, wanted=1).scanned == pytest.approx(2 / 12)
    assert scan(machine, budget=2 * MAP_BYTES, wanted=10).scanned == pytest.approx(4 / 12)
    assert scan(machine, budget=2 * MAP_BYTES, wanted=1000).scanned == pytest.approx(8 / 12)
    assert scan(machine, budget=4 * MAP_BYTES, wanted=1000).complete


def test_an_address_is_located_in_the_slab_that_holds_it() -> None:
    machine = Machine(64, SMALL, LARGE)
    machine.slab(2, SMALL, objects=60)
    machine.slab(40, LARGE, objects=2, tails=3)
    found = scan(machine)
    small, big = DIRECT + (2 << 12), DIRECT + (40 << 12)
    asked = {
        small - 1: -1,
        small: 0,
        small + 60 * 64 - 1: 0,
        small + 60 * 64: -1,  # what is left of the page behind the last slot
        big: 1,
        big + 2 * 8192 - 1: 1,
        big + 2 * 8192: -1,
        0: -1,
        (1 << 64) - 1: -1,
    }
    rows = found.locate(np.array(list(asked), np.uint64), machine.caches)
    assert rows.tolist() == list(asked.values())
    nothing = scan(Machine(16))
    assert nothing.locate(np.array([small], np.uint64), machine.caches).tolist() == [-1]


SECTION = 1 << (27 - 12)  # pages, with x86-64's SECTION_SIZE_BITS


def sparse(present: dict[int, int], roots: int = 4, entry: int = 32) -> FakeHost:
    """SPARSEMEM_EXTREME: number of a present section -> address of its first struct page."""
    table, per_root = 0xFFFF88803F000000, 4096 // entry
    host = FakeHost(layout("struct page", 64, flags=(0, 8)))
    fields = {
        "SYMBOL(mem_section)": f"{table:x}",
        "LENGTH(mem_section)": str(roots),
        "SIZE(mem_section)": str(entry),
        "NUMBER(SECTION_SIZE_BITS)": "27",
        "OFFSET(mem_section.section_mem_map)": "0",
    }
    host._info = replace(INFO, vmcoreinfo=fields)
    host.put(table, bytes(8 * roots))
    for section, address in present.items():
        root = table + 0x1000 * (1 + section // per_root)
        if root not in host.extents:
            host.put(root, bytes(4096))
            host.put(table + 8 * (section // per_root), word(root))
        # sparse_encode_mem_map(): biased by the section's first pfn, flags in the low bits.
        coded = (address - section * SECTION * 64 | 0b1011) & (1 << 64) - 1
        host.put(root + section % per_root * entry, word(coded))
    return host


def test_sections_are_decoded_to_where_their_struct_pages_are() -> None:
    maps = {0: VMEMMAP, 3: VMEMMAP + 3 * SECTION * 64, 130: 0xFFFFEA0009000000}
    memory = memory_map(sparse(maps), address_space(1 << 20))
    firsts = {
        int(pfn) // SECTION: int(at)
        for pfn, at in zip(memory.block_pfns, memory.block_maps, strict=True)
        if int(pfn) % SECTION == 0
    }
    assert firsts == maps
    assert memory.pages == 3 * SECTION
    # Page frames and struct pages lead to each other, and nowhere from a hole.
    pfns, known = memory.pfns_of(
        np.array([VMEMMAP + 64 * 5, 0xFFFFEA0009000000 + 64 * 7, VMEMMAP + SECTION * 64], np.uint64)
    )
    assert known.tolist() == [True, True, False]
    assert pfns[:2].tolist() == [5, 130 * SECTION + 7]


def test_a_section_without_a_memory_map_is_none() -> None:
    host = sparse({1: VMEMMAP + SECTION * 64})
    root = 0xFFFF88803F001000
    host.put(root + 2 * 32, word(0b101))  # flags only: present, but no map
    memory = memory_map(host, address_space(1 << 20))
    assert memory.block_pfns.min() == SECTION
    assert memory.pages == SECTION


def test_without_vmcoreinfo_the_map_is_one_array() -> None:
    memory = memory_map(FakeHost(PAGE), address_space(BLOCK_PAGES + 10))
    assert memory.block_pfns.tolist() == [0, BLOCK_PAGES]
    assert memory.block_maps.tolist() == [VMEMMAP, VMEMMAP + MAP_BYTES]
    assert memory.block_pages.tolist() == [BLOCK_PAGES, 10]


def test_struct_pages_of_page_frames_that_do_not_exist_are_not_read() -> None:
    machine = Machine(64)
    machine.put(63, 0, 0x77)
    rows, ok = machine.memory.rows(np.array([63, 64, 1 << 40, 0], np.uint64))
    assert ok.tolist() == [True, False, False, True]
    assert rows[0, 0] == 0x77
    with pytest.raises(ReadFault):
        machine.host.read(VMEMMAP + 64 * 64, 8)


def resolve(machine: Machine, values: list[int], complete: bool = True) -> SlabTargets:
    """By the slab index, or, where that is an empty sample, by the struct pages."""
    index = scan(machine)
    if not complete:
        none, address = np.zeros(0, np.uint16), np.zeros(0, np.uint64)
        index = SlabIndex(address, address, none, none, none, none, False, 0.0, 0, 0, 0)
    pointers = SlabPointers(machine.host, machine.space, machine.memory, machine.caches, index)
    return pointers.resolve(np.array(values, np.uint64))


BOTH_WAYS = pytest.mark.parametrize("complete", [True, False], ids=["by index", "by struct page"])


@BOTH_WAYS
def test_a_pointer_leads_to_its_cache_and_place_in_the_object(complete: bool) -> None:
    machine = Machine(64, SMALL, LARGE)
    small = machine.slab(2, SMALL)
    big = machine.slab(40, LARGE, objects=4, tails=7)
    asked = [small + 3 * 64 + 8, big, big + 8192 + 5000, big + 4 * 8192 - 1, small - 8, 0x1234]
    found = resolve(machine, asked, complete)
    assert found.cache.tolist() == [0, 1, 1, 1, -1, -1]
    assert found.offset.tolist() == [8, 0, 5000, 8191, 0, 0]
    assert found.base[:4].tolist() == [small, big, big, big]
    assert found.known.tolist() == [True] * 4 + [False] * 2


@BOTH_WAYS
def test_offsets_count_from_the_object_not_from_its_pad(complete: bool) -> None:
    cache = slab_cache("redzoned", 128, object_size=64, red_left_pad=16)
    machine = Machine(16, cache)
    slab = machine.slab(3)
    found = resolve(machine, [slab + 128 + 16, slab + 128 + 20, slab + 128 + 8], complete)
    assert found.offset.tolist() == [0, 4, 120]  # the pad belongs to the slot before


@BOTH_WAYS
def test_the_first_slot_s_pad_is_in_no_object(complete: bool) -> None:
    cache = slab_cache("redzoned", 96, object_size=64, red_left_pad=16, objects=40)
    machine = Machine(16, cache)
    slab = machine.slab(3, objects=40)
    found = resolve(machine, [slab + 8], complete)
    assert found.offset[0] >= cache.object_size


@BOTH_WAYS
def test_a_page_that_is_no_slab_resolves_to_nothing(complete: bool) -> None:
    machine = Machine(16)
    machine.put(5, 8, (VMEMMAP + 64 * 4) | 1)  # tail of a page that is no slab
    assert resolve(machine, [DIRECT + 0x5010, DIRECT + 0x6000], complete).cache.tolist() == [-1, -1]


def test_a_tail_page_whose_head_is_nowhere_resolves_to_nothing() -> None:
    machine = Machine(16)
    machine.put(5, 8, 0xFFFFEA0070000001)
    assert resolve(machine, [DIRECT + 0x5010], complete=False).cache.tolist() == [-1]


def test_pointers_past_the_last_page_frame_resolve_to_nothing() -> None:
    machine = Machine(16, SMALL, numbered(SMALL, 1))
    machine.slab(15)
    past = DIRECT + (16 << 12)
    assert resolve(machine, [past, past + 64], complete=False).cache.tolist() == [-1, -1]


def test_a_kernel_whose_slabs_cannot_be_found_is_refused_in_one_line() -> None:
    """No kernel runs without a slab: this one is misread, and nothing may be said of it."""
    kernel = Kernel()
    kernel.object()
    view = kernel.view()
    for pfn in range(512):
        kernel.host.put(VMEMMAP + 64 * pfn, bytes(8))
    with pytest.raises(UnknownLayout, match="no slab was found of 2 caches") as refused:
        view.scan({}, 0)
    assert "\n" not in str(refused.value)
