"""Where an arm64 kernel has put its memory: the linear map and what lies around it.

All of it follows from VA_BITS, which VMCOREINFO tells, and memstart_addr. 14c127c957c1 (5.4)
swapped the halves of kernel space: since then the linear map is below, and the image, modules and
vmalloc above; before, the other way round. 2369f171d5c5 (6.0) put the ranges into VMCOREINFO.

Sources: arch/arm64/include/asm/memory.h, pgtable.h, kernel/crash_core.c (4.19 to 6.12).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Addresses

ARCH = "aarch64"
_SPACE = 1 << 64
_SMALLEST_BITS, _LEAST_BITS, _MOST_BITS = 48, 36, 52  # of VA_BITS: VA_BITS_MIN, and sane ones
_PAGE_STRUCT_SHIFT = 6  # STRUCT_PAGE_MAX_SHIFT
_MODULES = 128 << 20
_FIXED = 256 << 20  # between vmalloc and the memory map
_GUARD = 2 << 20  # behind the memory map, 5.4 to 5.10
_NUMBER = re.compile(r"0x[0-9a-f]{1,16}|-?[0-9]{1,20}", re.ASCII)


@dataclass(frozen=True)
class Arm64Ranges:
    """Kernel virtual memory, each as (start, end)."""

    linear: tuple[int, int]
    zero: int
    """Where the linear map would have physical address 0."""
    vmalloc: tuple[int, int]
    """The kernel image lies in it since 5.4."""
    vmemmap: tuple[int, int]
    modules: tuple[int, int]
    """Where modules are first looked a place for; those of a randomised kernel may be elsewhere."""


def arm64_ranges(
    vmcoreinfo: Mapping[str, str], variable: Callable[[str], int | None], page_shift: int
) -> Arm64Ranges | None:
    """The ranges; None where the dump does not say enough.

    `variable` gives the value of a 64-bit kernel variable, None where it cannot be read.
    """

    def number(name: str) -> int | None:
        return vmcoreinfo_number(vmcoreinfo, name)

    bits = number("VA_BITS")
    start = number("PHYS_OFFSET")
    if start is None:
        start = variable("memstart_addr")
    image = int(vmcoreinfo.get("SYMBOL(_stext)", "0"), 16)
    if bits is None or not _LEAST_BITS <= bits <= _MOST_BITS or start is None or not image:
        return None
    lowest = _SPACE - (1 << bits)
    middle = _SPACE - (1 << min(bits, _SMALLEST_BITS) - 1)
    map_shift = page_shift - _PAGE_STRUCT_SHIFT
    if image >= middle:
        linear = lowest, middle
        vmemmap = _SPACE - (1 << bits - map_shift), _SPACE - _GUARD
        modules = middle, middle + _MODULES
    else:
        linear = middle, _SPACE
        vmemmap = middle - (1 << bits - 1 - map_shift), middle
        modules = lowest, lowest + _MODULES
    told = number("VMEMMAP_START"), number("VMEMMAP_END")
    if told[0] is not None and told[1] is not None:
        vmemmap = told[0], told[1]
    told = number("MODULES_VADDR"), number("MODULES_END")
    if told[0] is not None and told[1] is not None:
        modules = told[0], told[1]
        if image >= middle:
            # There the linear map ends, also of 47 bits: VA_BITS_MIN with pages of 16 KiB (6.9).
            linear = lowest, modules[0]
    vmalloc = (
        number("VMALLOC_START") or modules[1],
        number("VMALLOC_END") or vmemmap[0] - _FIXED,
    )
    return Arm64Ranges(linear, (linear[0] - start) % _SPACE, vmalloc, vmemmap, modules)


def vmcoreinfo_number(vmcoreinfo: Mapping[str, str], name: str) -> int | None:
    """``NUMBER(name)`` as an unsigned 64-bit value; None where it is not there or no number."""
    text = vmcoreinfo.get(f"NUMBER({name})", "")
    if not _NUMBER.fullmatch(text):
        return None
    return int(text, 16 if text.startswith("0x") else 10) % _SPACE


def untagged(addresses: Addresses) -> Addresses:
    """Kernel addresses without KASAN's tag in the top byte, which the hardware ignores."""
    kernel = addresses >> np.uint64(55) & np.uint64(1) == 1
    return np.where(kernel, addresses | np.uint64(0xFF << 56), addresses)
