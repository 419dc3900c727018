"""Words of the kernel's own that look like physical addresses of pages, and hold none.

The tree of memory resources says where RAM begins, or an initrd was once: who knows a page by that
does not have it. And a superblock's flags are many: 0x60400000 is a page of a machine with 2 GiB.
A timer's flags say in which slot of the wheel it is or was, by multiples of 4 MiB.

Sources: include/linux/ioport.h, include/linux/fs.h (3.10 to 7.2); include/linux/timer.h, where
flags are since 0eeda71bc30d (4.2).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crashext.hosts.base import Host, Mask
from crashext.kernel.access import Words, column
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.lists import entries

_MAX_RESOURCES = 1 << 16
_MAX_SUPERBLOCKS = 1 << 14
_MAX_LAYOUT = 4096
_KERNEL_HALF = np.uint64(1 << 63)


def numbers(host: Host) -> Words:
    """Virtual addresses of such words, each once."""
    return np.unique(np.concatenate([_bounds(host), _flags(host)]))


def _bounds(host: Host) -> Words:
    """The first address in each memory resource; none ends at the beginning of a page."""
    layout, root = host.layout("struct resource"), host.address_of("iomem_resource")
    members = ("start", "sibling", "child")
    if layout is None or root is None or any(member not in layout for member in members):
        return np.zeros(0, np.uint64)
    if layout.size > _MAX_LAYOUT:
        return np.zeros(0, np.uint64)
    found: list[int] = []
    seen, new = {root}, [root]
    while new and len(seen) < _MAX_RESOURCES:
        rows, ok = host.read_many(np.array(new, np.uint64), layout.size)
        found += np.array(new, np.uint64)[ok].tolist()
        near = [column(rows, layout[member])[ok] for member in ("sibling", "child")]
        new = [at for at in np.unique(np.concatenate(near)).tolist() if at and at not in seen]
        seen.update(new)
    return np.array(found, np.uint64) + np.uint64(layout["start"].offset)


def _flags(host: Host) -> Words:
    layout, head = host.layout("struct super_block"), host.address_of("super_blocks")
    if layout is None or head is None or any(m not in layout for m in ("s_list", "s_flags")):
        return np.zeros(0, np.uint64)
    found = entries(host, head, layout["s_list"].offset, _MAX_SUPERBLOCKS)
    return np.fromiter(found, np.uint64) + np.uint64(layout["s_flags"].offset)


def flags_of_timers(host: Host, space: AddressSpace, at: Words) -> Mask:
    """Which words at some virtual addresses are a timer's flags, and nothing is beside them: by
    the timer's function before them, and its links to others or none."""
    none, layout = np.zeros(len(at), np.bool_), host.layout("struct timer_list")
    members = {"entry", "function", "flags"}
    if layout is None or not members <= layout.members.keys() or layout.size > _MAX_LAYOUT:
        return none
    rows, ok = host.read_many(at - np.uint64(layout["flags"].offset), layout.size)
    function = column(rows, layout["function"])
    ok &= space.image.holds(function) | space.modules.holds(function)
    entry = layout["entry"]  # an hlist_node
    for offset in (entry.offset, entry.offset + 8):
        link = column(rows, replace(entry, offset=offset, size=8))
        ok &= (link == 0) | (link >= _KERNEL_HALF)
    return np.asarray(ok & (layout["flags"].offset % 8 == 0), np.bool_)
