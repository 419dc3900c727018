"""Where kernel and module text calls given functions: one pass over all text, as the dump has it.

Direct calls and tail jumps alone: `e8 rel32`, `e9 rel32` and `0f 8x rel32` on x86-64, `bl`
and `b` on arm64, also those that go through something else first (thunks.py). A call through a
pointer is not seen, nor one from text that is gone (__init), nor one from text that is not in the
dump.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.arm64 import ARCH as ARM64
from crashext.hosts.base import Host, Mask
from crashext.kernel.access import Words
from crashext.kernel.origin.text import MOST_TEXT, Text, read_text, text_areas
from crashext.kernel.origin.thunks import led_through

_PIECE = 4 << 20
_MOST_KEPT = 48 << 20  # of text that is read again function by function
_X86_CALL, _X86_JUMP = 0xE8, 0xE9
_X86_LONG, _X86_CONDITIONAL = 0x0F, 0x80  # and the condition
_X86_LENGTH, _ARM_LENGTH = 5, 4
_ARM_BRANCH = 0x14000000  # b; bl has the top bit set as well
_ARM_OPCODE = 0x7C000000


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
    kept: Text = field(default_factory=Text)


def find_calls(host: Host, targets: Mapping[int, int]) -> CallSites:
    """Every call of the functions at the addresses `targets`, which map to the caller's numbers."""
    scan = _arm if host.info().arch == ARM64 else _x86
    targets = {**targets, **led_through(host, targets)}
    wanted = np.array(sorted(targets), np.uint64)
    numbers = np.array([targets[int(a)] for a in wanted], np.int64)
    found: list[tuple[Words, NDArray[np.int64], Mask]] = []
    text = missing = 0
    kept: list[tuple[int, NDArray[np.uint8]]] = []
    for start, end in text_areas(host):
        for at in range(start, end, _PIECE):
            if text > MOST_TEXT:
                break
            # A call may lie across the border of two pieces.
            data, absent = read_text(host, at, min(_PIECE + _X86_LENGTH, end - at))
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


def _which(targets: Words, wanted: Words) -> tuple[NDArray[np.int64], Mask]:
    at = np.minimum(np.searchsorted(wanted, targets), len(wanted) - 1)
    return at.astype(np.int64), wanted[at] == targets


def all_calls(data: NDArray[np.uint8], start: int, arm64: bool) -> tuple[Words, Words]:
    """Every call and jump in the text at `start`, and much else that looks like one: where each
    is, and where it leads."""
    return (_arm_targets if arm64 else _x86_targets)(data, start)[1:]


def _x86(
    data: NDArray[np.uint8], start: int, wanted: Words
) -> tuple[Words, NDArray[np.int64], Mask]:
    places, addresses, targets = _x86_targets(data, start)
    at, hit = _which(targets, wanted)
    found = addresses[hit], at[hit], data[places[hit]] == _X86_JUMP
    return _joined(found, _x86_conditional(data, start, wanted))


def _joined(
    one: tuple[Words, NDArray[np.int64], Mask], two: tuple[Words, NDArray[np.int64], Mask]
) -> tuple[Words, NDArray[np.int64], Mask]:
    address, which, jump = (np.concatenate(pair) for pair in zip(one, two, strict=True))
    return address, which, jump


def _x86_conditional(
    data: NDArray[np.uint8], start: int, wanted: Words
) -> tuple[Words, NDArray[np.int64], Mask]:
    """Conditional jumps out of a function, which clang makes of ``if (x) return f();``."""
    first = data[: max(0, len(data) - _X86_LENGTH)]
    second = data[1 : 1 + len(first)]
    places = np.flatnonzero((first == _X86_LONG) & (second & 0xF0 == _X86_CONDITIONAL))
    targets = _relative(data, places + 2, start)
    at, hit = _which(targets, wanted)
    addresses = places[hit].astype(np.uint64) + np.uint64(start)
    return addresses, at[hit], np.ones(len(addresses), np.bool_)


def _x86_targets(data: NDArray[np.uint8], start: int) -> tuple[NDArray[np.intp], Words, Words]:
    """Places in `data`, their addresses, and where each leads."""
    opcodes = data[: max(0, len(data) - _X86_LENGTH + 1)]
    places = np.flatnonzero((opcodes == _X86_CALL) | (opcodes == _X86_JUMP))
    addresses = places.astype(np.uint64) + np.uint64(start)
    return places, addresses, _relative(data, places + 1, start)


def _relative(data: NDArray[np.uint8], at: NDArray[np.intp], start: int) -> Words:
    """Where the four bytes at places `at`, with which an instruction ends, lead."""
    relative = np.zeros(len(at), np.uint32)
    for i in range(4):
        relative |= data[at + i].astype(np.uint32) << np.uint32(8 * i)
    jumped = relative.astype(np.int32).astype(np.int64).astype(np.uint64)
    return at.astype(np.uint64) + np.uint64(start + 4) + jumped


def _arm(
    data: NDArray[np.uint8], start: int, wanted: Words
) -> tuple[Words, NDArray[np.int64], Mask]:
    places, addresses, targets = _arm_targets(data, start)
    words = data[: len(data) // _ARM_LENGTH * _ARM_LENGTH].view("<u4")
    at, hit = _which(targets, wanted)
    return addresses[hit], at[hit], (words[places[hit]] >> np.uint32(31)) == 0


def _arm_targets(data: NDArray[np.uint8], start: int) -> tuple[NDArray[np.intp], Words, Words]:
    words = data[: len(data) // _ARM_LENGTH * _ARM_LENGTH].view("<u4")
    places = np.flatnonzero((words & np.uint32(_ARM_OPCODE)) == _ARM_BRANCH)
    offset = (words[places] << np.uint32(6)).astype(np.int32).astype(np.int64) >> 4
    addresses = places.astype(np.uint64) * np.uint64(_ARM_LENGTH) + np.uint64(start)
    return places, addresses, addresses + offset.astype(np.uint64)
