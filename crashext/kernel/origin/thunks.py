"""Where a call may go in place of a function's first byte, and which function is meant.

On arm64 modules that are too far away jump on from a table of their own (struct plt_entry). On
x86-64, where calls are counted against underflow of the return stack (retbleed=stuff, from 6.2),
they go to an instruction before the function, in its padding; and a direct call may leave out the
landing pad for indirect ones that a function begins with (arch/x86/include/asm/cfi.h, from 6.2).
Nothing else comes between: retpolines, return thunks and static calls are of other functions, and
what ftrace patches is in functions, not in calls of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.arm64 import ARCH as ARM64
from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import Words
from crashext.kernel.origin.text import MOST_TEXT, Text, read_text

_ARM_LENGTH = 4
# arch/arm64/include/asm/module.h, from bdb85cd1d206 (5.0): adrp x16; add x16, x16; br x16
_ARM_ADRP, _ARM_ADRP_MASK = 0x90000010, 0x9F00001F
_ARM_ADD, _ARM_ADD_MASK = 0x91000210, 0xFFC003FF
_ARM_BR = 0xD61F0200
# INCREMENT_CALL_DEPTH of arch/x86/include/asm/nospec-branch.h: sarq $5, %gs:__x86_call_depth,
# by an absolute address, or from 6.8 relative to the instruction.
_COUNTS = re.compile(rb"\x65\x48\xc1(?:\x3c\x25|\x3d).{4}\x05", re.DOTALL)
_BEFORE = 16  # bytes of padding that are looked at
_ALIGNED = 16  # functions that have such padding
_AT = (4, 6, 7)  # where calls of such functions may go, past an aligned address
_LANDING = 4
# endbr64, and what takes its place where nobody calls a function indirectly: osp nop3, ud1
_LANDINGS = (b"\xf3\x0f\x1e\xfa", b"\x66\x0f\x1f\x00", b"\x0f\x1f\x40\xd6", b"\x0f\xb9\x50\x00")


def led_through(host: Host, targets: Mapping[int, int], kept: Text | None = None) -> dict[int, int]:
    """Other addresses that calls of the functions `targets` go to, with the functions' numbers.

    `kept` is text that need not be read again.
    """
    if host.info().arch == ARM64:
        return _through_tables(host, targets)
    found = {}
    for address, around in _around(host, sorted(targets), kept or Text()):
        found.update(dict.fromkeys(_entries(address, around), targets[address]))
    return {other: number for other, number in found.items() if other not in targets}


def meant(host: Host, address: int) -> int:
    """The function that a call of `address` ends in."""
    if host.info().arch == ARM64:
        return _jumped_on(host, address)
    if address % _ALIGNED in _AT:
        for function in (address - address % _ALIGNED, address - address % _ALIGNED + _ALIGNED):
            if address in _entries(function, _read(host, function - _BEFORE, _BEFORE + _LANDING)):
                return function
    return address


def _around(host: Host, functions: list[int], kept: Text) -> Iterator[tuple[int, bytes]]:
    """Functions with the bytes around their first ones, where those can be read."""
    known = {f: kept.read(f - _BEFORE, _BEFORE + _LANDING) for f in functions}
    yield from ((f, around) for f, around in known.items() if around is not None)
    others = np.array([f for f, around in known.items() if around is None], np.uint64)
    data, ok = host.read_many(others - np.uint64(_BEFORE), _BEFORE + _LANDING)
    for function, around in zip(others[ok].tolist(), data[ok], strict=True):
        yield function, around.tobytes()


def _entries(function: int, around: bytes) -> list[int]:
    """Other addresses than its first byte at which an x86-64 function may be entered, by what is
    around that."""
    before, landing = around[:_BEFORE], around[_BEFORE:]
    counted = next((m for m in _COUNTS.finditer(before) if m.end() == _BEFORE), None)
    found = [] if counted is None else [function - len(counted[0])]
    return [*found, function + _LANDING] if landing in _LANDINGS else found


def _read(host: Host, address: int, size: int) -> bytes:
    try:
        return host.read(address, size)
    except ReadFault:
        return b""


def _through_tables(host: Host, targets: Mapping[int, int]) -> dict[int, int]:
    """Where modules jump on to the functions `targets`, and their numbers."""
    found: dict[int, int] = {}
    for module in host.modules():
        for start, end in module.ranges:
            if end - start > MOST_TEXT:
                continue
            data, _ = read_text(host, start, end - start)
            places, to = _jumps_on(data, start)
            pairs = zip(places.tolist(), to.tolist(), strict=True)
            found.update((at, targets[target]) for at, target in pairs if target in targets)
    return found


def _jumped_on(host: Host, address: int) -> int:
    """Where a call of `address` ends: it may be in a module's table of jumps."""
    data = np.frombuffer(_read(host, address, 3 * _ARM_LENGTH), np.uint8)
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
