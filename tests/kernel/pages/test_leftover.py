"""Slabs and the uses of page frames, found in one pass over the memory map or in two."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crashext.hosts.base import Member
from crashext.kernel.pages import leftover
from crashext.kernel.pages.frames import Frames, FrameUse, frames
from crashext.kernel.pages.leftover import read_pages
from crashext.kernel.slab import thinning
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from tests.kernel.whole import DIRECT, PAGE, VMEMMAP, Kernel, struct_page

TABLES = 640
SLABS = TABLES * 256 // 4096
LIST_POISON1 = 0xDEAD000000000100


class Counted(Kernel):
    """A kernel whose memory map is counted when it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        plain = self.host.read

        def read(address: int, size: int) -> bytes:
            self.reads += address == VMEMMAP and size > 4096
            return plain(address, size)

        self.host.read = read  # type: ignore[method-assign]
        for _ in range(TABLES):
            self.object("kmalloc-256", 7)
        self.object("kmalloc-96", 1)
        self.user_page()
        self.block(4)


def apart(view: KernelView) -> Frames:
    """The uses, looked for after the slabs."""
    view.scan({}, 0, silent, 1 << 62)
    known = np.array([view.caches.all[i].address for i in view.index.crowds], np.uint64)
    return frames(view.host, view.memory, view.space, silent, known)


def test_one_pass_finds_what_two_find() -> None:
    kernel = Counted()
    together, by_two = KernelView(kernel.host), KernelView(kernel.host)
    found = read_pages(together, silent).frames
    assert kernel.reads == 1
    expected = apart(by_two)
    assert kernel.reads == 3
    assert (found.use[:] == expected.use[:]).all()
    assert (together.index.address == by_two.index.address).all()
    assert (together.index.cache == by_two.index.cache).all()
    assert found.count(FrameUse.SLAB) > SLABS
    assert not found.count(FrameUse.APART)


@pytest.mark.parametrize("foreseen", [True, False])
def test_slabs_of_a_crowd_are_apart_whether_or_not_counters_foresaw_it(
    foreseen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinning, "MOST", 8)
    monkeypatch.setattr(thinning, "PENDING", 1)
    kernel = Counted()
    view = KernelView(kernel.host)
    name = "kmalloc-256" if foreseen else "kmalloc-96"
    number = next(i for i, cache in enumerate(view.caches.all) if cache.name == name)
    monkeypatch.setattr(leftover, "likely_crowds", lambda caches: [number])
    found = read_pages(view, silent).frames
    assert kernel.reads == (1 if foreseen else 2)
    assert found.count(FrameUse.APART) == SLABS
    assert (found.use[:] == apart(KernelView(kernel.host)).use[:]).all()


@pytest.mark.parametrize("marked_by", ["mapping", "page type"])
def test_pages_that_compaction_may_move_are_allocations_each(marked_by: str) -> None:
    """A zram's, of which compaction has moved some: seen on a 6.1 with swap on it."""
    kernel = Kernel()
    page = kernel.host.layouts["struct page"]
    magic = Member(page["lru"].offset, 8)
    kernel.host.layouts["struct page"] = replace(page, members={**page.members, "pp_magic": magic})
    kernel.host.enumerators["PGTY_zsmalloc"] = 0xF6
    pages = [kernel.page() for _ in range(4)]
    for at, address in enumerate(pages):
        entry = VMEMMAP + 64 * ((address - DIRECT) // PAGE)
        kernel.write(entry + 8, 0 if at == 0 else LIST_POISON1)
        if at == 3 and marked_by == "mapping":
            kernel.write(entry + 24, DIRECT | 2)
        elif at == 3:
            kernel.write(entry + 48, 1 << 32 | 0xF6000000)
    view = KernelView(kernel.host)
    rest = read_pages(view, silent).rest.frames
    found = leftover.blocks(view, rest, np.random.default_rng(0))
    first = (pages[0] - DIRECT) // PAGE
    some = (found.first >= first) & (found.first < first + 4)
    assert found.pages[some].tolist() == [3, 1]


def test_pages_of_memory_that_failed_are_nobodys() -> None:
    """PG_hwpoison: four of them were unreachable on a clean 6.1 with soft_offline_page written."""
    kernel = Kernel()
    kernel.host.enumerators["PG_hwpoison"] = 23
    pages = [kernel.page(flags=1 << 23 if at == 1 else 0) for at in range(3)]
    view = KernelView(kernel.host)
    rest = read_pages(view, silent).rest.frames
    found = leftover.blocks(view, rest, np.random.default_rng(0))
    first = (pages[0] - DIRECT) // PAGE
    assert np.isin(first + np.arange(3), rest).all()
    assert np.isin(first + np.arange(3), found.first).tolist() == [True, False, True]
    assert found.looked == len(rest)


@pytest.mark.parametrize("failed", [0, 1, 3])
def test_of_a_larger_allocation_failed_memory_stays_a_part(failed: int) -> None:
    """What the kernel itself uses cannot be taken away: MF_IGNORED of memory_failure()."""
    kernel = Kernel()
    kernel.host.enumerators["PG_hwpoison"] = 23
    start = kernel.block(4)
    kernel.write(struct_page(start + PAGE * failed), 1 << 23)
    kernel.variable("owner", start)
    marked = kernel.marked()
    mine = marked.nodes.blocks.first >= (start - DIRECT) // PAGE
    assert marked.nodes.blocks.pages[mine].tolist() == [4]
    assert marked.blocks_reached()[mine].tolist() == [True]
