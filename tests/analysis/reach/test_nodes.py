"""Areas and blocks of pages in the mark, in a made-up kernel: who holds them, and who does not."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest

from crashext.analysis.reach import blocks
from crashext.analysis.reach.blocks import MOST_ALIKE
from crashext.analysis.reach.holders import Holders
from crashext.analysis.reach.reachability import Reach
from crashext.kernel.architecture import ARM64, X86_64, Architecture
from tests.fake import layout
from tests.kernel.whole import DIRECT, PAGE, Kernel, struct_page

LIST_POISON2 = 0xDEAD000000000122


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def reached(marked: Reach, *addresses: int) -> list[bool]:
    """Whether the nodes at some addresses are."""
    nodes = marked.nodes.pointed_at(np.array(addresses, np.uint64))
    assert (nodes >= 0).all()
    found: list[bool] = marked.marks.reached[nodes].tolist()
    return found


def test_pages_are_held_by_their_address_and_by_their_struct_page(kernel: Kernel) -> None:
    by_pointer, inside, by_struct_page, by_nobody, by_itself = (kernel.page() for _ in range(5))
    kernel.variable("pages", by_pointer, inside + 100)
    kernel.variable("frags", struct_page(by_struct_page) | 2)  # a scatterlist marks its end
    kernel.write(by_itself, by_itself)
    marked = kernel.marked()
    found = reached(marked, by_pointer, inside, by_struct_page, by_nobody, by_itself)
    assert found == [True, True, True, False, False]


@pytest.mark.parametrize("told", [True, False])
def test_a_sections_table_is_held_by_an_address_that_is_shifted(told: bool) -> None:
    """As of section 1 of RHEL 7.9's 3.10, which does not tell how large a section is."""
    kernel = Kernel(pages=(1 << 15) + 512)  # two sections of 128 MiB
    first, table = kernel.page(), kernel.page()
    kernel.free_page()  # or the next were the rest of the allocation
    lost = kernel.page()
    kernel.host.layouts["struct page_cgroup"] = layout("struct page_cgroup", 16, flags=(0, 8))
    kernel.host.layouts["struct mem_section"] = layout(
        "struct mem_section", 32, page_cgroup=(16, 8)
    )
    sections = kernel.variable("sections", 0, 0, first, 0, 0, 0, table - (16 << 15), 0)
    roots = kernel.variable("mem_section", sections)
    kernel.host.vmcoreinfo(SYMBOL__mem_section=hex(roots), LENGTH__mem_section="1")
    if told:
        kernel.host.vmcoreinfo(NUMBER__SECTION_SIZE_BITS="27")
    assert reached(kernel.marked(), first, table, lost) == [True, True, False]


def test_the_content_of_what_nobody_holds_holds_nothing(kernel: Kernel) -> None:
    page, area, from_page, from_area = kernel.page(), kernel.area(1), kernel.page(), kernel.area(2)
    kernel.write(page, area)
    kernel.write(area, from_page)
    kernel.write(from_page, from_area)
    assert reached(kernel.marked(), page, area, from_page, from_area) == [False] * 4
    kernel.variable("head", page)
    assert reached(kernel.marked(), page, area, from_page, from_area) == [True] * 4


def test_an_areas_own_records_do_not_hold_it(kernel: Kernel) -> None:
    held, lost, neighbour = kernel.area(1), kernel.area(3), kernel.area(2)
    kernel.variable("area", held + 100, neighbour)
    assert reached(kernel.marked(), held, lost, neighbour) == [True, False, True]


def test_a_pool_is_held_from_page_to_page_through_its_struct_pages(kernel: Kernel) -> None:
    pool = [kernel.page() for _ in range(20)]
    for page, following in pairwise(pool):
        kernel.write(struct_page(page) + 40, struct_page(following))  # page->private
    assert reached(kernel.marked(), *pool) == [False] * 20
    kernel.variable("drbd_pp_pool", struct_page(pool[0]))
    marked = kernel.marked()
    assert reached(marked, *pool) == [True] * 20
    last = int(marked.nodes.pointed_at(np.array([pool[-1]], np.uint64))[0])
    holders = Holders(marked)
    assert holders.root_of(holders.start_of(last)).name == "drbd_pp_pool"


def test_struct_pages_of_free_pages_and_of_tails_hold_nothing(kernel: Kernel) -> None:
    free, target, other = kernel.free_page(), kernel.page(), kernel.page()
    kernel.write(struct_page(free) + 40, struct_page(target))
    block = kernel.block(2)
    kernel.write(struct_page(block + PAGE) + 40, struct_page(other))
    kernel.variable("block", block)
    assert reached(kernel.marked(), target, other, block) == [False, False, True]


def test_a_block_is_held_by_any_of_its_pages(kernel: Kernel) -> None:
    held, lost = kernel.block(4), kernel.block(4)
    kernel.variable("third", held + 2 * PAGE + 8)
    marked = kernel.marked()
    assert reached(marked, held, held + 3 * PAGE, lost) == [True, True, False]
    assert sorted(marked.nodes.blocks.pages.tolist()).count(4) == 2


def test_an_allocation_that_was_split_is_one_block(kernel: Kernel) -> None:
    """Boot's list_heads that point at themselves: such a page was never the first of a block."""
    first, *rest = (kernel.page() for _ in range(4))
    for page in rest:
        kernel.write(struct_page(page) + 8, struct_page(page) + 8, struct_page(page) + 8)
    kernel.variable("buffer", first)
    assert reached(kernel.marked(), first, *rest) == [True] * 4


def test_what_may_be_the_rest_of_a_split_allocation_is_not_accused(kernel: Kernel) -> None:
    kernel.align(8)
    first, *rest = (kernel.page() for _ in range(12))
    for page in (first, *rest):
        kernel.write(struct_page(page) + 8, 0, LIST_POISON2)
    kernel.variable("buffer", first)
    marked = kernel.marked()
    # Eight pages are what the first one's alignment allows for, if not more.
    within = (first - DIRECT) // PAGE & -((first - DIRECT) // PAGE)
    assert reached(marked, first, *rest) == [i < within for i in range(12)]
    assert marked.split_blocks.sum() == min(within, 12) - 1


@pytest.mark.parametrize(("row", "spared"), [(63, 63), (40, 40), (64, 15), (150, 15)])
def test_single_pages_in_a_row_that_goes_on_past_the_order_are_leaked(
    kernel: Kernel, row: int, spared: int
) -> None:
    """Behind a page that is in use; 64 are what it is aligned to."""
    kernel.align(128)
    for _ in range(64):
        kernel.free_page()
    first, *rest = (kernel.page() for _ in range(1 + row))
    for page in (first, *rest):
        kernel.write(struct_page(page) + 8, 0, LIST_POISON2)
    kernel.variable("buffer", first)
    assert reached(kernel.marked(), *rest) == [i < spared for i in range(row)]


@pytest.mark.parametrize(
    ("middle", "length", "held"),
    [
        (20, 40, True),  # tcp_hashinfo of a real-time 6.12
        (3, 6, True),  # its udp_table
        (3, 7, True),  # the middle is inside of a page
        (20, 64, False),  # goes on past two halves
        (20, 30, False),
        (40, 80, False),  # past the order
        (1, 3, False),  # two pages in use and a leaked one
    ],
)
def test_of_two_tables_in_one_allocation_the_middle_is_known_too(
    kernel: Kernel, middle: int, length: int, held: bool
) -> None:
    kernel.align(128)
    for _ in range(64):
        kernel.free_page()
    pages = [kernel.page() for _ in range(length)]
    for page in pages:
        kernel.write(struct_page(page) + 8, 0, LIST_POISON2)
    kernel.variable("table", pages[0], pages[middle])
    assert all(reached(kernel.marked(), *pages)) == held


def test_the_middle_may_look_like_the_first_page_of_a_block(kernel: Kernel) -> None:
    """udp_table of a real-time 6.12: its second and fourth page were the first ones of two."""
    kernel.align(8)
    pages = [kernel.page() for _ in range(6)]
    for i, page in enumerate(pages):
        itself = struct_page(page) + 8
        kernel.write(itself, 0 if i % 2 or not i else itself, itself)
    kernel.variable("udp_table", pages[0], pages[3])
    marked = kernel.marked()
    assert marked.nodes.blocks.pages.tolist()[-4:] == [1, 2, 2, 1]
    assert reached(marked, *pages) == [True] * 6


@pytest.mark.parametrize(
    ("firsts", "held"),
    [
        # The first eight were pages by themselves before; as the TCP stack's hash of 16 pages.
        (range(8), [True] * 16),
        ((0, 2, 5), [True] * 16),
        # What begins at the fifth page may be four pages of somebody's own, and so may the rest.
        ((0, 4, 8), [True] * 4 + [False] * 12),
    ],
    ids=["pages before", "pages between", "aligned"],
)
def test_the_rest_of_a_split_allocation_may_be_cut_where_a_page_was_the_first_of_another(
    kernel: Kernel, firsts: Iterable[int], held: list[bool]
) -> None:
    kernel.align(16)
    pages = [kernel.page() for _ in range(16)]
    for i, page in enumerate(pages):
        kernel.write(struct_page(page) + 8, 0 if i in firsts else struct_page(page) + 8)
    kernel.variable("table_perturb", pages[0])
    assert reached(kernel.marked(), *pages) == held


def test_what_an_area_maps_is_held_where_nobody_else_lists_it(kernel: Kernel) -> None:
    """A BPF ring buffer: the array of its pages lies in the first of them, which it knows by the
    area's address."""
    pages, others = [kernel.page() for _ in range(3)], [kernel.page() for _ in range(2)]
    buffer, lost = kernel.vmap([*pages, *pages[1:]]), kernel.vmap(others)
    array = kernel.object("kmalloc-64", *(struct_page(p) for p in pages))
    kernel.write(pages[0], array)
    assert reached(kernel.marked(), buffer, array, *pages) == [False] * 5
    kernel.variable("map", buffer)
    marked = kernel.marked()
    assert reached(marked, buffer, array, *pages) == [True] * 5
    assert reached(marked, lost, *others) == [False] * 3


@pytest.mark.parametrize("bit", [40, 63])
def test_an_area_whose_end_is_damaged_costs_the_others_nothing(kernel: Kernel, bit: int) -> None:
    one, two = ([kernel.page() for _ in range(2)] for _ in range(2))
    areas = [kernel.vmap(pages) for pages in (one, two)]
    kernel.variable("maps", *areas)
    kernel.write(kernel.cache("vmap_area").slabs[0] + 8, areas[0] + 3 * PAGE ^ 1 << bit)
    assert reached(kernel.marked(), *two) == [True] * 2


def test_physical_addresses_hold_weakly(kernel: Kernel) -> None:
    """A ring of descriptors that only the device and the driver's shadow copy know."""
    ring, table = kernel.page(), kernel.page()
    kernel.free_page()
    buffers, mapped = [kernel.page() for _ in range(3)], [kernel.page() for _ in range(6)]
    alone = kernel.page()
    kernel.write(ring, *(b - DIRECT for b in buffers))
    kernel.write(table, *(m - DIRECT | 0x67 for m in mapped))
    kernel.write(table + 8 * 100, alone - DIRECT + 8)  # a number as any other
    assert reached(kernel.marked(), *buffers, *mapped) == [False] * 9
    kernel.variable("rings", ring, table)
    marked = kernel.marked()
    assert reached(marked, *buffers, *mapped, alone) == [True] * 9 + [False]
    assert marked.weak.blocks.sum() == 9
    one = int(marked.nodes.pointed_at(np.array(buffers[:1], np.uint64))[0])
    held = Holders(marked).root_of(one)
    assert (held.name, held.owner) == (f"a physical address in 1 page {ring:x}+0x0", held.variable)
    assert held.owner == "a physical address"


@pytest.mark.parametrize("known", [X86_64, ARM64])
def test_tables_of_arm64s_interrupts_name_the_next_level_with_one_bit(
    kernel: Kernel, known: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hardware writes there is its own: seen as 64 KiB lost on a 6.12 with GICv3."""
    monkeypatch.setattr(blocks, "architecture", lambda host: known)
    devices, level2, other = kernel.page(), kernel.page(), kernel.page()
    kernel.write(devices, level2 - DIRECT | 1 << 63, other - DIRECT | 1 << 63 | 8)
    kernel.write(level2, *range(0x2A101, 0x2A301, 64))
    assert reached(kernel.marked(), level2) == [False]
    kernel.variable("its_node", devices)
    assert reached(kernel.marked(), level2, other) == [known is ARM64, False]


@pytest.mark.parametrize("of_table", [True, False])
def test_the_rest_of_a_table_of_lists_is_told_by_what_is_in_it(
    kernel: Kernel, of_table: bool
) -> None:
    """futex_queues of a 5.10: the memory was four blocks of two pages before."""
    kernel.align(8)
    pages = [kernel.page() for _ in range(8)]
    for i, page in enumerate(pages):
        itself = struct_page(page) + 8
        kernel.write(itself, itself if i % 2 else 0, itself)
        for at in range(page, page + PAGE, 64):
            head = at + 8 if of_table or i < 2 else 0
            kernel.write(at, 0, head, head)
    kernel.variable("futex_queues", pages[0])
    marked = kernel.marked()
    assert marked.nodes.blocks.pages.tolist()[-4:] == [2, 2, 2, 2]
    assert reached(marked, *pages) == [True] * 2 + [of_table] * 6


def test_each_level_of_an_iommus_tables_holds_the_next(kernel: Kernel) -> None:
    """A domain knows its first table by pointer; tables of few entries, and empty ones, are usual
    where a device maps little: VT-d on a 6.1 lost 84 of them."""
    top, context, second, third, empty = (kernel.page() for _ in range(5))
    data, other, number = (kernel.page() for _ in range(3))
    kernel.write(top + 8 * 3, second - DIRECT | 3, context - DIRECT | 1)
    kernel.write(context + 0x80, second - DIRECT | 1, 0x102)  # a context entry: its domain behind
    kernel.write(second + 8 * 511, third - DIRECT | 3)
    kernel.write(third + 8 * 510, empty - DIRECT | 3, data - DIRECT | 3)
    kernel.write(data, *range(3, 900, 3))
    kernel.write(other, 1, 2, third - DIRECT | 3)
    kernel.write(number, data - DIRECT | 1)
    kernel.variable("known", other, number)
    assert reached(kernel.marked(), context, second, third, empty, data) == [False] * 5
    kernel.variable("domain", top)
    found = reached(kernel.marked(), context, second, third, empty, data)
    assert found == [True, True, True, True, False]


def test_levels_of_tables_may_be_many(kernel: Kernel) -> None:
    pages = [kernel.page() for _ in range(100)]
    for above, below in pairwise(pages):
        kernel.write(above, *[below - DIRECT | 1] * 4)
    kernel.variable("first", pages[0])
    assert reached(kernel.marked(), *pages) == [True] * 100


def test_what_lies_behind_the_objects_of_a_slab_holds_nothing(kernel: Kernel) -> None:
    """Left of an earlier use of the page: 4,096 bytes have room for 42 of 96."""
    page, one = kernel.page(), kernel.object("kmalloc-96")
    kernel.variable("known", one)
    kernel.write((one & -PAGE) + 42 * 96, page - DIRECT)
    assert reached(kernel.marked(), page) == [False]


@pytest.mark.parametrize("words", [1, MOST_ALIKE, MOST_ALIKE + 1, 700])
def test_a_number_that_many_words_hold_is_no_address(kernel: Kernel, words: int) -> None:
    """Flags and powers of two; but entries of page tables may be as many as they like."""
    page, mapped, zero = kernel.page(), kernel.page(), kernel.page()
    kernel.free_page()
    tables = [kernel.page() for _ in range(1 + words // 512)]
    some = [kernel.object("kmalloc-64", 0, page - DIRECT) for _ in range(words)]
    for i in range(4 * words):
        kernel.write(tables[i // 512 % len(tables)] + i % 512 * 8, mapped - DIRECT | 0x67)
    kernel.variable("known", *some, *tables)
    assert reached(kernel.marked(), page, mapped, zero) == [words <= MOST_ALIKE, True, False]


@pytest.mark.parametrize(
    "cache", ["mm_struct", "vm_area_struct", "kmem_cache", "sighand_cache", "kmalloc-64"]
)
def test_numbers_of_other_kinds_are_no_physical_addresses(kernel: Kernel, cache: str) -> None:
    """The heap of a program that is linked to 0x400000 ends at an address like any page's; flags
    of caches and of signals look like one."""
    page = kernel.page()
    kernel.variable("known", kernel.object(cache, 0, page - DIRECT))
    assert reached(kernel.marked(), page) == [cache == "kmalloc-64"]
