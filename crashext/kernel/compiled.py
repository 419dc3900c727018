"""The compiled loops of *.c, where the package was installed with a C compiler at hand.

Everything has a slower twin in numpy, which is what tests compare with: nobody needs a compiler.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crashext.kernel.access import Words
from crashext.kernel.byframe import ByFrame
from crashext.kernel.loops import installed, opened


class FrameTable(ctypes.Structure):
    """struct by_frame."""

    _fields_ = [
        ("number", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("length", ctypes.c_int64),
        ("shift", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    ]


class SlotsTable(ctypes.Structure):
    """struct slots."""

    _fields_ = [
        ("row_of_page", FrameTable),
        ("begin", ctypes.c_void_p),
        ("size", ctypes.c_void_p),
        ("length", ctypes.c_void_p),
        ("objects", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("page_shift", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    ]


class _Physical(ctypes.Structure):
    _fields_ = [
        ("of_frame", FrameTable),
        ("flags", ctypes.c_uint64),
        ("present", ctypes.c_uint64),
        ("limit", ctypes.c_uint64),
        ("entries", ctypes.c_int64),
        ("page_shift", ctypes.c_int32),
        ("first_node", ctypes.c_int32),
        ("least", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """The loops; None where they were not compiled."""
    found = installed()
    return None if isinstance(found, str) else _declared(found)


def load(path: Path) -> ctypes.CDLL | None:
    """Those of a file; None where it is missing, or of another machine or version."""
    found = opened(path)
    return None if isinstance(found, str) else _declared(found)


def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    """With what each function takes and returns."""
    slots = ctypes.POINTER(SlotsTable)
    words, count = ctypes.c_void_p, ctypes.c_int64
    found.crashext_locate.argtypes = [slots, words, count, words, words]
    found.crashext_locate.restype = None
    found.crashext_pointers.argtypes = [words, words, words, count, ctypes.c_uint64, words]
    found.crashext_pointers.restype = count
    found.crashext_kinds_of_pages.argtypes = [words, words, count, words, words]
    found.crashext_kinds_of_pages.restype = ctypes.c_uint32
    offset = ctypes.c_int32
    found.crashext_slab_heads.argtypes = [
        *(words, count, count, offset, offset, offset, ctypes.c_uint32, offset, words)
    ]
    found.crashext_slab_heads.restype = None
    physical = ctypes.POINTER(_Physical)
    found.crashext_physical.argtypes = [physical, words, count, words, words, words]
    found.crashext_physical.restype = count
    _of_code(found)
    return found


def _of_code(found: ctypes.CDLL) -> None:
    """The loops of instructions.c."""
    words, count = ctypes.c_void_p, ctypes.c_int64
    found.crashext_lines_text.argtypes = [words, count, words]
    found.crashext_lines_text.restype = count
    found.crashext_lines.argtypes = [words, count, *(words,) * 7]
    found.crashext_lines.restype = count
    found.crashext_jumps.argtypes = [words, count, words, words]
    found.crashext_jumps.restype = None
    found.crashext_set_last.argtypes = [words, count, ctypes.c_uint32, count, count]
    found.crashext_set_last.restype = count


class Kept:
    """Arrays that the loops' tables point at."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []

    def array(self, values: NDArray[Any], kind: Any) -> int:
        """Where the values are, for as long as this lives."""
        self._arrays.append(np.ascontiguousarray(values, kind))
        return self._arrays[-1].ctypes.data

    def by_frame(self, frames: ByFrame[np.int32] | ByFrame[np.bool_]) -> FrameTable:
        """The same of a value for each page frame."""
        number, rows, shift = frames.tables
        where = None if number is None else self.array(number, np.int32)
        return FrameTable(where, self.array(rows, rows.dtype), len(frames), shift)


class SlotLoops:
    """Which slots addresses are in, by the tables of `SlotTable`."""

    def __init__(
        self,
        library: ctypes.CDLL,
        row_of_page: ByFrame[np.int32],
        begin: NDArray[np.int64],
        size: NDArray[Any],
        length: NDArray[Any],
        objects: NDArray[Any],
        first: NDArray[np.int64],
        page_shift: int,
    ) -> None:
        self.library = library
        self.kept = kept = Kept()
        self.table = SlotsTable(
            kept.by_frame(row_of_page),
            kept.array(begin, np.int64),
            kept.array(size, np.uint32),
            kept.array(length, np.uint32),
            kept.array(objects, np.uint32),
            kept.array(first, np.int64),
            page_shift,
        )

    def locate(self, offsets: Words) -> tuple[NDArray[np.int64], Words]:
        """See `SlotTable.locate`."""
        offsets = np.ascontiguousarray(offsets, np.uint64)
        slots, within = np.empty(len(offsets), np.int64), np.empty(len(offsets), np.uint64)
        self.library.crashext_locate(
            self.table, offsets.ctypes.data, len(offsets), slots.ctypes.data, within.ctypes.data
        )
        return slots, within


class PhysicalLoops:
    """Which words are physical addresses of nodes; see `PhysicalAddresses`."""

    def __init__(
        self,
        library: ctypes.CDLL,
        of_frame: ByFrame[np.int32],
        flags: int,
        present: int,
        page_shift: int,
        first_node: int,
        least: int,
    ) -> None:
        self._library, self._kept = library, Kept()
        limit, entries = len(of_frame) << page_shift, (1 << page_shift) // 8
        rest = (limit, entries, page_shift, first_node, least)
        self._table = _Physical(self._kept.by_frame(of_frame), flags, present, *rest)

    def find(
        self, words: Words, wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Indices of words of pages, of which some are wanted, and the nodes that they name."""
        words = np.ascontiguousarray(words, np.uint64)
        wanted = np.ascontiguousarray(wanted)
        at, node = np.empty((2, len(words)), np.int32)
        found = self._library.crashext_physical(
            self._table,
            words.ctypes.data,
            len(wanted),
            wanted.ctypes.data,
            at.ctypes.data,
            node.ctypes.data,
        )
        return at[:found], node[:found]
