"""Where virtual addresses are, against drgn's own walk of the page tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drgn.helpers.linux.mm import follow_phys

from crashext.kernel.addresses import Range
from crashext.kernel.byframe import ByFrame
from crashext.kernel.pages.frames import FrameUse
from crashext.kernel.pages.kerneltables import unmarked_tables, user_tops
from crashext.kernel.pages.pagetables import encryption_bit, physical
from tests.conftest import lab_host, lab_view
from tests.fake import INFO, layout, word
from tests.kernel.machine import DIRECT, TEXT, VMEMMAP, Machine
from tests.kernel.oracle import drgn_program

VMALLOC = 0xFFFFC90000000000


@pytest.mark.parametrize("name", ["default", "healthy", "healthy@arm64"])
def test_addresses_of_every_kind_are_where_drgn_finds_them(name: str) -> None:
    """The kernel image (2 MiB pages), the direct map, the memory map, modules and vmalloc."""
    prog, view = drgn_program(name), lab_view(name)
    rng = np.random.default_rng(0)
    space = view.space
    memory = space.addresses(view.memory.block_pfns.min())  # arm64's begins at 1 GiB
    text = min(space.text.end - space.text.start, 0x1000000)
    some = [
        space.text.start + rng.integers(0, text, 40).astype(np.uint64),
        memory + rng.integers(1 << 20, 200 << 20, 40).astype(np.uint64),
        view.memory.block_maps[:20] + np.uint64(640),
    ]
    some += [
        np.array([start + 16 for m in view.host.modules() for start, _ in m.ranges], np.uint64),
        np.array([prog["jiffies"].address_of_().value_(), prog["init_task"].stack.value_()]),
    ]
    for area in list(_areas(name))[:60]:
        some.append(np.array([area], np.uint64))
    addresses = np.concatenate([np.asarray(s, np.uint64) for s in some])
    found, ok = physical(view.host, space, addresses)
    assert ok.all()
    root = prog["init_mm"].address_of_()
    expected = [follow_phys(root, int(a)).value_() for a in addresses]
    assert found.tolist() == expected


def _areas(name: str) -> list[int]:
    from crashext.kernel.pages.areas import read_areas

    found = read_areas(lab_host(name), lab_view(name).memory)
    return [int(s) for s, p in zip(found.start, found.pages, strict=True) if p]


def test_what_is_not_mapped_is_not_ok() -> None:
    view = lab_view("healthy")
    guard = np.uint64(_areas("healthy")[0]) - np.uint64(4096 * 3000)
    addresses = np.array([0x1000, 0xFFFFFFFFFFFFF000, VMALLOC - 0x100000000], np.uint64)
    _, ok = physical(view.host, view.space, addresses)
    assert not ok.any()
    assert guard  # any address: it must not raise
    physical(view.host, view.space, np.array([guard], np.uint64))


def test_a_table_that_points_at_itself_ends() -> None:
    made = Machine(16)
    made.host.symbols["init_top_pgt"] = DIRECT + 0x1000
    made.host.put(DIRECT + 0x1000, word(*[0x1000 | 1] * 512))
    found, ok = physical(made.host, made.space, np.array([VMALLOC + 0x123], np.uint64))
    assert (found.tolist(), ok.tolist()) == ([0x1123], [True])


def test_missing_tables_cost_their_addresses_only() -> None:
    made = Machine(16)
    made.host.symbols["init_top_pgt"] = DIRECT + 0x1000
    table = [0] * 512
    table[VMALLOC >> 39 & 511] = 0x700000 | 1  # not in the dump
    table[0] = 0x2000 | 1
    made.host.put(DIRECT + 0x1000, word(*table))
    made.host.put(DIRECT + 0x2000, word(0x40000000 | 1 << 7 | 1, *[0] * 511))  # a 1 GiB page
    found, ok = physical(made.host, made.space, np.array([VMALLOC, 0x12345], np.uint64))
    assert ok.tolist() == [False, True]
    assert found[1] == 0x40012345


def no_tables(pages: int) -> ByFrame[np.uint8]:
    """Page frames none of which a struct page calls a table."""
    return ByFrame.filled(pages, np.uint8(FrameUse.KERNEL))


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize(
    ("marked", "middle_too"),
    [(False, False), (True, False), (True, True)],
    ids=("3.10", "4.19", "5.9"),
)
def test_tables_of_processes_are_walked_where_the_kernel_does_not_mark_them(
    marked: bool, middle_too: bool, isolated: bool
) -> None:
    """As of RHEL 7's 3.10, which isolates page tables: a second top behind the first. Where it
    does not lead where the first does, it is none, whatever looks like an entry there."""
    members = {"page_type": (24, 4)} if marked else {"_mapcount": (24, 4)}
    page = layout("struct page", 64, flags=(0, 8), lru=(32, 16), **members)
    made = Machine(32, page=page)
    list_head, root = DIRECT + 0x1D000, DIRECT + 0x10000
    names = {"init_level4_pgt": root, "pgd_list": list_head, "kaiser_init": TEXT}
    made.host.symbols.update(names)
    top, upper, middle, last, twin, shadow, spare = (0x1000 * n for n in (2, 4, 5, 6, 3, 8, 9))
    entries = VMEMMAP + 64 * (top >> 12) + 32
    made.host.put(list_head, word(entries, entries))
    made.host.put(DIRECT, bytes(0x1D000))
    made.host.put(entries, word(list_head, list_head))
    for at, number, leads_to in (
        *((top, 3, upper), (upper, 0, middle), (middle, 7, last), (last, 1, 0x1A000)),
        *((twin, 300, shadow), (0x11000, 301, spare)),
        (twin, 3 if isolated else 4, upper),
    ):
        made.host.put(DIRECT + at + 8 * number, word(leads_to | 0x67))
    host, space, memory = made.host, made.space, made.memory
    use = no_tables(32)
    if middle_too:
        use.set(np.array([middle >> 12, last >> 12]), np.uint8(FrameUse.TABLE))
    expected = [top, twin, upper, spare]
    expected += [shadow] if isolated else []
    expected += [] if middle_too else [middle]
    found = user_tops(host, space, memory, use).tolist()
    assert found == sorted(at >> 12 for at in expected)
    found = unmarked_tables(host, space, memory).tolist()
    assert found == ([] if marked else [last >> 12])


@pytest.mark.parametrize("own", [True, False])
def test_the_page_behind_a_top_table_is_a_table_where_it_is_of_the_same_allocation(
    own: bool,
) -> None:
    """Since 6.15 it is anybody's where page tables are not isolated: then it counts references."""
    page = layout("struct page", 64, flags=(0, 8), lru=(32, 16), _refcount=(52, 4))
    made = Machine(32, page=page)
    list_head, root, top = DIRECT + 0x1D000, DIRECT + 0x10000, 2
    names = {"init_top_pgt": root, "pgd_list": list_head, "pti_init": TEXT}
    made.host.symbols.update(names)
    made.host.put(DIRECT, bytes(0x1D000))
    links = VMEMMAP + 64 * top + 32
    made.host.put(list_head, word(links, links))
    made.host.put(links, word(list_head, list_head))
    made.put(top, 48, 1 << 32)
    made.put(top + 1, 48, own << 32)
    found = user_tops(made.host, made.space, made.memory, no_tables(32)).tolist()
    assert found == ([top] if own else [top, top + 1])


def test_arm64s_tables_lead_to_pages_and_to_large_ones() -> None:
    """Three levels, as 39 bits of addresses have: 1 GiB, 2 MiB and 4 KiB."""
    notes = {"NUMBER(VA_BITS)": "39", "PAGESIZE": "4096"}
    made = Machine(16, info=replace(INFO, arch="aarch64", vmcoreinfo=notes))
    made.host.symbols["swapper_pg_dir"] = DIRECT + 0x1000
    top, middle, last = ([0] * 512 for _ in range(3))
    top[1], top[256] = 0x80000000 | 1 << 54 | 0x701, 0x2000 | 3  # a block, and a table
    middle[0], middle[1] = 0x40200000 | 0x701, 0x3000 | 3
    last[5] = 0x4567000 | 1 << 54 | 0x703
    for at, table in ((0x1000, top), (0x2000, middle), (0x3000, last)):
        made.host.put(DIRECT + at, word(*table))
    base = (1 << 64) - (1 << 39)
    wanted = [base + (1 << 30) + 0x12345, base + (256 << 30) + 0x777]
    wanted += [base + (256 << 30) + (1 << 21) + 0x5678, base + (256 << 30) + (1 << 21)]
    found, ok = physical(made.host, made.space, np.array(wanted, np.uint64))
    assert ok.tolist() == [True, True, True, False]
    assert found[:3].tolist() == [0x80012345, 0x40200777, 0x4567678]


@pytest.mark.parametrize(
    ("page", "bits", "used", "shifts", "entries"),
    [
        (14, 48, 48, (47, 36, 25, 14), 2),
        (14, 52, 52, (47, 36, 25, 14), 32),
        (14, 52, 47, (36, 25, 14), 2048),
        (16, 48, 48, (42, 29, 16), 64),
        (16, 52, 52, (42, 29, 16), 1024),
        (16, 52, 48, (42, 29, 16), 1024),
        (12, 52, 48, (39, 30, 21, 12), 512),
    ],
)
def test_tables_of_other_pages_have_other_numbers_of_entries(
    page: int, bits: int, used: int, shifts: tuple[int, ...], entries: int
) -> None:
    """Of kernels for 48 and 52 bits of addresses, the latter on processors with fewer, too: then
    the tables have fewer levels, or the top table is used from its middle on."""
    notes = {"NUMBER(VA_BITS)": str(bits), "NUMBER(TCR_EL1_T1SZ)": hex(64 - used)}
    info = replace(INFO, arch="aarch64", page_size=1 << page, vmcoreinfo=notes)
    made = Machine(16, info=info)
    made.host.symbols["swapper_pg_dir"] = DIRECT + (1 << page)
    address = (1 << 64) - (1 << used - 1) + (5 << page) + 0x123
    for level, shift in enumerate(shifts, 1):
        below = 0x45670000 if shift == page else level + 1 << page
        count = entries if level == 1 else 1 << page - 3
        table = [0] * count
        table[address >> shift & count - 1] = below | 3
        made.host.put(DIRECT + (level << page), word(*table))
    found, ok = physical(made.host, made.space, np.array([address], np.uint64))
    assert (ok.tolist(), found.tolist()) == ([True], [0x45670123])


_LINEAR = 0xFFF0000000000000  # of 52 bits


@pytest.mark.parametrize(
    ("page", "used", "entry", "expected"),
    [
        (16, 52, 0x45679000, 0x9 << 48 | 0x45670000),
        (16, 48, 0x45679000, 0x9 << 48 | 0x45670000),
        (16, 52, 0x45670F00, 0x45670000),
        (14, 52, 0x2 << 48 | 0x45670100, 0x6 << 48 | 0x45670000),
        (14, 47, 0x45670300, 0x45670000),
        (12, 52, 0x1 << 48 | 0x45670300, 0xD << 48 | 0x45670000),
        (12, 48, 0x45670300, 0x45670000),
    ],
)
def test_memory_and_tables_of_arm64_may_lie_beyond_256_tib(
    page: int, used: int, entry: int, expected: int
) -> None:
    """The highest bits of an address are where the processor has them; where it has no such
    addresses, and pages are not of 64 KiB, these bits say who shares the memory."""
    notes = {"NUMBER(VA_BITS)": "52", "NUMBER(TCR_EL1_T1SZ)": hex(64 - used)}
    info = replace(INFO, arch="aarch64", page_size=1 << page, vmcoreinfo=notes)
    made = Machine(16, info=info)
    space = replace(made.space, direct=Range(_LINEAR, (1 << 64) - 1))
    root = made.host.symbols["swapper_pg_dir"] = _LINEAR + (1 << page)
    bits = 52 if page == 16 else used  # those tables are of 52 bits, whatever is in force
    shifts = tuple(reversed(range(page, bits, page - 3)))
    address = (1 << 64) - (1 << used - 1) + 0x123
    high = expected >> 48
    for level, shift in enumerate(shifts):
        count = 1 << bits - shift if level == 0 else 1 << page - 3
        # The tables below the top lie one behind the other, as far up as the memory.
        below = high << 12 if page == 16 else (high & 3) << 48 | high >> 2 << 8
        below |= level + 2 << page
        table = [0] * count
        table[address >> shift & count - 1] = (entry if shift == page else below) | 3
        at = root if level == 0 else _LINEAR + (high << 48) + (level + 1 << page)
        made.host.put(at, word(*table))
    found, ok = physical(made.host, space, np.array([address], np.uint64))
    assert (ok.tolist(), found.tolist()) == ([True], [expected | 0x123])


@pytest.mark.parametrize("bit", [47, 51])
def test_encrypted_memory_is_where_it_would_be_otherwise(bit: int) -> None:
    """Of AMD's SME and SEV: each entry has a bit more, which the kernel notes."""
    made = Machine(16, info=replace(INFO, vmcoreinfo={"NUMBER(sme_mask)": str(1 << bit)}))
    made.host.symbols["init_top_pgt"] = DIRECT + 0x1000
    table = [0] * 512
    table[0] = 0x2000 | 1 << bit | 1
    made.host.put(DIRECT + 0x1000, word(*table))
    made.host.put(DIRECT + 0x2000, word(0x40000000 | 1 << bit | 1 << 7 | 1, *[0] * 511))
    found, ok = physical(made.host, made.space, np.array([0x12345], np.uint64))
    assert (found.tolist(), ok.tolist()) == ([0x40012345], [True])


@pytest.mark.parametrize("mask", ["0", "-1", "3", "00", "4096", str(1 << 63), "9" * 5000, "many"])
def test_nonsense_is_no_bit_of_encryption(mask: str) -> None:
    made = Machine(16, info=replace(INFO, vmcoreinfo={"NUMBER(sme_mask)": mask}))
    assert encryption_bit(made.host) == 0


def test_a_kernel_without_a_known_root_maps_nothing() -> None:
    made = Machine(16)
    found, ok = physical(made.host, made.space, np.array([VMALLOC], np.uint64))
    assert (found.tolist(), ok.tolist()) == ([0], [False])
