"""Which struct pages are tails of a compound page, and where its head's is: three ages of it.

Sources: include/linux/page-flags.h and mm_types.h of 3.10, 6.1 and 7.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Addresses, Bytes, Host, Layout, Mask, Member
from crashext.kernel.access import Structures, Words, column

_MASK_LEAST = np.uint64(0xFFFFFFFF00000000)
"""A mask covers 2**26 struct pages at most; no struct page is this high, the image is."""


@dataclass(frozen=True)
class Tails:
    """How this kernel marks tails."""

    flags: Member
    link: Member | None
    """Of a tail: whose bit 0 is set. None where a flag marks it."""
    masks: bool
    """The rest of `link` may be a mask of the tail's own address."""
    bit: int | None
    """PG_tail, before there was such a link."""
    first: Member | None
    """Pointer to the head, then."""

    def among(self, rows: Bytes | Structures) -> Mask:
        """Which rows are tails: uint8[n, sizeof(struct page)] -> bool[n]."""
        if self.link is not None:
            return np.asarray(column(rows, self.link) & np.uint64(1) == 1, np.bool_)
        if self.bit is None or self.first is None:
            return np.zeros(len(rows), np.bool_)
        flags = column(rows, self.flags)
        return np.asarray(flags >> np.uint64(self.bit) & np.uint64(1) == 1, np.bool_)

    def heads(self, rows: Bytes, maps: Addresses) -> Words:
        """Addresses of the heads' struct pages, of `rows` that are tails and lie at `maps`."""
        if self.link is None:
            return maps if self.first is None else column(rows, self.first)
        link = column(rows, self.link) & ~np.uint64(1)
        if not self.masks:
            return link
        return np.where(link >= _MASK_LEAST, maps & link, link)


def tails(host: Host, page: Layout) -> Tails:
    """Decide how `page`, this kernel's struct page, marks tails.

    Until 4.4 a flag does, PG_tail, beside the pointer `first_page`; 1d798ca3f164 (4.4) made it one
    word, `compound_head`. 7.1 renamed that `compound_info`, and where sizeof(struct page) is a
    power of two it holds a mask: whose struct page is the tail's own address cut down by it.
    """
    link = page.first_of("compound_head", "compound_info")
    first = page.first_of("first_page") if link is None else None
    bit = host.enumerator("PG_tail") if link is None else None
    return Tails(page["flags"], link, "compound_info" in page, bit, first)
