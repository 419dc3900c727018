"""Where a randomised direct map begins and ends, so that reads of it can be taken as physical.

KASLR moves the direct map, vmalloc space and the memory map, and leaves 2.5 TiB to 71 TiB (seen on
3.10 to 7.2) between the first and the second: the map ends where the next of them begins, and at
no constant. Source: arch/x86/mm/kaslr.c (4.8 to 7.2), whose variables these are.
"""

from __future__ import annotations

from collections.abc import Callable

_WORD = 1 << 64


def direct_map(variable: Callable[[str], int | None]) -> range:
    """Addresses of the direct map; empty where the kernel does not say where it ends.

    `variable` gives the value of a 64-bit kernel variable, None where it cannot be read.
    """
    start = variable("page_offset_base")
    if not start:
        return range(0)
    after = [variable(name) for name in ("vmalloc_base", "vmemmap_base")]
    ends = [end for end in after if end is not None and start < end < _WORD]
    return range(start, min(ends)) if ends else range(0)
