"""The kernel's address space: which range a value falls in, and where a page's memory is.

x86-64 and arm64. Sources: Documentation/arch/x86/x86_64/mm.rst (6.1), arch/x86/mm/kaslr.c; of
arm64 see hosts/arm64.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.hosts.arm64 import arm64_ranges, vmcoreinfo_number
from crashext.hosts.base import Addresses, Host, ReadFault
from crashext.kernel.access import UnknownLayout, Words, u64, variable
from crashext.kernel.architecture import ARM64, architecture

USER_LOW, USER_HIGH = 0x0000550000000000, 0x00007FFFFFFFFFFF
"""Where programs and their libraries, heaps and stacks are, when they are not below 4 GiB."""

_TIB = 1 << 40
_KERNEL_MAP = 0xFFFFFFFF80000000  # __START_KERNEL_map, arch/x86/include/asm/page_64_types.h
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


_LAST_CODE = (1 << 64) - (1 << 24)
"""MODULES_END of x86-64, the highest there is: arch/x86/include/asm/pgtable_64_types.h."""


@dataclass(frozen=True)
class AddressSpace:
    """Virtual ranges of one kernel."""

    direct: Range
    vmalloc: Range
    vmemmap: Range
    text: Range
    image: Range
    """Kernel image: text, data, bss."""
    modules: Range
    """Where code is put that is not of the image; some of it may be elsewhere."""
    percpu_offsets: tuple[int, ...]
    """`__per_cpu_offset` of each possible CPU."""
    percpu_first_chunk: Range
    """Addresses of the first per-CPU chunk's unit of the first possible CPU."""
    page_shift: int = 12
    """Bits of an address that are inside a page."""

    @property
    def code(self) -> Range:
        """Where functions are, of the kernel and of modules, and little else: no -1 and no -EINVAL
        among them."""
        ranges = [r for r in (self.image, self.modules) if r.start < r.end]
        if not ranges:
            return Range(0, 0)
        end = min(max(r.end for r in ranges), _LAST_CODE)
        return Range(min(r.start for r in ranges), end)

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return 1 << self.page_shift

    def address(self, pfn: int) -> int:
        """Direct-map address of a page frame."""
        return self.direct.start + (pfn << self.page_shift)

    def addresses(self, pfns: Words) -> Addresses:
        """Direct-map addresses of page frames: uint64[n] -> uint64[n]."""
        return np.uint64(self.direct.start) + (pfns << np.uint64(self.page_shift))

    def pfn(self, address: int) -> int:
        """Page frame of a direct-map address."""
        return (address - self.direct.start) >> self.page_shift

    def frames(self, offsets: Words) -> Words:
        """Page frames of offsets in the direct map, which are physical addresses."""
        return offsets >> np.uint64(self.page_shift)


def address_space(host: Host) -> AddressSpace:
    """Read the ranges from the kernel's own variables; raises `UnknownLayout`."""
    known = architecture(host)
    max_pfn = variable(host, "max_pfn")
    if not max_pfn:
        raise UnknownLayout("max_pfn cannot be read: how much memory there is stays unknown")
    return (_arm64 if known is ARM64 else _x86)(host, max_pfn << page_shift(host))


def _x86(host: Host, end: int) -> AddressSpace:
    """Of a machine whose memory ends at a physical address."""
    five_level = host.info().vmcoreinfo.get("NUMBER(pgtable_l5_enabled)", "0") == "1"
    direct = _direct_map(host)
    vmalloc = variable(host, "vmalloc_base") or (
        0xFFA0000000000000 if five_level else 0xFFFFC90000000000
    )
    vmemmap = variable(host, "vmemmap_base") or (
        0xFFD4000000000000 if five_level else 0xFFFFEA0000000000
    )
    page = host.layout("struct page")
    text, image = _image(host, "_text")
    return AddressSpace(
        direct=Range(direct, direct + end),
        vmalloc=Range(vmalloc, vmalloc + (12800 if five_level else 32) * _TIB),
        vmemmap=Range(vmemmap, vmemmap + (end >> 12) * (page.size if page else 64)),
        text=text,
        image=image,
        modules=Range(_KERNEL_MAP, (1 << 64) - 1),
        percpu_offsets=percpu_offsets(host),
        percpu_first_chunk=_first_chunk(host),
    )


def _arm64(host: Host, end: int) -> AddressSpace:
    info = host.info()
    ranges = arm64_ranges(info.vmcoreinfo, lambda name: variable(host, name), page_shift(host))
    if ranges is None:
        raise UnknownLayout("VA_BITS or PHYS_OFFSET is not in VMCOREINFO: where is the linear map?")
    # The first pages are not mapped: the image begins with the EFI header.
    text, image = _image(host, "_stext")
    return AddressSpace(
        direct=Range(ranges.zero, ranges.zero + end),
        vmalloc=Range(*ranges.vmalloc),
        vmemmap=Range(*ranges.vmemmap),
        text=text,
        image=image,
        modules=Range(*ranges.modules),
        percpu_offsets=percpu_offsets(host),
        percpu_first_chunk=_first_chunk(host),
        page_shift=page_shift(host),
    )


def page_shift(host: Host) -> int:
    """Bits of an address that are inside a page."""
    return page_size(host).bit_length() - 1


def page_size(host: Host) -> int:
    """Bytes of a page."""
    return host.info().page_size


def _image(host: Host, first: str) -> tuple[Range, Range]:
    """The kernel's text, and all of its image."""
    text, etext, end = (host.address_of(n) for n in (first, "_etext", "_end"))
    if text is None or etext is None or end is None:
        raise UnknownLayout(
            f"the kernel image's bounds ({first}, _etext, _end) are not in the symbols"
        )
    if end < text:  # an absolute symbol in some links: KASLR has not moved it
        end += int(host.info().vmcoreinfo.get("KERNELOFFSET", "0"), 16)
    return Range(text, etext), Range(text, end)


def image_shift(host: Host) -> int | None:
    """What is added to the physical address of a byte of the image for its address there."""
    if architecture(host) is ARM64:
        shift = vmcoreinfo_number(host.info().vmcoreinfo, "kimage_voffset")
        return variable(host, "kimage_voffset") if shift is None else shift
    base = variable(host, "phys_base")
    # It is signed: where the image is may be lower than where it was linked to be.
    return None if base is None else _KERNEL_MAP - base + (base >> 63 << 64)


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
