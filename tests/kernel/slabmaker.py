"""SLAB made of nothing, in each generation's structures: slabs whose free slots a test chose.

A `Generation` names where structures keep their members, from their definitions in
include/linux/slab_def.h and mm/slab.c of that time; `Maker` writes memory by it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from crashext.hosts.base import Layout
from tests.fake import layout, word
from tests.kernel.machine import DIRECT, PG_SLAB, VMEMMAP
from tests.kernel.maker import CPUS, LINE, PAGE, PG_HEAD, PG_TAIL, AllocatorMaker, Members

PAGES = 256


@dataclass(frozen=True)
class Generation:
    """What the structures of a time look like."""

    name: str
    cache: Members
    """struct kmem_cache, by the names of then."""
    page: Members
    slab: Members = field(default_factory=dict)
    """struct slab; none: struct page has its members."""
    slab_size: int = 64
    node: str = "struct kmem_cache_node"
    lock: bool = False
    """An array cache has a lock."""
    alien_around: bool = False
    """An alien array is inside a struct alien_cache."""
    width: int = 1
    """Bytes of a slot's number."""
    caches: str = "slab_caches"

    @property
    def chained(self) -> bool:
        return "free" in self.slab

    def layouts(self) -> list[Layout]:
        entry = 24 if self.lock else 16
        node: Members = {
            "shared": (64, 8),
            "alien": (72, 8),
            **({} if self.chained else {"total_slabs": (48, 8)}),
        }
        found = [
            layout("struct kmem_cache", 256, **self.cache),
            layout("struct page", 64, flags=(0, 8), **self.page),
            layout(self.node, 96, **node),
            layout("struct array_cache", entry, avail=(0, 4), limit=(4, 4), entry=(entry, 0)),
        ]
        if self.slab:
            found.append(layout("struct slab", self.slab_size, **self.slab))
        if self.alien_around:
            found.append(layout("struct alien_cache", 8 + entry, ac=(8, entry)))
        return found


_OLD_SLAB: Members = {
    "list": (0, 16),
    "colouroff": (16, 8),
    "s_mem": (24, 8),
    "inuse": (32, 4),
    "free": (36, 4),
    "nodeid": (40, 2),
}
_SIZES: Members = {
    "num": (44, 4),
    "gfporder": (48, 4),
    "flags": (40, 4),
    "name": (96, 8),
}
_NEW_SIZES: Members = {
    "size": (32, 4),
    "object_size": (36, 4),
    **_SIZES,
    "list": (104, 16),
}
_CPU_CACHE: Members = {
    "cpu_cache": (0, 8),
    **_NEW_SIZES,
    "freelist_size": (52, 4),
    "obj_offset": (56, 4),
    "node": (128, 8),
}
_IN_PAGE: Members = {
    "slab_cache": (48, 8),
    "freelist": (16, 8),
    "s_mem": (8, 8),
    "active": (24, 4),
}

GENERATIONS = (
    Generation(
        "2.6.32",
        cache={
            "array": (128, 16),
            "buffer_size": (32, 4),
            **_SIZES,
            "next": (104, 16),
            "nodelists": (176, 8),
        },
        page={"lru": (40, 16)},
        slab=_OLD_SLAB,
        slab_size=48,
        node="struct kmem_list3",
        lock=True,
        caches="cache_chain",
    ),
    Generation(
        "3.10",
        cache={
            **_NEW_SIZES,
            "obj_offset": (56, 4),
            "node": (120, 8),  # **node: what it leads to is behind array[]
            "array": (128, 64),
        },
        page={"slab_cache": (48, 8), "slab_page": (40, 8), "first_page": (32, 8)},
        slab=_OLD_SLAB,
        slab_size=48,
        lock=True,
    ),
    Generation(
        "3.14",
        cache={
            **_NEW_SIZES,
            "freelist_size": (52, 4),
            "obj_offset": (56, 4),
            "node": (120, 8),
            "array": (128, 64),
        },
        page={**_IN_PAGE, "first_page": (32, 8)},
        lock=True,
        width=4,
    ),
    Generation(
        "4.18",
        cache=_CPU_CACHE,
        page={**_IN_PAGE, "compound_head": (8, 8), "s_mem": (32, 8)},
        alien_around=True,
    ),
    Generation(
        "6.1, 16-bit",
        cache=_CPU_CACHE,
        page={"compound_head": (8, 8)},
        slab={"slab_cache": (8, 8), "freelist": (32, 8), "s_mem": (40, 8), "active": (48, 4)},
        alien_around=True,
        width=2,
    ),
)


@dataclass
class Made:
    """A cache, and which of its slots are what."""

    address: int
    name: str
    slot: int
    num: int
    order: int
    pad: int
    slabs: list[tuple[int, frozenset[int]]] = field(default_factory=list)
    """First slot, and the numbers of free ones."""
    kept: set[int] = field(default_factory=set)
    """Objects in array caches."""

    def allocated(self) -> list[int]:
        """Objects that somebody has."""
        every = (
            first + self.slot * number + self.pad
            for first, free in self.slabs
            for number in set(range(self.num)) - free
        )
        return sorted(o for o in every if o not in self.kept)


class Maker(AllocatorMaker):
    """Writes one kernel's SLAB."""

    def __init__(self, how: Generation) -> None:
        self.how = how
        super().__init__(*how.layouts(), pages=PAGES, bytes_pages=32, caches=how.caches)
        self._pfn = 1
        self.caches: list[Made] = []
        self._link = next(m for m in ("list", "next") if m in how.cache)

    def _put(self, address: int, value: int, size: int = 8) -> None:
        self.host.put(address, value.to_bytes(size, "little"))

    def _set(self, members: Members, at: int, name: str, value: int) -> None:
        if name in members:
            self._put(at + members[name][0], value, min(8, members[name][1]))

    def cache(self, name: str, slot: int, num: int, order: int = 0, pad: int = 0) -> Made:
        """A new cache; its objects are as long as the slot allows, with a word behind each pad."""
        how, at = self.how, self.bytes(256)
        text = self.text(name)
        size = slot - pad - (16 if pad else 0)
        node = self.bytes(96)
        for member, value in (
            *(("size", slot), ("buffer_size", slot), ("object_size", size), ("num", num)),
            *(("gfporder", order), ("name", text), ("obj_offset", pad)),
            ("freelist_size", num * how.width),
        ):
            self._set(how.cache, at, member, value)
        nodes = "nodelists" if "nodelists" in how.cache else "node"
        where = how.cache[nodes][0]
        if nodes == "node" and "array" in how.cache:
            behind = at + how.cache["array"][0] + 16
            self._put(at + where, behind)
            self._put(behind, node)
        else:
            self._put(at + where, node)
        self.link(at + how.cache[self._link][0])
        made = Made(at, name, slot, num, order, pad)
        self.caches.append(made)
        return made

    def slab(self, of: Made, free: Collection[int], colour: int = 0, where: str = "on") -> int:
        """A slab with these free slots, in a shuffled order; its own data is `where`: "on" it,
        "off" it, or in a free "object". Returns its first slot."""
        how, page = self.how, DIRECT + PAGE * self._pfn
        maps = VMEMMAP + 64 * self._pfn
        self._pfn += 1 << of.order
        order = np.random.default_rng(len(of.slabs)).permutation(sorted(free)).tolist()
        used = of.num - len(order)
        own = how.slab_size + 4 * of.num if how.chained else of.num * how.width
        on_front = how.chained and where == "on"
        lead = colour + (-(-own // LINE) * LINE if on_front else 0)
        first = page + lead
        assert lead + of.num * of.slot <= PAGE << of.order
        if where == "object":
            data = first + of.slot * order[-1] + of.pad if order else 0
        elif where == "off":
            data = self.bytes(own)
        else:
            data = page + colour if on_front else page + (PAGE << of.order) - own
        for i in range(of.num):
            self.host.put(first + of.slot * i + of.pad, word(first + i, i))
        if how.chained:
            self._old(of, maps, data, first, page, order, used)
        else:
            self._new(of, maps, data, first, order, used)
        of.slabs.append((first, frozenset(free)))
        return first

    def _old(
        self, of: Made, maps: int, at: int, first: int, page: int, order: list[int], used: int
    ) -> None:
        how, end = self.how, 0xFFFFFFFF
        for member, value in (
            *(("colouroff", first - page), ("s_mem", first), ("inuse", used)),
            ("free", order[0] if order else end),
        ):
            self._set(how.slab, at, member, value)
        for number, following in pairwise([*order, end]):
            self._put(at + how.slab_size + 4 * number, following, 4)
        for i in range(1 << of.order):  # each page on its own, and none compound
            row = maps + 64 * i
            self._put(row, 1 << PG_SLAB)
            if "slab_page" in how.page:
                self._set(how.page, row, "slab_page", at)
                self._set(how.page, row, "slab_cache", of.address)
            else:
                self.host.put(row + how.page["lru"][0], word(of.address, at))

    def _new(self, of: Made, maps: int, at: int, first: int, order: list[int], used: int) -> None:
        how = self.how
        members = how.slab or how.page
        self._put(maps, 1 << PG_SLAB | (1 << PG_HEAD if of.order else 0))
        for member, value in (
            *(("slab_cache", of.address), ("s_mem", first), ("active", used)),
            ("freelist", at if order else 0),  # of a full slab with its array inside: none
        ):
            self._set(members, maps, member, value)
        width = how.width
        for i, number in enumerate(order, used):
            self._put(at + width * i, number, width)
        for i in range(1, 1 << of.order):
            row = maps + 64 * i
            if "compound_head" in how.page:
                self._set(how.page, row, "compound_head", maps | 1)
            else:
                self._put(row, 1 << PG_TAIL)
                self._set(how.page, row, "first_page", maps)

    def keep(self, of: Made, kind: str, objects: list[int], stale: list[int]) -> int:
        """Put objects into the array cache of CPU "0" or "1", of the node ("shared"), or of
        another ("alien"), with stale entries behind them. Returns its address."""
        how = self.how
        header = 24 if how.lock else 16
        entries = [o - of.pad for o in (*objects, *stale)]
        node = self._node(of)
        if kind.isdigit() and "cpu_cache" in how.cache:
            at = CPUS[int(kind)] + self._array(of)
        else:
            at = self.bytes(header + 8 * len(entries) + 8) + (
                8 if kind == "alien" and how.alien_around else 0
            )
        if kind.isdigit() and "array" in how.cache:
            self._put(of.address + how.cache["array"][0] + 8 * int(kind), at)
        elif kind == "shared":
            self._put(node + 64, at)
        elif kind == "alien":
            table = self.bytes(8)
            self._put(table, at - 8 if how.alien_around else at)
            self._put(node + 72, table)
        self.host.put(at, word(len(objects) | len(entries) << 32))
        self.host.put(at + header, word(*entries))
        of.kept |= set(objects)
        return at

    def _array(self, of: Made) -> int:
        """Where its arrays are in per-CPU memory."""
        where = of.address + self.how.cache["cpu_cache"][0]
        known = int.from_bytes(self.host.read(where, 8), "little")
        if not known:
            known, self._percpu = self._percpu, self._percpu + 0x400
            self._put(where, known)
        return known

    def _node(self, of: Made) -> int:
        nodes = "nodelists" if "nodelists" in self.how.cache else "node"
        at = of.address + self.how.cache[nodes][0]
        found = int.from_bytes(self.host.read(at, 8), "little")
        if nodes == "node" and "array" in self.how.cache:
            found = int.from_bytes(self.host.read(found, 8), "little")
        return found
