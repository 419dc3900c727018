"""Every vmalloc area, who asked for it, and the page frames behind it.

Sources: include/linux/vmalloc.h, mm/vmalloc.c (4.19 to 6.12).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import distinct
from crashext.hosts.base import Host, Layout, Mask
from crashext.kernel import rbtree
from crashext.kernel.access import Words, column
from crashext.kernel.memmap import MemoryMap
from crashext.kernel.pages.vmalloc import description, tree_roots

MAX_AREAS = 1 << 22
MAX_PAGES = 1 << 26  # 256 GiB of vmalloc memory
_PIECE = 1 << 12
_READ = 1 << 17  # pointers that are read at once
_AT_ONCE = 1 << 16  # structures
VM_IOREMAP, VM_ALLOC, VM_MAP, VM_USERMAP = 1, 2, 4, 8


@dataclass(frozen=True)
class Areas:
    """All busy vmap_areas, by address. One array element an area."""

    start: Words
    end: Words
    """End with the guard page."""
    caller: Words
    """Who asked for it; 0 where nobody is noted (vm_map_ram)."""
    flags: NDArray[np.uint32]
    """vm_struct.flags; 0 where there is no vm_struct."""
    pages: NDArray[np.uint32]
    """Page frames that it owns (nr_pages)."""
    record: Words
    """Addresses of their vmap_areas."""
    structure: Words
    """Addresses of their vm_structs; 0 where there is none."""
    array: Words
    """Addresses of their arrays of struct page pointers; 0 where there is none."""
    frame: NDArray[np.int64]
    """int64[n]: page frames behind areas, ascending."""
    frame_area: NDArray[np.int32]
    """int32[n]: row of the area that each is mapped in."""
    frame_index: NDArray[np.int32]
    """int32[n]: its number in the area."""
    faults: int
    """Areas or page arrays that could not be read."""
    page_shift: int

    def at(self, frames: NDArray[np.int64]) -> tuple[NDArray[np.int64], Words]:
        """Areas that page frames are mapped in (-1: none), and the virtual addresses there."""
        if not len(self.frame):
            return np.full(len(frames), -1, np.int64), np.zeros(len(frames), np.uint64)
        at = np.minimum(np.searchsorted(self.frame, frames), len(self.frame) - 1)
        found = self.frame[at] == frames
        area = np.where(found, self.frame_area[at].astype(np.int64), -1)
        offset = self.frame_index[at].astype(np.uint64) << np.uint64(self.page_shift)
        return area, np.where(found, self.start[np.maximum(area, 0)] + offset, np.uint64(0))


def read_areas(host: Host, memory: MemoryMap) -> Areas:
    """Read them all; what cannot be read is counted in `faults`."""
    nodes, faults = _tree(host)
    area, structure = host.layout("struct vmap_area"), host.layout("struct vm_struct")
    empty = np.zeros(0, np.uint64)
    if area is None or structure is None or not len(nodes):
        none = np.zeros(0, np.int64)
        small = none.astype(np.int32)
        narrow, shift = none.astype(np.uint32), memory.space.page_shift
        rest = (empty, empty, empty, none, small, small, faults, shift)
        return Areas(empty, empty, empty, narrow, narrow, *rest)
    starts, ends, links, ok = _records(host, nodes, area)
    faults += int((~ok).sum())
    order = np.flatnonzero(ok)[np.argsort(starts[ok], kind="stable")]
    start, end, nodes, vm = starts[order], ends[order], nodes[order], links[order]
    del starts, ends, links, order
    flags, caller, pages, arrays, structures = _descriptions(host, vm, start, structure)
    del vm
    frame, which, number, missing = _frames(host, memory, start, end, pages, arrays)
    return Areas(
        start,
        end,
        caller,
        flags,
        pages,
        nodes,
        structures,
        arrays,
        frame,
        which,
        number,
        faults + missing,
        memory.space.page_shift,
    )


def _records(host: Host, nodes: Words, area: Layout) -> tuple[Words, Words, Words, Mask]:
    """va_start, va_end and vm (0: none) of vmap_areas, and which could be read. In pieces: there
    may be a million."""
    start, end, link = (np.zeros(len(nodes), np.uint64) for _ in range(3))
    readable, member = np.zeros(len(nodes), np.bool_), description(area)
    for begin in range(0, len(nodes), _AT_ONCE):
        some = slice(begin, begin + _AT_ONCE)
        rows, readable[some] = host.read_many(nodes[some], area.size)
        start[some], end[some] = column(rows, area["va_start"]), column(rows, area["va_end"])
        if member is not None:
            link[some] = column(rows, member)
    return start, end, link, readable


def _descriptions(
    host: Host, vm: Words, start: Words, structure: Layout
) -> tuple[NDArray[np.uint32], Words, NDArray[np.uint32], Words, Words]:
    """flags, caller, nr_pages and pages of areas' vm_structs, and where these are: 0 where an area
    has none."""
    flags, pages = (np.zeros(len(vm), np.uint32) for _ in range(2))
    caller, arrays, where = (np.zeros(len(vm), np.uint64) for _ in range(3))
    every = np.flatnonzero(vm)
    for begin in range(0, len(every), _AT_ONCE):
        known = every[begin : begin + _AT_ONCE]
        about, ok = host.read_many(vm[known], structure.size)
        # `vm` shares its place with subtree_max_size of free areas: believe what fits.
        ok &= column(about, structure["addr"]) == start[known]
        known, about = known[ok], about[ok]
        where[known] = vm[known]
        flags[known] = column(about, structure["flags"])
        caller[known] = column(about, structure["caller"])
        pages[known] = column(about, structure["nr_pages"])
        arrays[known] = column(about, structure["pages"])
    return flags, caller, pages, arrays, where


def by_caller(
    host: Host, callers: Words, rows: NDArray[np.integer]
) -> tuple[list[tuple[str, str]], NDArray[np.int32]]:
    """Names of those who asked for areas of some rows, and their modules, each once; and which of
    them each is: int32[rows]. In pieces, as there may be a million areas."""
    pieces = [slice(begin, begin + _AT_ONCE) for begin in range(0, len(rows), _AT_ONCE)]
    each = [distinct(callers[rows[some]]) for some in pieces]
    known = distinct(np.concatenate([np.zeros(0, np.uint64), *each]))
    numbers: dict[tuple[str, str], int] = {}
    number = np.zeros(len(known), np.int32)
    for i, caller in enumerate(known.tolist()):
        symbol = host.symbol_at(caller) if caller else None
        name = symbol.name if symbol else f"{caller:#x}" if caller else ""
        key = (name, symbol.module if symbol else "")
        number[i] = numbers.setdefault(key, len(numbers))
    which = np.empty(len(rows), np.int32)
    for some in pieces:
        which[some] = number[np.searchsorted(known, callers[rows[some]])]
    return list(numbers), which


def _tree(host: Host) -> tuple[Words, int]:
    """Addresses of all vmap_areas, from the busy trees, and how many could not be read."""
    area = host.layout("struct vmap_area")
    if area is None:
        return np.zeros(0, np.uint64), 0
    found, faults = rbtree.nodes(host, np.array(tree_roots(host), np.uint64), MAX_AREAS)
    return found - np.uint64(area["rb_node"].offset), faults


def _frames(
    host: Host,
    memory: MemoryMap,
    start: Words,
    end: Words,
    pages: NDArray[np.uint32],
    arrays: Words,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], int]:
    """The page frames of every area from its array of struct pages, sorted by frame."""
    room = (end - start) // np.uint64(memory.space.page_size)
    rows = np.flatnonzero((arrays != 0) & (pages > 0) & (pages <= room))
    count = pages[rows].astype(np.int64)
    count = np.minimum(count, np.maximum(MAX_PAGES - (np.cumsum(count) - count), 0))
    which, number, maps, ok = _pointers(host, arrays[rows], count)
    faults = len(np.unique(which[~ok], return_counts=True)[0])
    whole = np.ones(len(rows), np.bool_)
    whole[which[~ok]] = False
    pfns, known = memory.pfns_of(maps)
    known &= whole[which]
    frame, which, number = pfns[known].astype(np.int64), which[known], number[known]
    order = np.argsort(frame, kind="stable")
    owner = rows.astype(np.int32)[which[order]]
    return frame[order], owner, number[order], faults


def _pointers(
    host: Host, arrays: Words, counts: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], Words, Mask]:
    """Arrays of so many pointers: of each pointer which array, which of its words, and the word,
    in that order; and whether it could be read."""
    which = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    before = (np.cumsum(counts) - counts).astype(np.int32)
    number = np.arange(len(which), dtype=np.int32) - np.repeat(before, counts)
    begins = np.flatnonzero(number % _PIECE == 0)
    sizes = np.diff(begins, append=len(which))
    words, ok = np.zeros(len(which), np.uint64), np.zeros(len(which), np.bool_)
    # Arrays of a length are read together: most areas are stacks, or of a few pages.
    for size in np.unique(sizes, return_counts=True)[0].tolist():
        some = begins[sizes == size]
        where = arrays[which[some]] + np.uint64(8) * number[some].astype(np.uint64)
        for at in range(0, len(some), max(1, _READ // size)):
            piece = slice(at, at + max(1, _READ // size))
            data, readable = host.read_many(where[piece], 8 * size)
            places = some[piece, None] + np.arange(size)[None]
            words[places] = np.ascontiguousarray(data).view("<u8").reshape(-1, size)
            ok[places] = readable[:, None]
    return which, number, words, ok
