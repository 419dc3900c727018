"""Where kernel and module text calls given functions: one pass over all text, as the dump has it.

Direct calls and tail jumps alone: `e8 rel32` and `e9 rel32` on x86-64, `bl` and `b` on arm64, where
modules that are too far away jump on from a table of their own (struct plt_entry). A
call through a pointer is not seen, nor one from text that is gone (__init), nor one from text that
is not in the dump.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.arm64 import ARCH as ARM64
from crashext.hosts.base import Host, Mask, ReadFault
from crashext.kernel.access import Words

_PAGE = 4096  # the smallest there are: what may be missing by itself
_MOST_TEXT = 512 << 20  # of a kernel with all its modules; more is nonsense
_PIECE = 4 << 20
_MOST_KEPT = 48 << 20  # of text that is read again function by function
_X86_CALL, _X86_JUMP = 0xE8, 0xE9
_X86_LENGTH, _ARM_LENGTH = 5, 4
_ARM_BRANCH = 0x14000000  # b; bl has the top bit set as well
_ARM_OPCODE = 0x7C000000
# arch/arm64/include/asm/module.h, from bdb85cd1d206 (5.0): adrp x16; add x16, x16; br x16
_ARM_ADRP, _ARM_ADRP_MASK = 0x90000010, 0x9F00001F
_ARM_ADD, _ARM_ADD_MASK = 0x91000210, 0xFFC003FF
_ARM_BR = 0xD61F0200


@dataclass(frozen=True)
class Text:
    """Pieces of text, whole ones alone: inside crash a function is cheaper had from here than
    asked for."""

    pieces: tuple[tuple[int, NDArray[np.uint8]], ...] = ()
    """(where it begins, bytes), by address."""

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes, where one piece has them all."""
        at = bisect_right(self.pieces, address, key=lambda piece: piece[0]) - 1
        if at < 0:
            return None
        start, data = self.pieces[at]
        first = address - start
        return data[first : first + size].tobytes() if first + size <= len(data) else None


@dataclass(frozen=True)
class CallSites:
    """Calls of the functions that were asked for, an array element each, by address."""

    address: Words
    """Of the call instruction."""
    target: NDArray[np.int64]
    """Which function, by its place in what was asked for."""
    jump: Mask
    """It is a tail jump: the function returns to its caller's caller."""
    text: int
    """Bytes of text that were looked through."""
    missing: int
    """Bytes of text that are not in the dump."""
    kept: Text = Text()


def text_areas(host: Host) -> list[tuple[int, int]]:
    """(start, end) of the kernel's text and of the modules."""
    areas = [(a, b) for module in host.modules() for a, b in module.ranges]
    first = host.address_of("_text") or host.address_of("_stext")
    last = host.address_of("_etext")
    if first is not None and last is not None:
        areas.append((first, last))
    return sorted((a, b) for a, b in areas if 0 < b - a <= _MOST_TEXT)


def find_calls(host: Host, targets: Mapping[int, int]) -> CallSites:
    """Every call of the functions at the addresses `targets`, which map to the caller's numbers."""
    scan = _x86
    if host.info().arch == ARM64:
        scan, targets = _arm, {**targets, **_through_tables(host, targets)}
    wanted = np.array(sorted(targets), np.uint64)
    numbers = np.array([targets[int(a)] for a in wanted], np.int64)
    found: list[tuple[Words, NDArray[np.int64], Mask]] = []
    text = missing = 0
    kept: list[tuple[int, NDArray[np.uint8]]] = []
    for start, end in text_areas(host):
        for at in range(start, end, _PIECE):
            if text > _MOST_TEXT:
                break
            # A call may lie across the border of two pieces.
            data, absent = _read(host, at, min(_PIECE + _X86_LENGTH - 1, end - at))
            text += min(_PIECE, end - at)
            missing += absent
            if not absent and text <= _MOST_KEPT:
                kept.append((at, data))
            found.append(scan(data, at, wanted))
    addresses = np.concatenate([np.zeros(0, np.uint64), *(a for a, _, _ in found)])
    which = np.concatenate([np.zeros(0, np.int64), *(w for _, w, _ in found)])
    jumps = np.concatenate([np.zeros(0, np.bool_), *(j for _, _, j in found)])
    addresses, order = np.unique(addresses, return_index=True)
    pieces = Text(tuple(kept))
    return CallSites(addresses, numbers[which[order]], jumps[order], text, missing, pieces)


def _through_tables(host: Host, targets: Mapping[int, int]) -> dict[int, int]:
    """Where modules jump on to the functions `targets`, and their numbers."""
    found: dict[int, int] = {}
    for module in host.modules():
        for start, end in module.ranges:
            data, _ = _read(host, start, min(end - start, _MOST_TEXT))
            places, to = _jumps_on(data, start)
            pairs = zip(places.tolist(), to.tolist(), strict=True)
            found.update((at, targets[target]) for at, target in pairs if target in targets)
    return found


def jumps_on(host: Host, address: int) -> int:
    """Where a call of `address` ends: it may be in a module's table of jumps."""
    if host.info().arch != ARM64:
        return address
    try:
        data = np.frombuffer(host.read(address, 3 * _ARM_LENGTH), np.uint8)
    except ReadFault:
        return address
    _, to = _jumps_on(data, address)
    return int(to[0]) if len(to) else address


def _jumps_on(data: NDArray[np.uint8], start: int) -> tuple[Words, Words]:
    """Entries of tables of jumps in arm64 text: where they are, and where they lead."""
    words = data[: len(data) // _ARM_LENGTH * _ARM_LENGTH].view("<u4")
    at = np.flatnonzero(words[2:] == np.uint32(_ARM_BR))
    page, low = words[at], words[at + 1]
    good = page & np.uint32(_ARM_ADRP_MASK) == np.uint32(_ARM_ADRP)
    good &= low & np.uint32(_ARM_ADD_MASK) == np.uint32(_ARM_ADD)
    at, page, low = at[good], page[good], low[good]
    where = np.uint64(start) + at.astype(np.uint64) * np.uint64(_ARM_LENGTH)
    # immhi:immlo, signed, in pages of 4 KiB whatever the kernel's are
    high = (page << np.uint32(8)).view(np.int32).astype(np.int64) >> 13 << 2
    pages = high | (page >> np.uint32(29) & np.uint32(3)).astype(np.int64)
    to = (where & ~np.uint64(0xFFF)) + (pages << 12).astype(np.uint64)
    return where, to + (low >> np.uint32(10) & np.uint32(0xFFF)).astype(np.uint64)


def _read(host: Host, start: int, size: int) -> tuple[NDArray[np.uint8], int]:
    """The bytes, zeros where the dump has none, and how many those are."""
    first = start - start % _PAGE
    pages = np.arange(first, start + size, _PAGE, dtype=np.uint64)
    data, ok = host.read_many(pages, _PAGE)
    flat = data.reshape(-1)[start - first : start - first + size]
    return np.ascontiguousarray(flat), int((~ok).sum()) * _PAGE


def _which(targets: Words, wanted: Words) -> tuple[NDArray[np.int64], Mask]:
    at = np.minimum(np.searchsorted(wanted, targets), len(wanted) - 1)
    return at.astype(np.int64), wanted[at] == targets


def _x86(
    data: NDArray[np.uint8], start: int, wanted: Words
) -> tuple[Words, NDArray[np.int64], Mask]:
    opcodes = data[: max(0, len(data) - _X86_LENGTH + 1)]
    places = np.flatnonzero((opcodes == _X86_CALL) | (opcodes == _X86_JUMP))
    relative = np.zeros(len(places), np.uint32)
    for i in range(4):
        relative |= data[places + 1 + i].astype(np.uint32) << np.uint32(8 * i)
    addresses = places.astype(np.uint64) + np.uint64(start)
    jumped = relative.astype(np.int32).astype(np.int64).astype(np.uint64)
    at, hit = _which(addresses + np.uint64(_X86_LENGTH) + jumped, wanted)
    return addresses[hit], at[hit], data[places[hit]] == _X86_JUMP


def _arm(
    data: NDArray[np.uint8], start: int, wanted: Words
) -> tuple[Words, NDArray[np.int64], Mask]:
    words = data[: len(data) // _ARM_LENGTH * _ARM_LENGTH].view("<u4")
    places = np.flatnonzero((words & np.uint32(_ARM_OPCODE)) == _ARM_BRANCH)
    offset = (words[places] << np.uint32(6)).astype(np.int32).astype(np.int64) >> 4
    addresses = places.astype(np.uint64) * np.uint64(_ARM_LENGTH) + np.uint64(start)
    at, hit = _which(addresses + offset.astype(np.uint64), wanted)
    return addresses[hit], at[hit], (words[places[hit]] >> np.uint32(31)) == 0
