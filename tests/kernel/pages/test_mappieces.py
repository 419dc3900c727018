"""Whose struct page is at a physical address: as the page tables and the memory map have it."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.kernel.pages import mappieces
from crashext.kernel.pages.mappieces import map_pieces
from crashext.kernel.pages.pagetables import physical
from tests.conftest import lab_view


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
