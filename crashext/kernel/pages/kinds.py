"""What struct pages say of their pages, by pagekinds.c: where the members are as most kernels
have them. frames.py does the same for all, and says why."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Bytes, Member
from crashext.kernel.access import Words
from crashext.kernel.compiled import Kept, library
from crashext.kernel.slab.descriptors import SlabFields

TAIL, BUDDY, HEAD = 1, 2, 4
"""Marks: a tail of a compound page; the first page of a free block; of a slab."""
_MARKS = 16  # bits of uses, before those of marks
_TYPE, _EVERY = 0xFF000000, 0xFFFFFFFF
_MOST = 4  # values of a page type


class _Fields(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("flags", "mapping", "type", "refcount")),
        *((name, ctypes.c_int32) for name in ("link", "owner")),
        *((name, ctypes.c_int32) for name in ("lru", "swapbacked", "reserved", "slab")),
        *((name, ctypes.c_uint32) for name in ("bits", "slab_type", "buddy", "offline")),
        *((name, ctypes.c_uint32) for name in ("hugetlb", "has_slab_type", "has_buddy")),
        *((name, ctypes.c_uint32) for name in ("has_offline", "has_hugetlb")),
        ("tables", ctypes.c_uint32 * _MOST),
        ("frozen", ctypes.c_uint32 * _MOST),
        ("tables_count", ctypes.c_int32),
        ("frozen_count", ctypes.c_int32),
        ("crowds", ctypes.c_void_p),
        ("crowds_count", ctypes.c_int64),
    ]


@dataclass(frozen=True)
class Told:
    """What rows of the memory map say."""

    use: NDArray[np.uint8]
    """`FrameUse` of each, by itself."""
    marks: NDArray[np.uint8]
    uses: int
    """Which uses there are: 1 << use."""
    any: int
    """Which marks there are."""

    def marked(self, mark: int) -> NDArray[np.intp]:
        """Rows that have this mark."""
        if not self.any & mark:
            return np.zeros(0, np.intp)
        return np.flatnonzero(self.marks & mark)


@dataclass(frozen=True)
class PageValues:
    """Where a row of the memory map has what, and values that mean something; None: this kernel
    has no such thing."""

    mapping: Member | None
    page_type: Member | None
    refcount: Member | None
    bits: dict[str, int | None]
    """Of page flags."""
    typed: bool
    """Page types are numbers in the top byte."""
    tables: set[int]
    frozen: list[int]
    buddy: int | None
    offline: int | None
    hugetlb: int | None
    crowds: Words


class PageKinds:
    """The loop, for one kernel."""

    def __init__(self, function: ctypes._NamedFuncPointer, fields: _Fields, kept: Kept) -> None:
        self._function, self._fields, self._kept = function, fields, kept

    def of(self, rows: Bytes) -> Told:
        """Of rows that were all read, each by itself."""
        rows = np.ascontiguousarray(rows)
        use, marks = np.empty((2, len(rows)), np.uint8)
        seen = self._function(
            ctypes.byref(self._fields),
            rows.ctypes.data,
            len(rows),
            use.ctypes.data,
            marks.ctypes.data,
        )
        return Told(use, marks, seen & (1 << _MARKS) - 1, seen >> _MARKS)


def page_kinds(size: int, slab: SlabFields, values: PageValues) -> PageKinds | None:
    """None without a compiler, or where members are not as they are in most kernels."""
    known = library()
    flags, link = slab.page["flags"], slab.tails.link
    whole = (flags, link, slab.owner, values.mapping)
    halves = (values.page_type, values.refcount)
    usual = all(m is None or (m.size == 8 and not m.bit_size) for m in whole)
    usual &= all(m is None or (m.size == 4 and not m.bit_size) for m in halves)
    inside = (0 <= m.offset <= size - m.size for m in (*whole, *halves) if m is not None)
    usual &= all(inside)  # debug info may be of another kernel, or damaged
    usual &= max(len(values.tables), len(values.frozen)) <= _MOST
    if known is None or link is None or not usual:
        return None
    own = slab.page.first_of("page_type", "_mapcount")
    if slab.flag is None and own != values.page_type:
        return None
    kept = Kept()
    bits = _TYPE if values.typed else _EVERY

    def at(member: Member | None) -> int:
        return -1 if member is None else member.offset

    def bit(name: str) -> int:
        number = values.bits[name]
        return -1 if number is None else number

    typed = values.page_type is not None
    return PageKinds(
        known.crashext_kinds_of_pages,
        _Fields(
            size=size,
            flags=flags.offset,
            mapping=at(values.mapping),
            type=at(values.page_type),
            refcount=at(values.refcount),
            link=link.offset,
            owner=slab.owner.offset,
            lru=bit("lru"),
            swapbacked=bit("swapbacked"),
            reserved=bit("reserved"),
            slab=-1 if slab.flag is None else slab.flag,
            bits=bits,
            slab_type=slab.page_type or 0,
            buddy=(values.buddy or 0) & bits,
            offline=values.offline or 0,
            hugetlb=values.hugetlb or 0,
            has_slab_type=slab.flag is None,
            has_buddy=typed and values.buddy is not None,
            has_offline=typed and values.offline is not None,
            has_hugetlb=typed and values.hugetlb is not None,
            tables=(ctypes.c_uint32 * _MOST)(*values.tables),
            frozen=(ctypes.c_uint32 * _MOST)(*values.frozen),
            tables_count=len(values.tables),
            frozen_count=len(values.frozen),
            crowds=kept.array(values.crowds, np.uint64),
            crowds_count=len(values.crowds),
        ),
        kept,
    )
