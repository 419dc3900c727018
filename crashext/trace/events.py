"""Events of a trace as arrays, and what else its lines said. It knows no form of text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crashext.trace.names import Ids

SLAB_ALLOC, CACHE_ALLOC, SLAB_FREE, PAGE_ALLOC, PAGE_FREE = range(5)
"""Kinds of events: kmalloc, kmem_cache_alloc, a free of either, pages."""

KINDS = {
    b"kmalloc": SLAB_ALLOC,
    b"kmalloc_node": SLAB_ALLOC,
    b"kmem_cache_alloc": CACHE_ALLOC,
    b"kmem_cache_alloc_node": CACHE_ALLOC,
    b"kfree": SLAB_FREE,
    b"kmem_cache_free": SLAB_FREE,
    b"mm_page_alloc": PAGE_ALLOC,
    b"mm_page_free": PAGE_FREE,
}
"""By the name of the event."""


@dataclass
class Heard:
    """What was said between the events, and what could not be used."""

    lines: int = 0
    remarks: int = 0
    """Headers, comments, empty lines."""
    other_events: int = 0
    frames: int = 0
    unparsable: int = 0
    cut_off: int = 0
    too_long: int = 0
    unprinted: int = 0
    """Events whose pointer the kernel did not print: ``(____ptrval____)``."""
    failed: int = 0
    """Allocations that returned NULL."""
    null_frees: int = 0
    lost: int = 0
    """Events that the trace says were lost."""
    lost_lines: int = 0
    """Lines that speak of lost events."""
    lost_uncounted: int = 0
    """Times that it says so without a number."""
    overwritten: int = 0
    """By the header: events written to the buffer, but not in it any more."""
    stray_stacks: int = 0
    """Stacks of no event that was read."""
    pointers: Counter[str] = field(default_factory=Counter)
    """How many pointers were "wide" (over 32 bits) and how many "hashed" (16 digits, 32 bits)."""


@dataclass(frozen=True)
class Events:
    """Events in the order of the text. All arrays have one length."""

    kind: NDArray[np.int8]
    key: NDArray[np.uint64]
    """Address of the object; of pages, the page frame number * 64 + the order."""
    size: NDArray[np.int64]
    """Of allocations: ``bytes_alloc``; of pages, the order. 0 for a free of an object."""
    site: Ids
    cache: Ids
    """0 where the event has no name=."""
    task: Ids
    stack: Ids
    """0: none."""
    time: NDArray[np.int64]
    """Nanoseconds."""

    def __len__(self) -> int:
        return len(self.kind)
