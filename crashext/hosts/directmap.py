"""Where a randomised direct map begins and ends, so that reads of it can be taken as physical.

On x86-64 KASLR moves the direct map, vmalloc space and the memory map, and leaves 2.5 TiB to 71 TiB
(seen on 3.10 to 7.2) between the first and the second: the map ends where the next of them begins,
and at no constant. Source: arch/x86/mm/kaslr.c (4.8 to 7.2), whose variables these are. On arm64 it
is the linear map, whose bounds are fixed, and KASLR moves what is mapped there (arm64.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.arm64 import ARCH as ARM64
from crashext.hosts.arm64 import arm64_ranges
from crashext.hosts.base import Addresses, Info, Mask

_WORD = 1 << 64


@dataclass(frozen=True)
class DirectMap:
    """[start, stop) of virtual addresses."""

    start: int = 0
    stop: int = 0
    zero: int = 0
    """Where physical address 0 is, or would be."""

    def __contains__(self, address: int) -> bool:
        return self.start <= address < self.stop

    def __bool__(self) -> bool:
        return self.start < self.stop

    def physical(self, address: int) -> int:
        """The physical address behind one in here."""
        return (address - self.zero) % _WORD

    def behind(self, address: int) -> int | None:
        """The same; None for any other address."""
        return self.physical(address) if address in self else None

    def held(self, present: NDArray[np.uint64], addresses: Addresses, size: int) -> Mask:
        """False for those in here whose `size` bytes are not in the physical ranges `present`,
        uint64[n, 2] as (start, end), ascending."""
        held = np.ones(len(addresses), np.bool_)
        inside = addresses - np.uint64(self.start) < np.uint64(self.stop - self.start)
        physical = addresses[inside] - np.uint64(self.zero)
        starts, ends = present[:, 0], present[:, 1]
        at = np.searchsorted(starts, physical, side="right").astype(np.int64) - 1
        held[inside] = (at >= 0) & (physical + np.uint64(size) <= ends[np.maximum(at, 0)])
        return held


NO_MAP = DirectMap()


def direct_map(info: Info, variable: Callable[[str], int | None]) -> DirectMap:
    """Addresses of the direct map; empty where the kernel does not say where it ends.

    `variable` gives the value of a 64-bit kernel variable, None where it cannot be read.
    """
    if info.arch == ARM64:
        found = arm64_ranges(info.vmcoreinfo, variable, info.page_size.bit_length() - 1)
        return NO_MAP if found is None else DirectMap(*found.linear, found.zero)
    start = variable("page_offset_base")
    if not start:
        return NO_MAP
    after = [variable(name) for name in ("vmalloc_base", "vmemmap_base")]
    ends = [end for end in after if end is not None and start < end < _WORD]
    return DirectMap(start, min(ends), start) if ends else NO_MAP
