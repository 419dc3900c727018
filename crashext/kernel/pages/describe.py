"""What a page frame is used for, as its struct page says. No slab knowledge here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Host
from crashext.kernel.access import column
from crashext.kernel.memmap import MemoryMap
from crashext.wording import missing

_FLAGS = (
    "locked",
    "referenced",
    "uptodate",
    "dirty",
    "lru",
    "active",
    "slab",
    "reserved",
    "private",
    "writeback",
    "head",
    "swapbacked",
    "unevictable",
    "mlocked",
)
_MOST_FLAGS = 64


@dataclass(frozen=True)
class PageState:
    """The words of one struct page that its users care for."""

    pfn: int
    address: int
    """Of the struct page."""
    raw_flags: int
    flags: tuple[str, ...]
    """Names of those that are set, without PG_."""
    count: int
    mapping: int
    """0 where it is not one: a page that nobody maps has others' words there."""
    index: int


def page_state(host: Host, memory: MemoryMap, pfn: int) -> PageState | None:
    """None where the struct page is not in the dump."""
    layout = host.layout("struct page")
    number = np.array([pfn], np.uint64)
    rows, ok = memory.rows(number)
    if layout is None or not ok[0]:
        return None

    def field(*names: str) -> int:
        member = layout.first_of(*names)
        return 0 if member is None else int(column(rows, member)[0])

    raw = field("flags")
    bits = {name: host.enumerator(f"PG_{name}") for name in _FLAGS}
    # A page type of newer kernels has the name of a flag that it replaced.
    flags = tuple(n for n, b in bits.items() if b is not None and b < _MOST_FLAGS and raw >> b & 1)
    mapping, count = field("mapping"), field("_refcount", "_count")
    users = {"lru", "swapbacked"} & set(flags)
    return PageState(
        pfn=pfn,
        address=int(memory.maps_of(number)[0]),
        raw_flags=raw,
        flags=flags,
        count=count - (1 << 32) if count >> 31 else count,
        mapping=mapping if mapping >> 47 and users and count else 0,
        index=field("index", "__folio_index"),
    )


def describe_page(host: Host, memory: MemoryMap, pfn: int) -> str:
    """A page frame in words: free, anonymous, page cache, page table, reserved or kernel's own.

    Sources: include/linux/page-flags.h, mm_types.h (4.19 to 6.12).
    """
    layout = host.layout("struct page")
    rows, ok = memory.rows(np.array([pfn], np.uint64))
    if layout is None or not ok[0]:
        return f"page frame {pfn:#x}, whose struct page is {missing(host.info().live)}"

    def field(*names: str) -> int | None:
        member = layout.first_of(*names) if layout else None
        return None if member is None else int(column(rows, member)[0])

    def has(flag: str) -> bool:
        bit = host.enumerator(flag)
        return bit is not None and bool((field("flags") or 0) >> bit & 1)

    what = f"page frame {pfn:#x} ({pfn << memory.space.page_shift:#x} physical)"
    if has("PG_reserved"):
        return f"{what}: reserved, kernel image or boot memory"
    if field("_refcount", "_count") == 0:
        return f"{what}: free, or part of a larger allocation"
    mapping = field("mapping") or 0
    if mapping & 1 and (has("PG_swapbacked") or has("PG_lru")):
        return f"{what}: anonymous user memory"
    if has("PG_lru") and mapping:
        return f"{what}: page cache of a file"
    return f"{what}: allocated by the kernel, not from a slab"
