"""Tables with an entry for every page, whose addresses the kernel keeps shifted.

mem_section.page_ext (since 3.19) and mem_section.page_cgroup (before) are the table's address less
the entries of all page frames before the section, so that a page frame's number indexes them. No
word holds the table's own address, but of the first section; the kernel tells kmemleak so by
kmemleak_not_leak(). Sources: mm/page_cgroup.c init_section_page_cgroup() (3.10), mm/page_ext.c
init_section_page_ext() (4.9, 6.1).
"""

from __future__ import annotations

import numpy as np

from crashext.distinct import distinct
from crashext.hosts.base import Addresses, Host, Mask
from crashext.kernel.access import UnknownLayout, Words, variable, words_at
from crashext.kernel.addresses import page_shift, page_size
from crashext.kernel.architecture import architecture

_INVALID = np.uint64(1)  # PAGE_EXT_INVALID: the section is going offline
_MAX_ROOTS = 1 << 20
_WORD = (1 << 64) - 1


def page_ext_size(host: Host, page_ext: int) -> int:
    """Bytes from one page's struct page_ext, itself of `page_ext` bytes, to the next."""
    size = variable(host, "page_ext_size")
    if size is not None:
        return size
    # Before 5.4 the clients' part was counted apart.
    return page_ext + (variable(host, "extra_mem") or 0)


def _section_bits(host: Host) -> int:
    """SECTION_SIZE_BITS; VMCOREINFO has it since 4f5aecdff25f (5.14). Raises ValueError."""
    told = host.info().vmcoreinfo.get("NUMBER(SECTION_SIZE_BITS)")
    bits = int(told) if told else architecture(host).section_bits
    if not page_shift(host) < bits < 48:
        raise ValueError(f"sections of 2^{bits} bytes")
    return bits


def shifted_bases(host: Host, pfns: Words, member: str) -> tuple[Addresses, Mask]:
    """What mem_section.`member` of the page frames' sections is: ``(uint64[n], ok[n])``.

    The entry of page frame N is at the base plus N entries.
    """
    bad = np.zeros(len(pfns), np.uint64), np.zeros(len(pfns), np.bool_)
    section, fields = host.layout("struct mem_section"), host.info().vmcoreinfo
    if section is None or member not in section:
        return bad
    try:
        # VMCOREINFO's symbol is what the roots' array is at, see `memmap`.
        array = int(fields["SYMBOL(mem_section)"], 16)
        shift = _section_bits(host) - page_shift(host)
        roots = int(fields["LENGTH(mem_section)"])
    except (KeyError, ValueError, UnknownLayout):
        return bad
    if not (
        0 <= array <= _WORD
        and 0 < shift < 30
        and 0 < roots <= _MAX_ROOTS
        and 0 < section.size <= page_size(host)
    ):
        return bad
    numbers, inverse = np.unique(pfns >> np.uint64(shift), return_inverse=True)
    per_root = np.uint64(page_size(host) // section.size)
    root = numbers // per_root
    known = root < np.uint64(roots)
    tables, ok = words_at(host, np.uint64(array) + np.where(known, root, 0) * np.uint64(8))
    ok &= known & (tables != 0)
    at = np.uint64(section[member].offset)
    where = tables + numbers % per_root * np.uint64(section.size) + at
    bases = np.zeros(len(numbers), np.uint64)
    bases[ok], ok[ok.copy()] = words_at(host, where[ok])
    ok &= (bases != 0) & (bases & _INVALID == 0)
    return bases[inverse], ok[inverse]


def shifted_tables(host: Host, pfns: Words) -> Addresses:
    """Addresses of these tables, of all sections that page frames `pfns` are in: uint64[n]."""
    found = [np.zeros(0, np.uint64)]
    try:
        shift = np.uint64(_section_bits(host) - page_shift(host))
    except (ValueError, UnknownLayout):
        return found[0]
    pfns = distinct(pfns >> shift) << shift
    for member, entry in (("page_ext", "struct page_ext"), ("page_cgroup", "struct page_cgroup")):
        layout = host.layout(entry)
        if layout is None:
            continue
        size = page_ext_size(host, layout.size) if member == "page_ext" else layout.size
        bases, ok = shifted_bases(host, pfns, member)
        found.append(bases[ok] + pfns[ok] * np.uint64(size))
    return distinct(np.concatenate(found))
