"""SLUB made of nothing, in each generation's structures: slabs whose free slots a test chose.

A `Generation` names where structures keep their members, from include/linux/mm_types.h and
slub_def.h of that time; `Maker` writes memory by it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from crashext.hosts.base import Layout
from crashext.kernel.slab.freelist import Encoding
from tests.fake import layout, word
from tests.kernel.machine import DIRECT, PG_SLAB, VMEMMAP
from tests.kernel.maker import CPUS, PAGE, PG_HEAD, PG_TAIL, AllocatorMaker, Members

PAGES = 128


@dataclass(frozen=True)
class Generation:
    """What the structures of a time look like."""

    name: str
    page: Members
    cache: Members
    encoding: Encoding = Encoding.PLAIN
    slab: Members = field(default_factory=dict)
    """struct slab, which lies where struct page does; none: struct page has its members."""

    @property
    def members(self) -> Members:
        """Of a struct page, those of a struct slab among them."""
        return {**self.page, **self.slab}

    @property
    def owner(self) -> str:
        return "slab_cache" if "slab_cache" in self.members else "slab"

    def layouts(self) -> list[Layout]:
        current = "slab" if self.slab else "page"
        found = [
            layout("struct page", 64, flags=(0, 8), **self.page),
            layout("struct kmem_cache", 256, **self.cache),
            layout("struct kmem_cache_cpu", 32, freelist=(0, 8), tid=(8, 8), **{current: (16, 8)}),
            layout("struct kmem_cache_node", 64, nr_slabs=(32, 8), total_objects=(40, 8)),
        ]
        if self.slab:
            found.append(layout("struct slab", 64, **self.slab))
        return found


_CACHE: Members = {
    "cpu_slab": (0, 8),
    "flags": (8, 8),
    "size": (24, 4),
    "object_size": (28, 4),
    "offset": (32, 4),
    "oo": (40, 8),
    "refcount": (72, 4),
    "ctor": (80, 8),
    "inuse": (88, 4),
    "name": (96, 8),
    "list": (104, 16),
    "node": (200, 8),
}
_OLD_CACHE = {("objsize" if n == "object_size" else n): m for n, m in _CACHE.items()}
_COUNTERS: Members = {
    "inuse": (24, 4, 0, 16),
    "objects": (24, 4, 16, 15),
    "frozen": (24, 4, 31, 1),
    "_mapcount": (24, 4),
}

_4_18 = Generation(
    "4.18",
    page={
        "lru": (8, 16),
        "compound_head": (8, 8),
        "slab_cache": (24, 8),
        "mapping": (24, 8),
        "freelist": (32, 8),
        "inuse": (40, 4, 0, 16),
        "objects": (40, 4, 16, 15),
        "frozen": (40, 4, 31, 1),
        "private": (40, 8),
        "page_type": (48, 4),
        "_mapcount": (48, 4),
        "_refcount": (52, 4),
    },
    cache={**_CACHE, "random": (184, 8)},
    encoding=Encoding.XOR,
)

_OF_SLABS = ("slab_cache", "freelist", "inuse", "objects", "frozen")

GENERATIONS = (
    Generation(
        "3.2",
        page={
            "_count": (28, 4),
            "freelist": (16, 8),
            "lru": (32, 16),
            **_COUNTERS,
            "private": (48, 8),
            "slab": (48, 8),
            "first_page": (48, 8),
        },
        cache=_OLD_CACHE,
    ),
    Generation(
        "3.10",
        page={
            "mapping": (8, 8),
            "freelist": (16, 8),
            "_count": (28, 4),
            "lru": (32, 16),
            **_COUNTERS,
            "private": (48, 8),
            "slab_cache": (48, 8),
            "first_page": (48, 8),
        },
        cache=_CACHE,
    ),
    Generation(
        "4.14",
        page={
            "mapping": (8, 8),
            "freelist": (16, 8),
            "_refcount": (28, 4),
            "lru": (32, 16),
            "compound_head": (32, 8),
            **_COUNTERS,
            "private": (48, 8),
            "slab_cache": (48, 8),
        },
        cache={**_CACHE, "random": (184, 8)},
        encoding=Encoding.XOR,
    ),
    _4_18,
    replace(_4_18, name="4.18 with back-ports, 5.10", encoding=Encoding.XOR_SWAPPED),
    Generation(
        "6.2, 5.14 with back-ports",
        page={n: m for n, m in _4_18.page.items() if n not in _OF_SLABS},
        cache=_4_18.cache,
        encoding=Encoding.XOR_SWAPPED,
        slab={
            "slab_cache": (8, 8),
            "freelist": (32, 8),
            "inuse": (40, 4, 0, 16),
            "objects": (40, 4, 16, 15),
            "frozen": (40, 4, 31, 1),
        },
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
    link: int
    random: int
    slabs: list[tuple[int, frozenset[int]]] = field(default_factory=list)

    def allocated(self) -> list[int]:
        """Objects that somebody has."""
        return sorted(
            first + self.slot * number
            for first, free in self.slabs
            for number in set(range(self.num)) - free
        )


class Maker(AllocatorMaker):
    """Writes one kernel's SLUB, and other pages."""

    def __init__(self, how: Generation) -> None:
        self.how = how
        super().__init__(
            *how.layouts(),
            pages=PAGES,
            bytes_pages=16,
        )
        self._pfn = 4

    def cache(self, name: str, slot: int, num: int, order: int = 0, link: int = 0) -> Made:
        """A new cache, with a per-CPU part whose slabs are none yet."""
        at, text, node = self.bytes(256), self.text(name), self.bytes(64)
        random = 0x1A2B3C4D5E6F7788 + len(name)
        values = {
            **{"cpu_slab": self._percpu, "size": slot, "object_size": slot, "objsize": slot},
            **{"offset": link, "oo": order << 16 | num, "refcount": 1, "inuse": slot},
            **{"name": text, "node": node, "random": random},
        }
        for member, (offset, *_) in self.how.cache.items():
            if member in values:
                self.host.put(at + offset, word(values[member]))
        self._percpu += 0x100
        self.link(at + self.how.cache["list"][0])
        return Made(at, name, slot, num, order, link, random)

    def page(self, pfn: int, **members: int) -> None:
        """Write members of a struct page; bit fields share their word."""
        at = VMEMMAP + 64 * pfn
        for name, value in {"flags": 0, **members}.items():
            offset, size, *bits = (0, 8) if name == "flags" else self.how.members[name]
            old = 0
            if bits:
                old = int.from_bytes(self.host.read(at + offset, size), "little")
                value <<= bits[0]
            self.host.put(at + offset, (old | value).to_bytes(size, "little"))

    def slab(self, of: Made, free: Collection[int], on_cpu: Collection[int] = ()) -> int:
        """A slab with these free slots; those `on_cpu` are on the list of a CPU that has the slab
        as its own. Returns its first object."""
        pfn, self._pfn = self._pfn, self._pfn + (1 << of.order)
        first = DIRECT + PAGE * pfn
        rng = np.random.default_rng(pfn)
        for i in range(of.num):
            self.host.put(first + of.slot * i, word(first + i, i))
        mine, cpus = (rng.permutation(sorted(some)).tolist() for some in (free, on_cpu))
        heads = [self._chain(of, first, order) for order in (mine, cpus)]
        members = {
            "freelist": heads[0],
            "inuse": of.num if on_cpu else of.num - len(mine),
            "objects": of.num,
            "frozen": int(bool(on_cpu)),
            self.how.owner: of.address,
        }
        self.page(pfn, flags=1 << PG_SLAB | (1 << PG_HEAD if of.order else 0), **members)
        for tail in range(pfn + 1, pfn + (1 << of.order)):
            if "compound_head" in self.how.page:
                self.page(tail, compound_head=VMEMMAP + 64 * pfn | 1)
            else:
                self.page(tail, flags=1 << PG_TAIL, first_page=VMEMMAP + 64 * pfn)
        if on_cpu:
            own = int.from_bytes(self.host.read(of.address, 8), "little")
            self.host.put(CPUS[1] + own, word(heads[1], 5, VMEMMAP + 64 * pfn, 0))
        of.slabs.append((first, frozenset({*free, *on_cpu})))
        return first

    def _chain(self, of: Made, first: int, order: list[int]) -> int:
        """Link the slots in this order; returns the first object, 0 for none."""
        objects = [first + of.slot * n for n in order]
        for at, following in pairwise([*objects, 0]):
            where = at + of.link
            self.host.put(where, word(self._coded(of, where, following)))
        return objects[0] if objects else 0

    def _coded(self, of: Made, where: int, following: int) -> int:
        match self.how.encoding:
            case Encoding.PLAIN:
                return following
            case Encoding.XOR:
                return following ^ of.random ^ where
        swapped = int.from_bytes(where.to_bytes(8, "little"), "big")
        return following ^ of.random ^ swapped
