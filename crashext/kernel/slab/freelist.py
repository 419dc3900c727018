"""Free slots from SLUB's freelists: decoded, walked for many slabs at once, never trusted.

A freelist links the free slots of one slab through a word inside each of them. With
CONFIG_SLAB_FREELIST_HARDENED (2482ddec670f, 4.14) that word is encoded:
    next ^ kmem_cache.random ^ address of the word           before 1ad53d9fa3f6 (5.7)
    next ^ kmem_cache.random ^ byte-swapped address          since, and back-ported widely
No debug info tells the two apart, so the freelists themselves decide (`prove_encoding`). Where
pointers have tags of KASAN's in their top byte, that byte of what was decoded means nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import cast

import numpy as np

from crashext.hosts.base import Bytes, Mask
from crashext.kernel.access import Words
from crashext.kernel.slab.caches import SlabCache


class Encoding(enum.Enum):
    """How a free slot stores its next pointer."""

    PLAIN = "plain"
    XOR = "xor"
    XOR_SWAPPED = "xor-swapped"


_FORMS = (Encoding.XOR_SWAPPED, Encoding.XOR, Encoding.PLAIN)  # newest first
_LISTS_LEAST = 32
_NARROW = 16  # lists below which step by step in Python is faster than numpy (25 us a step)
_WORD = (1 << 64) - 1
_SIGN = 1 << 55  # of an address below its tag


@dataclass(frozen=True)
class Walk:
    """What the walk of many slabs' freelists found."""

    free: Mask
    """bool[n, objects]"""
    broken: Mask
    """bool[n]: the list left its slab, ran in a circle, or came to an unreadable slot."""


def walk(
    cache: SlabCache,
    encoding: Encoding,
    data: Bytes,
    readable: Mask,
    bases: Words,
    heads: Words,
) -> Walk:
    """Follow the freelists of n slabs in lockstep; the last few, which are long, one by one.

    `data` is uint8[n, bytes] (whole slabs), `readable` bool[n, objects], `bases` the slabs'
    addresses, `heads` their first free objects (0: none). At most objects + 1 steps are taken,
    since no slot can be on a sound list twice.
    """
    slabs, objects = readable.shape
    slot_words = np.uint64(cache.slot_size)
    start = bases + np.uint64(cache.red_left_pad)
    free = np.zeros((slabs, objects), np.bool_)
    broken = np.zeros(slabs, np.bool_)
    rows = np.flatnonzero(heads)
    at = heads[rows]
    for _ in range(objects + 1):
        if len(rows) <= _NARROW:
            break
        offset = at - start[rows]
        slot = offset // slot_words
        sound = (offset % slot_words == 0) & (slot < objects)
        index = np.where(sound, slot, 0).astype(np.intp)
        sound &= readable[rows, index] & ~free[rows, index]
        broken[rows[~sound]] = True
        rows, at, index = rows[sound], at[sound], index[sound]
        free[rows, index] = True
        at = _next(cache, encoding, data, rows, at, index)
        rows, at = rows[at != 0], at[at != 0]
    for row, here in zip(rows.tolist(), at.tolist(), strict=True):
        slab = (data[row].tobytes(), readable[row], int(start[row]))
        broken[row] = not _follow(cache, encoding, slab, here, free[row])
    return Walk(free, broken)


def _follow(
    cache: SlabCache, encoding: Encoding, slab: tuple[bytes, Mask, int], at: int, free: Mask
) -> bool:
    """Go on along one list, adding to `free`; whether it ends as it should."""
    data, readable, start = slab
    size, objects, seen = cache.slot_size, len(readable), free.view(np.uint8).data
    key = 0 if cache.freelist_random is None else cache.freelist_random
    plain = encoding is Encoding.PLAIN or cache.freelist_random is None
    while at:
        slot, beside = divmod((at - start) & _WORD, size)
        if beside or slot >= objects or seen[slot] or not readable[slot]:
            return False
        seen[slot] = 1
        where = slot * size + cache.red_left_pad + cache.freelist_offset
        stored = int.from_bytes(data[where : where + 8], "little")
        link = (at + cache.freelist_offset) & _WORD
        if encoding is Encoding.XOR_SWAPPED:
            link = int.from_bytes(link.to_bytes(8, "little"), "big")
        at = stored if plain else stored ^ key ^ link
        if cache.tagged:
            at = (at & _WORD >> 8 ^ _SIGN) - _SIGN & _WORD
    return True


def _next(
    cache: SlabCache,
    encoding: Encoding,
    data: Bytes,
    rows: np.ndarray[tuple[int], np.dtype[np.intp]],
    at: Words,
    index: np.ndarray[tuple[int], np.dtype[np.intp]],
) -> Words:
    where = index * cache.slot_size + cache.red_left_pad + cache.freelist_offset
    window = where[:, None] + np.arange(8)
    stored = np.ascontiguousarray(data[rows[:, None], window]).view("<u8").reshape(len(rows))
    if encoding is Encoding.PLAIN or cache.freelist_random is None:
        return cast(Words, stored)
    link = at + np.uint64(cache.freelist_offset)
    if encoding is Encoding.XOR_SWAPPED:
        link = link.byteswap()
    decoded = stored ^ np.uint64(cache.freelist_random) ^ link
    if cache.tagged:
        decoded = ((decoded << np.uint64(8)).view(np.int64) >> 8).view(np.uint64)
    return cast(Words, decoded)


@dataclass(frozen=True)
class Proof:
    """What some freelists say about how this kernel encodes all of them."""

    lists: int = 0
    failures: tuple[int, ...] = (0,) * len(_FORMS)
    """Broken lists under each of `_FORMS`."""

    def __add__(self, other: Proof) -> Proof:
        pairs = zip(self.failures, other.failures, strict=True)
        return Proof(self.lists + other.lists, tuple(a + b for a, b in pairs))

    @property
    def encoding(self) -> Encoding:
        """The form under which fewest lists are broken; ties go to the newer."""
        return _FORMS[min(range(len(_FORMS)), key=lambda i: self.failures[i])]

    @property
    def decided(self) -> bool:
        """One form fits nearly all of enough lists, and none of the others does."""
        best, second, *_ = sorted(self.failures)
        return self.lists >= _LISTS_LEAST and 10 * best < self.lists < 2 * second


def prove_encoding(
    cache: SlabCache, data: Bytes, readable: Mask, bases: Words, heads: Words
) -> Proof:
    """Walk these freelists in every form; empty ones say nothing.

    A wrong encoding sends the second step to a random address, so a handful of lists with two
    entries decide. One cache may have none: a kernel has one encoding, so add up all caches'.
    """
    some = np.flatnonzero(heads)
    if not len(some) or cache.freelist_random is None:
        return Proof()
    sound = (data[some], readable[some], bases[some], heads[some])
    return Proof(len(some), tuple(int(walk(cache, f, *sound).broken.sum()) for f in _FORMS))
