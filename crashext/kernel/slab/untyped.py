"""The list of slab caches where no type is known: what the memory itself proves, and no more.

Offsets are found, not assumed. In struct kmem_cache the name stands before the link of slab_caches
(SLUB since 2.6.22, SLAB since 3.6); sizes are where every kmalloc-N cache has its N; the counters
of a node are where the lists beside them are as long as they say, and slabs hold what the
descriptor says. What does not prove itself is
left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import Words, string, u64, words_at

Numbers = NDArray[np.int64]

_BEFORE, _AFTER = 256, 1024  # bytes around the link that are looked at
_MOST = 4096  # caches
_IMAGE = 96 << 20  # bytes after _stext in which any kernel's data ends
_MAX_OBJECT = 1 << 23
_STEPS = 1 << 18  # along all lists of slabs
_MAX_ORDER = 10
_KERNEL = 0xFFF0000000000000  # arm64's linear map of 52 bits, the lowest of all
_KMALLOC = re.compile(r"kmalloc-(\d+)(k|M)?")
_UNITS = {None: 1, "k": 1 << 10, "M": 1 << 20}
_ENOUGH = 6  # sizes of kmalloc that must agree: arm64 had seven


@dataclass(frozen=True)
class UntypedCache:
    """One cache, as far as it is proved."""

    name: str
    object_size: int
    """0 where it is not proved."""
    slots: int | None
    """Places for objects in all its slabs, used or free. None where it is not proved."""
    used: int | None
    """Objects in use. None where it is not proved."""
    bytes: int | None
    """Of all slots."""


def untyped_caches(host: Host) -> tuple[UntypedCache, ...]:
    """The caches, largest first; none where the list does not prove itself."""
    links, names = _list(host)
    if not names:
        return ()
    data, ok = host.read_many(links - np.uint64(_BEFORE), _BEFORE + _AFTER)
    if not ok.all():
        return ()
    found = _Descriptors(names, data.view("<u4").astype(np.int64), data.view("<u8"))
    sizes = found.sizes()
    if sizes is None:
        return ()
    slots, used = _counted(host, found, sizes[1])
    some = [
        UntypedCache(
            name,
            int(sizes[0][i]),
            None if slots is None else int(slots[i]),
            None if used is None else int(used[i]),
            None if slots is None else int(slots[i] * sizes[1][i]),
        )
        for i, name in enumerate(names)
    ]
    return tuple(sorted(some, key=lambda cache: (-(cache.bytes or 0), cache.name)))


def _list(host: Host) -> tuple[Words, list[str]]:
    """(link of each cache, its name); none where no list is one of caches."""
    known = host.address_of("slab_caches")
    for head in _heads(host) if known is None else [known]:
        links = _links(host, head)
        names = _names(host, links)
        if names:
            return links, names
    return np.zeros(0, np.uint64), []


def _heads(host: Host) -> list[int]:
    """Heads of lists in the kernel image whose elements are elsewhere: slab_caches is one where
    symbols are functions only (no CONFIG_KALLSYMS_ALL).
    """
    start = int(host.info().vmcoreinfo.get("SYMBOL(_stext)", "0"), 16)
    pages = np.uint64(start) + np.arange(0, _IMAGE, 4096, dtype=np.uint64)
    data, _ = host.read_many(pages, 4096)
    words = data.view("<u8").ravel()
    end = np.uint64(start + _IMAGE)
    outside = (words >= np.uint64(_KERNEL)) & (words % np.uint64(8) == 0)
    outside &= (words < np.uint64(start)) | (words >= end)
    at = np.flatnonzero(outside[:-1] & outside[1:])
    places = np.uint64(start) + np.uint64(8) * at.astype(np.uint64)
    back, ok = words_at(host, words[at] + np.uint64(8))
    return [int(place) for place in places[ok & (back == places)]]


def _links(host: Host, head: int) -> Words:
    """The link of each element of a list, which must be whole in both directions."""
    found: list[int] = []
    try:
        at, before = u64(host, head), head
        while at != head and len(found) < _MOST:
            if u64(host, at + 8) != before:
                return np.zeros(0, np.uint64)
            found.append(at)
            at, before = u64(host, at), at
    except ReadFault:
        return np.zeros(0, np.uint64)
    return np.array(found, np.uint64)


def _names(host: Host, links: Words) -> list[str]:
    """The name of each cache; none where one of them is none, or too few are kmalloc's."""
    if len(links) < _ENOUGH:
        return []
    pointers, _ = words_at(host, links - np.uint64(8))
    try:
        names = [string(host, int(at), 64) for at in pointers]
    except ReadFault:
        return []
    if not all(re.fullmatch(r"[!-~][ -~]*", name) and "\\" not in name for name in names):
        return []
    return names if len({n for n in names if _KMALLOC.fullmatch(n)}) >= _ENOUGH else []


class _Descriptors:
    """The bytes around each cache's link."""

    def __init__(self, names: list[str], halves: Numbers, words: Words) -> None:
        self.halves, self.words = halves, words
        matches = [_KMALLOC.fullmatch(name) for name in names]
        self._kmalloc = np.array([m is not None for m in matches])
        self._told = np.array([int(m[1]) * _UNITS[m[2]] if m else 0 for m in matches])

    def sizes(self) -> tuple[Numbers, Numbers] | None:
        """(size of an object, size of its slot) of each cache."""
        right = self.halves[self._kmalloc] == self._told[self._kmalloc, None]
        sane = (self.halves > 0) & (self.halves <= _MAX_OBJECT)
        # An alignment is a power of two everywhere, and of those kmalloc caches its size.
        alignment = (self.halves & (self.halves - 1) == 0).all(axis=0)
        rows = self.halves[:, right.all(axis=0) & sane.all(axis=0) & ~alignment]
        if not rows.shape[1]:
            return None
        least, most = rows.min(axis=1), rows.max(axis=1)
        # One column is the least of all everywhere, and one the most: an object, and its slot.
        if not all((rows == edge[:, None]).all(axis=0).any() for edge in (least, most)):
            return None
        return least, most

    def slab_objects(self, slot: Numbers, page: int) -> Numbers | None:
        """SLAB's objects of a slab: num, which gfporder follows (2.6.12)."""
        columns = range(_BEFORE // 4 - 1)
        found = [c for c in columns if _fill(self.halves[:, c], self.halves[:, c + 1], slot, page)]
        return self.halves[:, found[0]] if len(found) == 1 else None

    def slub_objects(self, slot: Numbers, page: int) -> Iterator[Numbers]:
        """What may be SLUB's objects of a slab: the lower half of kmem_cache.oo (2.6.27)."""
        for column in range(_BEFORE // 4):
            order, objects = np.divmod(self.halves[:, column], 1 << 16)
            if _fill(objects, order, slot, page):
                yield objects


def _fill(objects: Numbers, order: Numbers, slot: Numbers, page: int) -> bool:
    """Whether slabs of these orders are full with so many objects."""
    if (objects < 1).any() or (order < 0).any() or (order > _MAX_ORDER).any():
        return False
    room = np.int64(page) << order
    return bool(((objects * slot <= room) & (2 * objects * slot > room)).all())


def _counted(
    host: Host, found: _Descriptors, slot: Numbers
) -> tuple[Numbers | None, Numbers | None]:
    """(slots, objects in use) of each cache: None where no column of nodes proves itself."""
    nodes, page = _nodes(host), host.info().page_size
    last = found.words.shape[1] - max(nodes, default=0)
    for column in range(_BEFORE // 8 + 2, last):
        pointers = found.words[:, [column + node for node in nodes]]
        if (pointers < np.uint64(_KERNEL)).any() or (pointers % np.uint64(8) != 0).any():
            continue
        if len(np.unique(pointers)) != pointers.size:
            continue
        data, ok = host.read_many(pointers.ravel(), 96)
        if not ok.all():
            continue
        rows = data.view("<u8").reshape(*pointers.shape, 12).astype(np.int64)
        told = _slub(host, pointers, rows)
        if told is not None and any(
            _agree(*told, objects) for objects in found.slub_objects(slot, page)
        ):
            return told[1], None
        per_slab = found.slab_objects(slot, page)
        slabs = None if per_slab is None else _slab(host, pointers, rows)
        if slabs is not None and per_slab is not None:
            slots = slabs[0] * per_slab
            return slots, slots - slabs[1]
    return None, None


def _nodes(host: Host) -> list[int]:
    """Numbers of the nodes that are online: of the first 64, one where the dump does not say."""
    told = host.info().vmcoreinfo.get("SYMBOL(node_online_map)", "")
    try:
        online = u64(host, int(told, 16))
    except (ValueError, ReadFault):
        online = 1
    return [node for node in range(64) if online >> node & 1] or [0]


def _agree(slabs: Numbers, slots: Numbers, objects: Numbers) -> bool:
    """Slabs that came smaller, when memory was short, are few."""
    as_told = slots == slabs * objects
    return bool((slots <= slabs * objects).all() and 4 * as_told.sum() >= 3 * len(as_told))


def _slub(host: Host, nodes: Words, rows: Numbers) -> tuple[Numbers, Numbers] | None:
    """list_lock, nr_partial, partial, nr_slabs, total_objects (CONFIG_SLUB_DEBUG): (slabs,
    slots).
    """
    partial, slabs, total = rows[..., 1], rows[..., 4], rows[..., 5]
    if (partial < 0).any() or (slabs < partial).any() or (total < slabs).any():
        return None
    lengths = _lengths(host, nodes + np.uint64(16))
    if lengths is None or not np.array_equal(lengths, partial) or not slabs.any():
        return None
    return slabs.sum(axis=1), total.sum(axis=1)


def _slab(host: Host, nodes: Words, rows: Numbers) -> tuple[Numbers, Numbers] | None:
    """list_lock, slabs_partial, slabs_full, slabs_free, total_slabs, free_slabs (4.10),
    free_objects: (slabs, free objects).
    """
    total, free, objects = rows[..., 7], rows[..., 8], rows[..., 9]
    if (total < free).any() or (free < 0).any() or (objects < 0).any() or not total.any():
        return None
    lists = [_lengths(host, nodes + np.uint64(at)) for at in (8, 24, 40)]
    if lists[0] is None or lists[1] is None or lists[2] is None:
        return None
    whole = lists[0] + lists[1] + lists[2]
    if not (np.array_equal(whole, total) and np.array_equal(lists[2], free)):
        return None
    return total.sum(axis=1), objects.sum(axis=1)


def _lengths(host: Host, heads: Words) -> Numbers | None:
    """How long the list at each head is, all walked a step at a time; None where one is broken."""
    flat = heads.ravel()
    lengths = np.zeros(len(flat), np.int64)
    at, ok = words_at(host, flat)
    going = np.flatnonzero(at != flat)
    steps = 0
    while len(going) and ok.all() and steps < _STEPS:
        lengths[going] += 1
        steps += len(going)
        following, ok = words_at(host, at[going])
        at[going] = following
        going = going[following != flat[going]]
    return None if len(going) or not ok.all() else lengths.reshape(heads.shape)
