"""The kernel's address space: which range a value falls in, and where a page's memory is.

x86-64 only. Sources: Documentation/arch/x86/x86_64/mm.rst (6.1), arch/x86/mm/kaslr.c.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Addresses, Host, ReadFault
from crashext.kernel.access import UnknownLayout, Words, u64, variable

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
USER_LOW, USER_HIGH = 0x0000550000000000, 0x00007FFFFFFFFFFF
"""Where programs and their libraries, heaps and stacks are, when they are not below 4 GiB."""

_TIB = 1 << 40
_MAX_CPUS = 8192  # NR_CPUS with MAXSMP


@dataclass(frozen=True)
class Range:
    """[start, end) of virtual addresses."""

    start: int
    end: int

    def holds(self, values: Words) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Elementwise membership of uint64 values."""
        if self.end <= self.start:
            return np.zeros(values.shape, np.bool_)
        return (values >= np.uint64(self.start)) & (values < np.uint64(self.end))


@dataclass(frozen=True)
class AddressSpace:
    """Virtual ranges of one kernel."""

    direct: Range
    vmalloc: Range
    vmemmap: Range
    text: Range
    image: Range
    """Kernel image: text, data, bss."""
    percpu_offsets: tuple[int, ...]
    """`__per_cpu_offset` of each possible CPU."""
    percpu_first_chunk: Range
    """Addresses of the first per-CPU chunk's unit of the first possible CPU."""

    def address(self, pfn: int) -> int:
        """Direct-map address of a page frame."""
        return self.direct.start + (pfn << PAGE_SHIFT)

    def addresses(self, pfns: Words) -> Addresses:
        """Direct-map addresses of page frames: uint64[n] -> uint64[n]."""
        return np.uint64(self.direct.start) + (pfns << np.uint64(PAGE_SHIFT))

    def pfn(self, address: int) -> int:
        """Page frame of a direct-map address."""
        return (address - self.direct.start) >> PAGE_SHIFT


def address_space(host: Host) -> AddressSpace:
    """Read the ranges from the kernel's own variables; raises `UnknownLayout`."""
    if host.info().arch != "x86_64":
        raise UnknownLayout(f"only x86-64 kernels are understood so far, not {host.info().arch}")
    max_pfn = variable(host, "max_pfn")
    if not max_pfn:
        raise UnknownLayout("max_pfn cannot be read: how much memory there is stays unknown")
    five_level = host.info().vmcoreinfo.get("NUMBER(pgtable_l5_enabled)", "0") == "1"
    direct = _direct_map(host)
    vmalloc = variable(host, "vmalloc_base") or (
        0xFFA0000000000000 if five_level else 0xFFFFC90000000000
    )
    vmemmap = variable(host, "vmemmap_base") or (
        0xFFD4000000000000 if five_level else 0xFFFFEA0000000000
    )
    text, etext, end = (host.address_of(n) for n in ("_text", "_etext", "_end"))
    if text is None or etext is None or end is None:
        raise UnknownLayout(
            "the kernel image's bounds (_text, _etext, _end) are not in the symbols"
        )
    if end < text:  # an absolute symbol in some links: KASLR has not moved it
        end += int(host.info().vmcoreinfo.get("KERNELOFFSET", "0"), 16)
    page = host.layout("struct page")
    offsets = percpu_offsets(host)
    first_chunk = _first_chunk(host)
    return AddressSpace(
        direct=Range(direct, direct + (max_pfn << PAGE_SHIFT)),
        vmalloc=Range(vmalloc, vmalloc + (12800 if five_level else 32) * _TIB),
        vmemmap=Range(vmemmap, vmemmap + max_pfn * (page.size if page else 64)),
        text=Range(text, etext),
        image=Range(text, end),
        percpu_offsets=offsets,
        percpu_first_chunk=first_chunk,
    )


def _direct_map(host: Host) -> int:
    """`page_offset_base` where memory is randomised; else one of the two fixed bases.

    The fixed base moved in 4.20 (d52888aa2753, one guard hole more for LDT remap) and was
    back-ported, so the memory decides: a kmem_cache lives in the direct map.
    """
    base = variable(host, "page_offset_base")
    if base:
        return base
    lists = variable(host, "slab_caches") or variable(host, "cache_chain")
    if lists is None:
        raise UnknownLayout("slab_caches cannot be read: this is no kernel with slab caches")
    return 0xFFFF888000000000 if lists >= 0xFFFF888000000000 else 0xFFFF880000000000


def percpu_offsets(host: Host) -> tuple[int, ...]:
    """`__per_cpu_offset` of each possible CPU; (0,) on a uniprocessor kernel."""
    table = host.address_of("__per_cpu_offset")
    if table is None:
        return (0,)
    # cpu_possible_bits was renamed by c4c54dd1caf1 (4.5).
    mask = host.address_of("__cpu_possible_mask") or host.address_of("cpu_possible_bits")
    if mask is None:
        raise UnknownLayout("the mask of possible CPUs is not in the symbols")
    cpus = min(variable(host, "nr_cpu_ids", 4) or 64, _MAX_CPUS)
    size = (cpus + 63) // 64 * 8
    bits = int.from_bytes(host.read(mask, size), "little")
    return tuple(u64(host, table + 8 * cpu) for cpu in range(size * 8) if bits >> cpu & 1)


def _first_chunk(host: Host) -> Range:
    base, size = variable(host, "pcpu_base_addr"), variable(host, "pcpu_unit_size", 4)
    if not base or not size:
        return Range(0, 0)
    try:
        offsets = variable(host, "pcpu_unit_offsets")
        first = u64(host, offsets) if offsets else 0
    except ReadFault:
        first = 0
    return Range(base + first, base + first + size)
