"""Whose struct page is at a physical address: as the page tables and the memory map have it."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.kernel.pages import mappieces
from crashext.kernel.pages.mappieces import map_pieces
from crashext.kernel.pages.pagetables import page_tables_of, physical
from tests.conftest import lab_view
from tests.kernel.whole import DIRECT, PAGE, VMEMMAP, Kernel


@pytest.mark.parametrize("name", ["nodes", "healthy"])
def test_every_block_is_in_some_piece(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    view = lab_view(name)
    memory, shift = view.memory, view.space.page_shift
    monkeypatch.setattr(mappieces, "_AT_ONCE", 5)
    pieces = map_pieces(view)
    pfns = np.concatenate(
        [
            first + np.array([0, 1, pages - 1], np.uint64)
            for first, pages in zip(memory.block_pfns, memory.block_pages, strict=True)
        ]
    )
    where, ok = physical(view.host, view.space, memory.maps_of(pfns))
    assert ok.all()
    assert (pieces.described(where + np.uint64(memory.page_size - 1)) == pfns).all()
    assert pieces.holds((where >> np.uint64(shift)).astype(np.int64)).all()
    # They are ascending, fewer than the blocks, and nothing else is in them.
    assert (pieces.start[1:] >= pieces.end[:-1]).all()
    assert len(pieces.start) < len(memory.block_pfns)
    assert (pieces.end - pieces.start).sum() == memory.pages * memory.page_size
    outside = np.array([pieces.start[0] - 1, pieces.end[-1]])
    assert (pieces.described(outside.astype(np.uint64)) == -1).all()
    assert not pieces.holds(outside + np.array([0, 4095]) >> shift).any()


def test_struct_pages_that_were_mapped_elsewhere_are_found_there() -> None:
    """hugetlb_free_vmemmap gives the first of a huge page a page of their own, and maps the others
    to it. The stretch that was there before is other memory now: of a 7.2 with 60 huge pages a part
    of futex_queues had been taken for struct pages."""
    kernel = Kernel()
    elsewhere, view = kernel.page(), kernel.view()
    table = int(page_tables_of(view.host, view.space, np.array([VMEMMAP], np.uint64))[0][0])
    frames = [
        int.from_bytes(view.host.read(table + 8 * i, 8), "little") >> 12 & 0xFFFFF for i in range(4)
    ]
    moved = (elsewhere - DIRECT) // PAGE
    kernel.write(table + 8, moved * PAGE | 0x63, frames[0] * PAGE | 0x61)
    pieces = map_pieces(view)
    asked = np.array([frames[0], moved, frames[1], frames[2], frames[3]])
    assert pieces.holds(asked).tolist() == [True, True, False, False, True]
    offsets = (asked * PAGE + 64).astype(np.uint64)
    assert pieces.described(offsets).tolist() == [1, 65, -1, -1, 193]
