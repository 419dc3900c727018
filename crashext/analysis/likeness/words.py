"""The kind of every 8-byte word of many objects at once: pointer, poison, number, text.

A word's kind is what stays the same between two objects of one type whose pointers differ. It
looks at values only; names and sentences are `decode`'s job.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import among
from crashext.hosts.base import Bytes, Module
from crashext.kernel.access import Words
from crashext.kernel.addresses import USER_HIGH, USER_LOW, AddressSpace, Range
from crashext.kernel.errnos import MAX_ERRNO
from crashext.kernel.markers import FILLED, LIST_POISON, OTHER_POISON, POISON_END
from crashext.kernel.slab.pointers import SlabPointers

SMALL = 0xFFFF
PAIR_HALF = 1 << 24  # two 32-bit numbers in one word: both plausible as counts, sizes or ids
_MIN_TEXT = 5
_PIE_LOW, _PIE_HIGH = 0x550000000000, 0x570000000000  # ELF_ET_DYN_BASE and its randomisation
_PRINTABLE = np.zeros(256, np.bool_)
_PRINTABLE[[0x09, 0x0A, *range(0x20, 0x7F)]] = True


class Kind(enum.IntEnum):
    """What a word is. The order is the order of the tests: the first that fits wins."""

    ZERO = 0
    SELF = 1
    LIST_POISON = 2
    POISON = 3
    TEXT_SYMBOL = 4
    DATA_SYMBOL = 5
    MODULE = 6
    SLAB = 7
    DIRECT = 8
    VMALLOC = 9
    VMEMMAP = 10
    PERCPU = 11
    ERR_PTR = 12
    NEGATIVE = 13
    SMALL = 14
    ASCII = 15
    INT = 16
    PAIR = 17
    USER = 18
    OPAQUE = 19

    @property
    def label(self) -> str:
        """The name that reports use."""
        return _LABELS[self]


_LABELS = {
    Kind.ZERO: "zero",
    Kind.SELF: "self-pointer",
    Kind.LIST_POISON: "list-poison",
    Kind.POISON: "poison",
    Kind.TEXT_SYMBOL: "text-symbol",
    Kind.DATA_SYMBOL: "data-symbol",
    Kind.MODULE: "module-symbol",
    Kind.SLAB: "slab-pointer",
    Kind.DIRECT: "page-pointer",
    Kind.VMALLOC: "vmalloc-pointer",
    Kind.VMEMMAP: "struct-page-pointer",
    Kind.PERCPU: "percpu-pointer",
    Kind.ERR_PTR: "error-pointer",
    Kind.NEGATIVE: "negative-number",
    Kind.SMALL: "small-number",
    Kind.ASCII: "text",
    Kind.INT: "number",
    Kind.PAIR: "two-numbers",
    Kind.USER: "user-address",
    Kind.OPAQUE: "opaque",
}

NUMBERS = (Kind.ZERO, Kind.SMALL, Kind.INT, Kind.PAIR)
_IDENTITY = (Kind.TEXT_SYMBOL, Kind.DATA_SYMBOL, Kind.MODULE, Kind.LIST_POISON, Kind.POISON)
"""Kinds whose very value says something of the type: an ops table, a callback, a poison."""
_ANONYMOUS = (Kind.DIRECT, Kind.VMALLOC, Kind.VMEMMAP, Kind.PERCPU, Kind.USER)
"""Pointers of which only the kind is alike between two objects."""


@dataclass(frozen=True)
class WordMap:
    """The words of n objects and what they are."""

    values: Words
    """uint64[n, w]"""
    kinds: NDArray[np.uint8]
    """uint8[n, w] of `Kind`."""
    details: Words
    """uint64[n, w]: cache << 32 | offset for SLAB, the offset for SELF, the value for identity
    kinds; 0 otherwise."""

    def row(self, i: int) -> WordMap:
        """One object alone."""
        return WordMap(self.values[i : i + 1], self.kinds[i : i + 1], self.details[i : i + 1])

    def rows(self, keep: NDArray[np.intp]) -> WordMap:
        """Some of the objects."""
        return WordMap(self.values[keep], self.kinds[keep], self.details[keep])

    def columns(self, keep: NDArray[np.intp]) -> WordMap:
        """Some of the words of every object."""
        return WordMap(self.values[:, keep], self.kinds[:, keep], self.details[:, keep])

    def shapes(self) -> Words:
        """One 64-bit hash an object: equal for objects of one shape. uint64[n]."""
        return row_hash(self.details * np.uint64(32) + self.kinds)

    def canonical(self) -> Bytes:
        """Objects with what differs between equals taken out: uint8[n, 8w].

        A pointer into a slab becomes a token of its cache and offset, a symbol or poison one of
        its value, an anonymous pointer one of its kind, so that a byte comparison sees equal
        pointers as wholly equal and others as wholly different. Numbers and text stay themselves.
        """
        words = self.values.copy()
        slab = self.kinds == Kind.SLAB
        where, offset = self.details[slab] >> np.uint64(32), self.details[slab]
        words[slab] = (_token(Kind.SLAB, where) & ~np.uint64(0xFFFF)) | (
            offset & np.uint64(0xFFFF) ^ np.uint64(0x5A5A)
        )
        for kind in (Kind.SELF, *_IDENTITY):
            mask = self.kinds == kind
            words[mask] = _token(kind, self.details[mask])
        for kind in _ANONYMOUS:
            words[self.kinds == kind] = _token(kind, np.zeros(1, np.uint64))[0]
        return words.view(np.uint8)

    def structure(self) -> Words:
        """One token a word for what it is rather than what it holds: uint64[n, w].

        0 for numbers, which any object may hold anywhere.
        """
        tokens = _tokens(self.kinds, self.details >> np.uint64(32))
        for kind in _IDENTITY:
            mask = self.kinds == kind
            tokens[mask] = _token(kind, self.details[mask])
        tokens[np.isin(self.kinds, np.array(NUMBERS, np.uint8))] = 0
        return tokens

    def representatives(self, canonical: Bytes) -> Words:
        """One hash an object: equal for objects that no score could tell apart, or hardly.

        Of `canonical`, but small numbers collapse too. uint64[n].
        """
        words = np.where(self.kinds == Kind.SMALL, np.uint64(1), canonical.view("<u8"))
        return row_hash(words)


def _token(kind: Kind, values: Words) -> Words:
    """Eight bytes, hardly one of them zero, that are equal only for equal values."""
    mixed = (values + np.uint64(int(kind) + 1)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed ^ mixed >> np.uint64(29)) * np.uint64(0xBF58476D1CE4E5B9)


def _tokens(kinds: NDArray[np.uint8], values: Words) -> Words:
    return (values + np.uint64(1)) * np.uint64(32) + kinds


def row_hash(words: Words) -> Words:
    """A 64-bit hash of each row: uint64[n, w] -> uint64[n]. Not cryptographic; fixed."""
    result = np.full(len(words), 0x9E3779B97F4A7C15, np.uint64)
    for column in range(words.shape[1]):  # splitmix64's finaliser, a column at a time
        result ^= words[:, column]
        result *= np.uint64(0xBF58476D1CE4E5B9)
        result ^= result >> np.uint64(27)
        result *= np.uint64(0x94D049BB133111EB)
        result ^= result >> np.uint64(31)
    return result


def count_distinct(values: Words | NDArray[np.int64]) -> int:
    """How many different values; sorting is three times faster than numpy 2.4's hashed unique."""
    ordered = np.sort(values)
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + 1 if len(ordered) else 0


def as_words(content: Bytes) -> Words:
    """Objects as little-endian words, the last one filled up with zeros: uint8[n, s]."""
    n, size = content.shape
    whole = (size + 7) // 8 * 8
    if whole != size:
        padded = np.zeros((n, whole), np.uint8)
        padded[:, :size] = content
        content = padded
    return np.ascontiguousarray(content).view("<u8")


Settle = Callable[[NDArray[np.bool_], Kind], None]
"""Gives the words under a mask a kind, unless they have one."""


class Classifier:
    """Kinds of words for one kernel; without one (`offline`) by value alone."""

    def __init__(
        self,
        space: AddressSpace | None = None,
        modules: tuple[Module, ...] = (),
        pointers: SlabPointers | None = None,
    ) -> None:
        self._space, self._pointers = space, pointers
        self._modules = tuple(Range(a, b) for m in modules for a, b in m.ranges)
        self._list_poison = np.array([m.value for m in LIST_POISON], np.uint64)
        fills = [byte * 0x0101010101010101 for byte in FILLED]
        self._poison = np.array([*(m.value for m in OTHER_POISON), *fills, POISON_END], np.uint64)

    def classify(self, content: Bytes, addresses: Words) -> WordMap:
        """Classify uint8[n, size] objects that live at `addresses`."""
        values = as_words(content)
        kinds = np.full(values.shape, Kind.OPAQUE, np.uint8)
        details = np.zeros(values.shape, np.uint64)
        open_ = np.ones(values.shape, np.bool_)

        def settle(mask: NDArray[np.bool_], kind: Kind) -> None:
            mask = mask & open_
            kinds[mask] = kind
            if kind in _IDENTITY:
                details[mask] = values[mask]
            open_[mask] = False

        settle(values == 0, Kind.ZERO)
        inside = values - addresses[:, None]
        own = open_ & (inside < np.uint64(content.shape[1]))
        details[own] = inside[own]
        settle(own, Kind.SELF)
        settle(among(values, self._list_poison), Kind.LIST_POISON)
        settle(among(values, self._poison), Kind.POISON)
        if self._space is None:
            self._settle_offline(values, settle)
        else:
            self._settle_pointers(self._space, values, kinds, details, open_, settle)
        signed = values.view(np.int64)
        settle((signed < -1) & (signed >= -MAX_ERRNO), Kind.ERR_PTR)
        settle((signed < 0) & (signed >= -(1 << 31)), Kind.NEGATIVE)
        settle(values <= SMALL, Kind.SMALL)
        text = np.zeros(values.shape, np.bool_)
        text[open_] = _is_text(values[open_])
        settle(text, Kind.ASCII)
        settle(values < np.uint64(1 << 32), Kind.INT)
        low, high = values & np.uint64(0xFFFFFFFF), values >> np.uint64(32)
        settle((low < PAIR_HALF) & (high < PAIR_HALF), Kind.PAIR)
        settle((values >= USER_LOW) & (values <= USER_HIGH), Kind.USER)
        return WordMap(values, kinds, details)

    def _settle_pointers(
        self,
        space: AddressSpace,
        values: Words,
        kinds: NDArray[np.uint8],
        details: Words,
        open_: NDArray[np.bool_],
        settle: Settle,
    ) -> None:
        settle(space.text.holds(values), Kind.TEXT_SYMBOL)
        settle(space.image.holds(values), Kind.DATA_SYMBOL)
        for area in self._modules:
            settle(area.holds(values), Kind.MODULE)
        direct = open_ & space.direct.holds(values)
        if self._pointers is not None and direct.any():
            unique, inverse = np.unique(values[direct], return_inverse=True)
            targets = self._pointers.resolve(unique)
            cache = targets.cache[inverse]
            coded = (np.maximum(targets.cache, 0).astype(np.uint64) << np.uint64(32)) | (
                targets.offset
            )
            slab = np.zeros(values.shape, np.bool_)
            slab[direct] = cache >= 0
            details[direct] = np.where(cache >= 0, coded[inverse], np.uint64(0))
            settle(slab, Kind.SLAB)
        settle(direct, Kind.DIRECT)
        settle(space.vmalloc.holds(values), Kind.VMALLOC)
        settle(space.vmemmap.holds(values), Kind.VMEMMAP)
        # A per-CPU pointer is an address once a CPU's offset is added to it.
        shift = np.uint64(space.percpu_offsets[0] if space.percpu_offsets else 0)
        if shift:
            # Programs are mapped at 0x55..., which a CPU's offset may also carry into vmalloc.
            program = (values >= np.uint64(_PIE_LOW)) & (values < np.uint64(_PIE_HIGH))
            large = open_ & (values > np.uint64(0xFFFFFFFF)) & ~program
            settle(large & space.vmalloc.holds(values + shift), Kind.PERCPU)
            settle(large & space.percpu_first_chunk.holds(values + shift), Kind.PERCPU)

    def _settle_offline(self, values: Words, settle: Settle) -> None:
        """Without a kernel only the architecture's fixed ranges are known (x86-64)."""
        settle(values - np.uint64(0xFFFFFFFF80000000) < np.uint64(0x40000000), Kind.TEXT_SYMBOL)
        settle(values - np.uint64(0xFFFFFFFFC0000000) < np.uint64(0x3F000000), Kind.MODULE)
        settle(values - np.uint64(0xFFFF880000000000) < np.uint64(0x400000000000), Kind.DIRECT)
        settle(values - np.uint64(0xFFFFC90000000000) < np.uint64(0x200000000000), Kind.VMALLOC)
        settle(values - np.uint64(0xFFFFEA0000000000) < np.uint64(0x10000000000), Kind.VMEMMAP)


def _is_text(values: Words) -> NDArray[np.bool_]:
    """At least `_MIN_TEXT` printable characters from the first byte on, then only NULs."""
    data = values.reshape(-1, 1).view(np.uint8)
    printable = _PRINTABLE[data]
    zero = data == 0
    length = printable.sum(axis=1)
    whole = (printable | zero).all(axis=1) & (length >= _MIN_TEXT)
    # Printable first, then zeros only: no printable byte follows a zero.
    return np.asarray(whole & ~(zero[:, :-1] & printable[:, 1:]).any(axis=1), np.bool_)
