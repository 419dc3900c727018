"""page_owner's record of a page frame: who allocated it, with CONFIG_PAGE_OWNER and page_owner=on.

For a slab that is whoever made the cache grow: a sample of its allocators, not the owner of each
object.

Sources: mm/page_owner.c, mm/page_ext.c lookup_page_ext(), include/linux/page_ext.h (3.19, 4.9,
4.19, 6.1, 6.12).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Bytes, Host, Layout, Mask, ReadFault
from crashext.kernel.access import Words, column, u32
from crashext.kernel.origin.pageext import client_offset, page_exts
from crashext.kernel.pages.shifted import page_ext_size

_MAX_ENTRY = 4096


@dataclass(frozen=True)
class PageOwners:
    """Records of n page frames; zeros where `ok` is False or this kernel notes no such thing."""

    handle: Words
    """Stack depot handle of the allocation; 0 before 4.8."""
    inline: Words
    """uint64[n, 8]: return addresses, innermost first, 0 after the last; uint64[n, 0] in kernels
    with a handle."""
    pid: Words
    """0 before 5.11."""
    comm: NDArray[np.uint8]
    """uint8[n, 16]; zeros before 5.18."""
    nanoseconds: Words
    """When, by the scheduler's clock since boot; 0 before 5.11."""
    order: Words
    ok: Mask
    """The page frame is allocated and has a record."""


def keeps_owners(host: Host) -> bool:
    """Whether this kernel is built to track page owners."""
    if host.layout("struct page_owner") is not None:
        return True
    return host.address_of("page_owner_inited") is not None and _record(host) is not None


def owners_known(host: Host) -> bool:
    """Whether this kernel tracks page owners, and does now."""
    key = host.address_of("page_owner_inited")
    if key is None or _record(host) is None:
        return False
    static_key = host.layout("struct static_key")
    enabled = static_key["enabled"].offset if static_key and "enabled" in static_key else 0
    try:
        return u32(host, key + enabled) != 0
    except ReadFault:
        return False


def read_owners(host: Host, pfns: Words) -> PageOwners:
    """page_owner records of page frames."""
    n = len(pfns)
    record, ext = _record(host), host.layout("struct page_ext")
    none, inline = np.zeros(n, np.uint64), np.zeros((n, 0), np.uint64)
    comm, nobody = np.zeros((n, 16), np.uint8), np.zeros(n, np.bool_)
    nothing = PageOwners(none, inline, none, comm, none, none, nobody)
    if record is None or ext is None or not n:
        return nothing
    layout, offset = record
    size = page_ext_size(host, ext.size)
    if not 0 < size <= _MAX_ENTRY or offset + layout.size > size:
        return nothing
    entries, ok = page_exts(host, pfns, size)
    rows = np.zeros((n, size), np.uint8)
    rows[ok], ok[ok.copy()] = host.read_many(entries[ok], size)
    flags = column(rows, ext["flags"])
    # 5.4 gave freed pages a record too, and the allocated ones a flag of their own.
    for name in ("PAGE_EXT_OWNER", "PAGE_EXT_OWNER_ALLOCATED"):
        bit = host.enumerator(name)
        if bit is not None:
            ok &= flags >> np.uint64(bit) & np.uint64(1) == 1
    owner = rows[:, offset : offset + layout.size]
    owner[~ok] = 0

    def field(name: str) -> Words:
        return column(owner, layout[name]) if name in layout else none

    if "comm" in layout:
        at = layout["comm"].offset
        comm = owner[:, at : at + 16]
    handle = field("handle")
    if "trace_entries" in layout:
        inline = _inline(owner, layout)
    return PageOwners(
        handle=handle,
        inline=inline,
        pid=field("pid"),
        comm=comm,
        nanoseconds=field("ts_nsec"),
        order=field("order"),
        ok=ok & ((handle != 0) | inline.any(axis=1)),
    )


def _record(host: Host) -> tuple[Layout, int] | None:
    """What holds a page's record, and where in its page_ext that is.

    struct page_owner behind page_ext since 9300d8dfd287 (4.10); before, members of page_ext itself:
    a handle since f2ca0b557107 (4.8), trace_entries[8] since 3.19.
    """
    layout, ext = host.layout("struct page_owner"), host.layout("struct page_ext")
    if layout is None:
        known = ext is not None and ("handle" in ext or "trace_entries" in ext)
        return (ext, 0) if ext is not None and known else None
    if "handle" not in layout:
        return None
    offset = client_offset(host, "page_owner_ops")
    return None if offset is None else (layout, offset)


def _inline(owner: Bytes, layout: Layout) -> Words:
    """The return addresses that a record keeps itself, nr_entries of them."""
    member = layout["trace_entries"]
    part = owner[:, member.offset : member.offset + member.size]
    frames = np.ascontiguousarray(part).view("<u8").reshape(len(owner), member.size // 8)
    count = column(owner, layout["nr_entries"])
    filled = np.arange(frames.shape[1], dtype=np.uint64)[None] < count[:, None]
    return np.where(filled, frames, np.uint64(0))
