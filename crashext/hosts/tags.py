"""Tags that arm64 kernels with KASAN keep in the top byte of pointers: taken off what is read.

The hardware ignores that byte, and a pointer in memory has any value there: no list, slab or
reference is found by such a word. Every word that is read and can only be a tagged address of the
kernel's half is given the address that it means; content loses nothing but the tag.

Sources: Documentation/dev-tools/kasan.rst, mm/kasan/hw_tags.c and sw_tags.c (5.0 to 6.12).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from crashext.hosts.arm64 import ARCH, vmcoreinfo_number
from crashext.hosts.base import Addresses, Bytes, Info

_TOP = 0xFF << 56
_HARDWARE, _SOFTWARE = "kasan_init_hw_tags_cpu", "__hwasan_tag_memory"
_LEAST_OF_HARDWARE = 0xF0  # MTE has four bits, and the other four stay set
_MOST_BITS = 52  # of VA_BITS


@dataclass(frozen=True)
class PointerTags:
    """How tagged pointers of one kernel look."""

    ones: int
    """Bits below the tag that all addresses of the kernel's half have set."""
    least: int
    """The smallest tag."""

    def off(self, words: Addresses) -> Addresses:
        """uint64[n] -> uint64[n]: addresses without their tags, other words as they are."""
        ones = np.uint64(self.ones)
        tagged = (words & ones == ones) & (words >= np.uint64(self.least << 56))
        return cast(Addresses, np.where(tagged, words | np.uint64(_TOP), words))

    def off_bytes(self, address: int, data: bytes) -> bytes:
        """What was read at `address`; a word of which only a part was read stays."""
        start = -address % 8
        count = (len(data) - start) // 8
        if count <= 0:
            return data
        words = np.frombuffer(data, "<u8", count, start)
        return data[:start] + self.off(words).tobytes() + data[start + 8 * count :]

    def off_rows(self, addresses: Addresses, rows: Bytes) -> None:
        """The same for uint8[n, size], read at uint64[n], in place."""
        starts = (-addresses.astype(np.int64) % 8).astype(np.intp)
        for start in np.unique(starts).tolist():
            end = start + max(0, rows.shape[1] - start) // 8 * 8
            chosen = np.flatnonzero(starts == start)
            words = np.ascontiguousarray(rows[chosen, start:end]).view("<u8")
            rows[chosen, start:end] = self.off(words).view(np.uint8)


def pointer_tags(info: Info, address_of: Callable[[str], int | None]) -> PointerTags | None:
    """Of this kernel; None where its pointers have none."""
    if info.arch != ARCH:
        return None
    hardware = address_of(_HARDWARE) is not None
    if not hardware and address_of(_SOFTWARE) is None:
        return None
    bits = min(vmcoreinfo_number(info.vmcoreinfo, "VA_BITS") or _MOST_BITS, _MOST_BITS)
    return PointerTags((1 << 56) - (1 << bits), _LEAST_OF_HARDWARE if hardware else 0)
