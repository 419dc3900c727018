"""The memory map: where each page frame's struct page is, read in big blocks.

Sources: include/linux/mmzone.h (mem_section, SECTION_*), kernel/crash_core.c (VMCOREINFO), 4.19
to 6.12. Without VMCOREINFO's sections the map is taken as one vmemmap array up to max_pfn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise

import numpy as np

from crashext.hosts.base import Addresses, Bytes, Host, Mask, ReadFault
from crashext.kernel.access import UnknownLayout, Words, require, words_at
from crashext.kernel.addresses import AddressSpace

SOME_BLOCKS = 512
"""Blocks that are looked at of very many that the dump holds nothing of."""
MANY_BLOCKS = 1 << 12  # 64 GiB of memory
BLOCK_PAGES = 4096  # page frames a block: 256 KiB of map, 16 MiB of memory
_PIECE = 1 << 12
_AT_ONCE = 4  # blocks that are read in one go: 1 MiB, which stays in the CPU's cache
_SECTION_FLAGS = 0x3F  # low bits of section_mem_map (SECTION_MAP_LAST_BIT <= 6)
_MAX_ROOTS = 1 << 20
_MAX_PAGES = 1 << 34  # 64 TiB
_WORD = (1 << 64) - 1
Order = np.ndarray[tuple[int], np.dtype[np.intp]]
_NONE: Order = np.zeros(0, np.intp)


@dataclass(frozen=True)
class Block:
    """Some page frames in a row and their struct pages."""

    first_pfn: int
    rows: Bytes
    """uint8[pages, sizeof(struct page)]"""
    ok: Mask
    number: int = 1
    """Blocks of the map that it is."""


@dataclass(frozen=True)
class MemoryMap:
    """Where struct pages are, in blocks of `BLOCK_PAGES` page frames, the last maybe fewer."""

    host: Host = field(repr=False)
    page_size: int
    """sizeof(struct page)"""
    block_pfns: Words
    block_maps: Addresses
    """Address of the first struct page of each block."""
    block_pages: Words
    space: AddressSpace

    @cached_property
    def by_map(self) -> tuple[Order | None, Addresses]:
        """Blocks by where their struct pages are, and where that is; None: they are in order."""
        if (self.block_maps[1:] >= self.block_maps[:-1]).all():
            return None, self.block_maps
        order = np.argsort(self.block_maps, kind="stable")
        return order, self.block_maps[order]

    @property
    def pages(self) -> int:
        """Page frames that have a struct page."""
        return int(self.block_pages.sum())

    def read(self, which: Order, together: bool = False) -> Iterator[Block]:
        """Read the blocks `which` in that order, `together` some that follow each other; missing
        parts come back with `ok` False."""
        pieces = (which[at : at + _PIECE] for at in range(0, len(which), _PIECE))
        runs = map(self._in_a_row, pieces) if together else (((i, 1) for i in p) for p in pieces)
        for i, number in chain.from_iterable(runs):
            pfn, at = int(self.block_pfns[i]), int(self.block_maps[i])
            count = int(self.block_pages[i : i + number].sum())
            try:
                data = self.host.read(at, count * self.page_size)
                rows = np.frombuffer(data, np.uint8).reshape(count, self.page_size)
                yield Block(pfn, rows, np.ones(count, np.bool_), number)
            except ReadFault:
                starts = np.uint64(at) + np.arange(count, dtype=np.uint64) * np.uint64(
                    self.page_size
                )
                yield Block(pfn, *self.host.read_many(starts, self.page_size), number)

    def _in_a_row(self, which: Order) -> Iterator[tuple[int, int]]:
        """First of blocks that follow each other in `which`, in physical memory and in the map,
        and how many they are."""
        before, after = which[:-1], which[1:]
        breaks = after != before + 1
        for starts, step in ((self.block_pfns, 1), (self.block_maps, self.page_size)):
            breaks |= starts[after] != starts[before] + self.block_pages[before] * np.uint64(step)
        edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(which)]
        for begin, end in pairwise(edges):
            for at in range(begin, end, _AT_ONCE):
                yield int(which[at]), min(_AT_ONCE, end - at)

    def left_out(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Blocks of which the dump holds no page frame: bool[blocks]; none where it cannot say."""
        held = self.host.present()
        if held is None:
            return np.zeros(len(self.block_pfns), np.bool_)
        shift = self.space.page_shift
        ranges = np.array(held, np.uint64).reshape(-1, 2) >> np.uint64(shift)
        begin, end = ranges[ranges[:, 0] < ranges[:, 1]].T
        if not len(begin):
            return np.ones(len(self.block_pfns), np.bool_)
        # The last range that begins before the block's end: does it end behind its start?
        at = np.searchsorted(begin, self.block_pfns + self.block_pages, side="left") - 1
        found = (at < 0) | (end[np.maximum(at, 0)] <= self.block_pfns)
        return np.asarray(found, np.bool_)

    def parts(self, seed: int) -> tuple[Order, Order, Order]:
        """Blocks in three parts: to read; a few, drawn at random, of very many that the dump
        holds nothing of; and the rest of these."""
        absent = np.flatnonzero(self.left_out()) if len(self.block_pfns) > MANY_BLOCKS else _NONE
        if len(absent) <= MANY_BLOCKS:
            return np.arange(len(self.block_pfns)), _NONE, _NONE
        absent = np.random.default_rng(seed).permutation(absent)
        rest = np.ones(len(self.block_pfns), np.bool_)
        rest[absent] = False
        return np.flatnonzero(rest), np.sort(absent[:SOME_BLOCKS]), np.sort(absent[SOME_BLOCKS:])

    def pfns_of(self, maps: Addresses) -> tuple[Words, Mask]:
        """Page frames whose struct pages are at `maps`: ``(uint64[n], ok[n])``."""
        if not len(self.block_maps):
            return np.zeros(len(maps), np.uint64), np.zeros(len(maps), np.bool_)
        by_map, starts = self.by_map
        block = np.searchsorted(starts, maps, side="right").astype(np.int64) - 1
        chosen = np.maximum(block, 0)
        if by_map is not None:
            chosen = by_map[chosen]
        offset = (maps - self.block_maps[chosen]) // np.uint64(self.page_size)
        return self.block_pfns[chosen] + offset, (block >= 0) & (offset < self.block_pages[chosen])

    def maps_of(self, pfns: Words) -> Addresses:
        """Addresses of the struct pages of page frames that have one: uint64[n] -> uint64[n]."""
        block = np.searchsorted(self.block_pfns, pfns, side="right").astype(np.int64) - 1
        inside = np.maximum(block, 0)
        offset = pfns - self.block_pfns[inside]
        return self.block_maps[inside] + offset * np.uint64(self.page_size)

    def rows(self, pfns: Words) -> tuple[Bytes, Mask]:
        """struct pages of any page frames: ``(uint8[n, sizeof], ok[n])``."""
        block = np.searchsorted(self.block_pfns, pfns, side="right").astype(np.int64) - 1
        inside = np.maximum(block, 0)
        offset = pfns - self.block_pfns[inside]
        valid = (block >= 0) & (offset < self.block_pages[inside])
        data = np.zeros((len(pfns), self.page_size), np.uint8)
        ok = np.zeros(len(pfns), np.bool_)
        where = self.block_maps[inside] + offset * np.uint64(self.page_size)
        data[valid], ok[valid] = self.host.read_many(where[valid], self.page_size)
        return data, ok


def memory_map(host: Host, space: AddressSpace) -> MemoryMap:
    """Find the sections that have a memory map. Raises `UnknownLayout`."""
    page_size = require(host, "struct page", "flags").size
    sections = _sections(host, page_size, space.page_shift)
    if not len(sections):
        sections = _flat(host, space)
    first, maps, pages = sections.T
    blocks = -(-pages.astype(np.int64) // BLOCK_PAGES)
    start = np.arange(blocks.sum(), dtype=np.uint64)
    start -= np.repeat((np.cumsum(blocks) - blocks).astype(np.uint64), blocks)
    start *= np.uint64(BLOCK_PAGES)
    return MemoryMap(
        host,
        page_size,
        np.repeat(first, blocks) + start,
        np.repeat(maps, blocks) + start * np.uint64(page_size),
        np.minimum(np.repeat(pages, blocks) - start, np.uint64(BLOCK_PAGES)),
        space,
    )


def _sections(host: Host, page_size: int, page_shift: int) -> Words:
    """(first pfn, address of its struct page, pages) of each present section, sorted:
    uint64[n, 3]."""
    found = [np.zeros((0, 3), np.uint64)]
    fields = host.info().vmcoreinfo
    # 83e3c48729d9 (4.15) made mem_section a pointer; VMCOREINFO gives the array either way.
    root_address = fields.get("SYMBOL(mem_section)")
    length, size = fields.get("LENGTH(mem_section)"), fields.get("SIZE(mem_section)")
    bits = fields.get("NUMBER(SECTION_SIZE_BITS)")
    if root_address is None or length is None or size is None or bits is None:
        return found[0]
    entry, shift = _number(size, 8, host.info().page_size), _number(bits, page_shift, 36)
    count = _number(length, 1, _MAX_ROOTS)
    map_at = _number(fields.get("OFFSET(mem_section.section_mem_map)", "0"), 0, entry - 8)
    per_root = host.info().page_size // entry
    roots = np.uint64(_number(root_address, 0, _WORD, 16)) + np.arange(
        count, dtype=np.uint64
    ) * np.uint64(8)
    tables, ok = words_at(host, roots)
    pages = 1 << (shift - page_shift)
    total = 0
    for root in np.flatnonzero(ok & (tables != 0)).tolist():
        entries = tables[root] + np.arange(per_root, dtype=np.uint64) * np.uint64(entry)
        maps, readable = words_at(host, entries + np.uint64(map_at))
        coded = maps & np.uint64(~_SECTION_FLAGS & _WORD)
        some = np.flatnonzero(readable & (coded != 0))
        pfn = (np.uint64(root * per_root) + some.astype(np.uint64)) * np.uint64(pages)
        at = coded[some] + pfn * np.uint64(page_size)
        found.append(np.stack([pfn, at, np.full(len(some), pages, np.uint64)], axis=1))
        total += len(some) * pages
        if total > _MAX_PAGES:
            raise UnknownLayout("mem_section describes more memory than any machine has")
    return np.concatenate(found)


def _number(text: str, least: int, most: int, base: int = 10) -> int:
    """A number of VMCOREINFO that must be sane; raises `UnknownLayout`."""
    try:
        value = int(text, base)
    except ValueError:
        value = -1
    if not least <= value <= most:
        raise UnknownLayout(
            f"VMCOREINFO says {text[:20]!r} where a number {least} to {most} is due"
        )
    return value


def _flat(host: Host, space: AddressSpace) -> Words:
    pages = (space.direct.end - space.direct.start) >> space.page_shift
    if pages > _MAX_PAGES:
        raise UnknownLayout("max_pfn says more memory than any machine has")
    return np.array([(0, space.vmemmap.start, pages)], np.uint64)
