"""The allocator's own note of who allocated or freed an object: SLUB's `struct track`, with
slub_debug=U; SLAB's last word of a slot, with CONFIG_DEBUG_SLAB.

It knows where the notes are and what is in them. Stacks behind a handle are `stackdepot`'s job,
names are the decoder's.

Sources: mm/slub.c get_track(), get_info_end(), struct track (4.19, 6.1, 6.12); mm/slab.c
dbg_userword() (2.6.32, 4.18, 6.1).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Addresses, Host, Mask, ReadFault
from crashext.kernel.access import UnknownLayout, Words, column, require, u32, words_at
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.descriptors import SlabKind, slab_kind

_MAX_TRACK = 4096
_FRAMES = 16  # TRACK_ADDRS_COUNT
_BATCH = 1 << 16  # tracks read at once: 9 MiB of the longest form


class Event(enum.IntEnum):
    """Which of an object's two tracks (enum track_item)."""

    ALLOC = 0
    FREE = 1


@dataclass(frozen=True)
class Tracks:
    """The tracks of n objects, one array element each; zeros where `ok` is False."""

    addr: Words
    """Return address of the call to the allocator."""
    handle: Words
    """Stack depot handle; 0 where the kernel keeps the stack inline, or has none."""
    inline: Words
    """uint64[n, 16]: return addresses, innermost first, 0 after the last; uint64[n, 0] in kernels
    with a handle."""
    pid: Words
    cpu: Words
    when: Words
    """jiffies"""
    ok: Mask
    """The track is in the dump and was ever written."""


def tracked(cache: SlabCache) -> bool:
    """Whether the cache's objects carry tracks."""
    return "STORE_USER" in cache.flags


def read_tracks(
    host: Host, cache: SlabCache, objects: Addresses, event: Event = Event.ALLOC
) -> Tracks:
    """Tracks of `objects`, which are the starts of objects of `cache`.

    Raises `UnknownLayout` where the cache keeps none or the debug info does not say where.
    """
    if not tracked(cache):
        raise UnknownLayout(f"{cache.name} keeps no tracks (SLAB_STORE_USER is not set)")
    if slab_kind(host) is not SlabKind.SLUB:
        return _user_words(host, cache, objects)
    track = require(host, "struct track", "addr", "pid", "cpu", "when")
    start = _info_end(host, cache) + int(event) * track.size
    # 5cf909c553e9 (5.19) replaced the array of return addresses by a stack depot handle.
    handle, addrs = track.first_of("handle"), track.first_of("addrs")
    n = len(objects)
    frames = min(addrs.size // 8, _FRAMES) if addrs is not None else 0
    rows = np.zeros((n, track.size), np.uint8)
    ok = np.zeros(n, np.bool_)
    for at in range(0, n, _BATCH):
        some = slice(at, at + _BATCH)
        rows[some], ok[some] = host.read_many(objects[some] + np.uint64(start), track.size)
    addr = column(rows, track["addr"])
    inline = np.zeros((n, frames), np.uint64)
    if addrs is not None:
        part = rows[:, addrs.offset : addrs.offset + 8 * frames]
        inline = np.ascontiguousarray(part).view("<u8").reshape(n, frames)
    return Tracks(
        addr=addr,
        handle=column(rows, handle) if handle is not None else np.zeros(n, np.uint64),
        inline=inline,
        pid=column(rows, track["pid"]),
        cpu=column(rows, track["cpu"]),
        when=column(rows, track["when"]),
        ok=ok & (addr != 0),
    )


def _user_words(host: Host, cache: SlabCache, objects: Addresses) -> Tracks:
    """SLAB notes one address, of who allocated the object, or freed it last; nothing else."""
    n = len(objects)
    last = np.uint64(cache.slot_size - cache.red_left_pad - 8)
    addr, ok = words_at(host, objects + last)
    none = np.zeros(n, np.uint64)
    return Tracks(
        addr=np.where(ok, addr, np.uint64(0)),
        handle=none,
        inline=np.zeros((n, 0), np.uint64),
        pid=none,
        cpu=none,
        when=none,
        ok=ok & (addr != 0),
    )


def _info_end(host: Host, cache: SlabCache) -> int:
    """Offset of the first track from an object's start.

    The tracks follow the object with its red zone (kmem_cache.inuse), after the free pointer
    where that is outside. Before 3202fa62fb43 (5.7) the test was "offset is not 0", and such an
    offset was always `inuse`: this rule gives the same place for either.
    """
    layout = require(host, "struct kmem_cache", "inuse")
    try:
        inuse = u32(host, cache.address + layout["inuse"].offset)
    except ReadFault as fault:
        raise UnknownLayout(f"{cache.name}: kmem_cache.inuse cannot be read") from fault
    end = inuse + 8 if cache.freelist_offset >= inuse else inuse
    track = require(host, "struct track").size
    if (
        track > _MAX_TRACK
        or not cache.object_size <= end <= cache.slot_size - cache.red_left_pad - 2 * track
    ):
        raise UnknownLayout(f"{cache.name}: its slots have no room for tracks")
    return end
