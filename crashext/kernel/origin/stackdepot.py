"""The stack depot: from a 32-bit handle to the return addresses of a stack.

Every record says which handle it answers to, so a wrong idea of the layout finds nothing rather
than a wrong stack.

Sources: lib/stackdepot.c (4.19, 6.1, 6.6, 6.12).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.distinct import distinct
from crashext.hosts.base import Host, Layout
from crashext.kernel.access import Words, column, words_at
from crashext.kernel.addresses import page_shift, page_size

_ALIGN = 4  # DEPOT_STACK_ALIGN: offsets count 16 bytes
_POOL_PAGES = 4  # 1 << DEPOT_POOL_ORDER
_MAX_FRAMES = 64  # CONFIG_STACKDEPOT_MAX_FRAMES
_MAX_HEADER = 256  # bytes before the frames: 24 to 40 in the kernels known
_PROBES = 64  # handles that decide which way of decoding is this kernel's
# Where the debug info does not have the union: (bits of the pool's number, what is added to it).
_GENERATIONS = (
    (21, 0),  # cd11016e5f52 (4.6)
    (16, 0),  # when five bits became the caller's own (5.16 to 6.7)
    (17, 0),  # 6.8, which dropped the valid bit
    (17, 1),  # 3ee34eabac2a (6.9): no stack may have handle 0
)
_OFFSET_BITS = 10  # of pages of 4 KiB; a pool is four pages, whatever their size
_USUAL_SHIFT = 12

Stack = tuple[int, ...]


@dataclass(frozen=True)
class _Coding:
    """One way to read a handle."""

    pool_bits: int
    bias: int
    """What the kernel added to the number of the pool."""
    indirect: bool
    """The symbol is a pointer to the array of pools, not the array."""
    offset_bits: int

    @property
    def mask(self) -> int:
        """The bits that say where the record is; those above are flags, or the caller's own."""
        return (1 << self.pool_bits + self.offset_bits) - 1

    def pool(self, handles: Words) -> Words:
        return (handles & np.uint64((1 << self.pool_bits) - 1)) - np.uint64(self.bias)

    def offset(self, handles: Words) -> Words:
        return (handles >> np.uint64(self.pool_bits) & np.uint64((1 << self.offset_bits) - 1)) << (
            np.uint64(_ALIGN)
        )


class StackDepot:
    """The stacks of one kernel, looked up in batches and kept."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._known: dict[int, Stack] = {}
        self._coding: _Coding | None = None
        # Renamed by 961c949b012f (6.3).
        self._pools = host.address_of("stack_pools") or host.address_of("stack_slabs")
        record = host.layout("struct stack_record")
        known = record is not None and all(m in record for m in ("size", "handle", "entries"))
        if not known or record is None or record["entries"].offset > _MAX_HEADER:
            record = None
        self._record = record

    @property
    def present(self) -> bool:
        """Whether this kernel has a stack depot."""
        return self._pools is not None and self._record is not None

    def stacks(self, handles: Words) -> dict[int, Stack]:
        """Return addresses, innermost first, of each handle whose record can be read."""
        wanted = distinct(handles[handles != 0])
        fresh = np.array([h for h in wanted.tolist() if h not in self._known], np.uint64)
        if len(fresh) and self._pools is not None and self._record is not None:
            coding = self._coding or self._decide(self._record, fresh[:_PROBES])
            if coding is not None:
                self._known |= self._fetch(self._record, coding, fresh)
        return {h: self._known[h] for h in wanted.tolist() if h in self._known}

    def _decide(self, record: Layout, handles: Words) -> _Coding | None:
        """The coding by which most of some handles find their own record; None: no coding does."""
        found = {c: len(self._fetch(record, c, handles)) for c in self._candidates()}
        best = max(found, key=lambda c: found[c])
        if not found[best]:
            return None
        self._coding = best
        return best

    def _candidates(self) -> list[_Coding]:
        union = self._host.layout("union handle_parts")
        names = ("slabindex", "pool_index", "pool_index_plus_1")
        index = union.first_of(*names) if union is not None else None
        larger = page_shift(self._host) - _USUAL_SHIFT
        generations = tuple((bits - larger, bias) for bits, bias in _GENERATIONS)
        if union is not None and index is not None and index.bit_size:
            # The name says which, unless a back-port changed one without the other.
            bias = 1 if "pool_index_plus_1" in union else 0
            generations = ((index.bit_size, bias), (index.bit_size, 1 - bias))
        # stack_pools became a pointer in newer kernels; the records say which it is.
        offset = _OFFSET_BITS + larger
        return [
            _Coding(bits, bias, far, offset) for far in (False, True) for bits, bias in generations
        ]

    def _fetch(self, record: Layout, coding: _Coding, handles: Words) -> dict[int, Stack]:
        assert self._pools is not None
        start = np.uint64(self._pools)
        if coding.indirect:
            base, there = words_at(self._host, np.array([start], np.uint64))
            if not there[0] or not base[0]:
                return {}
            start = base[0]
        number, offset = coding.pool(handles), coding.offset(handles)
        sane = (number < np.uint64(1 << coding.pool_bits)) & (
            offset < np.uint64(_POOL_PAGES * page_size(self._host))
        )
        handles, number, offset = handles[sane], number[sane], offset[sane]
        pools, ok = words_at(self._host, start + number * np.uint64(8))
        ok &= pools != 0
        handles, where = handles[ok], (pools + offset)[ok]
        entries = record["entries"].offset
        rows, ok = self._host.read_many(where, entries)
        size = column(rows, record["size"])
        # The caller's bits are in its handle, not in the record's.
        own = (column(rows, record["handle"]) ^ handles) & np.uint64(coding.mask) == 0
        ok &= own & (size > 0) & (size <= _MAX_FRAMES)
        stacks: dict[int, Stack] = {}
        for length in np.unique(size[ok]).tolist():
            chosen = np.flatnonzero(ok & (size == length))
            data, there = self._host.read_many(where[chosen] + np.uint64(entries), 8 * length)
            frames = np.ascontiguousarray(data).view("<u8").reshape(len(chosen), length)
            for i in np.flatnonzero(there).tolist():
                stacks[int(handles[chosen[i]])] = tuple(frames[i].tolist())
        return stacks
