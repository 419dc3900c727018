"""Page frames of kernels since 5.14: blocks on CPUs' free lists, and since 7.0: frozen pages."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.kernel.pages.frames import Frames, FrameUse, frames
from crashext.progress import silent
from tests.fake import layout, word
from tests.kernel.machine import VMEMMAP, Machine
from tests.kernel.pages.test_frames import FULL_PAGE

PG_HEAD = 6
TABLE, KMALLOC, BUDDY = 0xF2, 0xF8, 0xF0
PERCPU, ZONE = 0xFFFF888000F00000, 0xFFFF888000E00000


def machine(pages: int = 1024) -> Machine:
    """Page frames with one reference each, on a kernel with page types."""
    made = Machine(pages, page=FULL_PAGE)
    made.host.enumerators |= {
        "PGTY_buddy": BUDDY,
        "PGTY_table": TABLE,
        "PGTY_large_kmalloc": KMALLOC,
        "PG_head": PG_HEAD,
        "MIGRATE_PCPTYPES": 3,
    }
    for pfn in range(pages):
        made.put(pfn, 48, 0x1_FFFFFFFF)
    return made


def classified(made: Machine) -> Frames:
    return frames(made.host, made.memory, made.space, silent)


def uncounted(made: Machine, pfn: int, kind: int = 0xFF) -> None:
    made.put(pfn, 48, kind << 24 | (0xFFFFFF if kind == 0xFF else 0))


@pytest.mark.parametrize(
    ("kind", "use"),
    [(KMALLOC, FrameUse.KERNEL), (TABLE, FrameUse.TABLE), (0xFF, FrameUse.FREE)],
)
def test_a_type_tells_frozen_pages_from_free_ones(kind: int, use: FrameUse) -> None:
    made = machine()
    made.slab(8, tails=7)  # the page before is no allocation's of the page allocator
    uncounted(made, 16, kind)
    assert classified(made).use[16] == use


def test_tails_of_a_frozen_page_are_used_like_it() -> None:
    made = machine()
    uncounted(made, 16, KMALLOC)
    made.put(16, 0, 1 << PG_HEAD)
    for pfn in range(17, 20):
        uncounted(made, pfn)
        made.put(pfn, 8, (VMEMMAP + 64 * 16) | 1)
    assert (classified(made).use[16:20] == FrameUse.KERNEL).all()


def cpu_lists(made: Machine, blocks: dict[int, int]) -> None:
    """One zone whose CPU keeps the block at each pfn on the list of that number, of 14."""
    made.host.layouts |= {
        "struct pglist_data": layout("struct pglist_data", 64, node_zones=(0, 64)),
        "struct zone": layout("struct zone", 64, per_cpu_pageset=(8, 8)),
        "struct per_cpu_pages": layout("struct per_cpu_pages", 16 + 14 * 16, lists=(16, 14 * 16)),
    }
    made.host.symbols["contig_page_data"] = ZONE
    base = PERCPU - made.space.percpu_offsets[0]
    made.host.put(ZONE, word(0, base).ljust(64, b"\0"))
    lists = bytearray(16 + 14 * 16)
    for number in range(14):
        head = PERCPU + 16 + 16 * number
        node = next((VMEMMAP + 64 * p + 8 for p, n in blocks.items() if n == number), head)
        lists[16 + 16 * number : 32 + 16 * number] = word(node, node)
        if node != head:
            made.put((node - 8 - VMEMMAP) // 64, 8, head)
    made.host.put(PERCPU, bytes(lists))


def test_blocks_on_a_cpus_lists_are_free_to_their_last_page() -> None:
    """Three migrate types an order: list 7 has blocks of order 2, list 12 huge pages."""
    made = machine(2048)
    cpu_lists(made, {100: 0, 200: 7, 1024: 12})
    for first, count in ((100, 1), (200, 4), (1024, 512)):
        for pfn in range(first, first + count):
            uncounted(made, pfn)
    found = classified(made)
    free = np.flatnonzero(found.use[:] == FrameUse.FREE).tolist()
    assert free == [100, *range(200, 204), *range(1024, 1536)]
    assert found.pcp == len(free)
