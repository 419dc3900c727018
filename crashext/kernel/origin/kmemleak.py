"""kmemleak's own record of an object, where the kernel has CONFIG_DEBUG_KMEMLEAK and it is on.

Objects are found as the kernel finds them, by the tree keyed on the address; a batch goes down
it together, one read a level, because the list of all objects may be millions long.

Sources: mm/kmemleak.c (4.19, 6.1, 6.12). Objects known by physical address are not looked up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Addresses, Bytes, Host, Layout, Mask, ReadFault
from crashext.kernel import rbtree
from crashext.kernel.access import Words, column, u64

_ALLOCATED, _REPORTED = 1, 2  # OBJECT_ALLOCATED, OBJECT_REPORTED
_MAX_RECORD = 4096
_FRAMES = 16  # MAX_TRACE


@dataclass(frozen=True)
class LeakRecords:
    """What kmemleak knows of n objects; zeros where `ok` is False."""

    handle: Words
    """Stack depot handle; 0 in kernels that keep the stack inline."""
    inline: Words
    """uint64[n, 16]: return addresses, innermost first; uint64[n, 0] in kernels with a handle."""
    jiffies: Words
    """When it was allocated."""
    pid: Words
    comm: NDArray[np.uint8]
    """uint8[n, 16]"""
    reported: Mask
    """kmemleak has called it leaked, in one of its scans."""
    ok: Mask


def watched(host: Host) -> bool:
    """Whether this kernel has kmemleak, and it holds anything."""
    return _root(host) != 0


def _root(host: Host) -> int:
    """First node of the tree; 0 where there is none."""
    # An rb_root since "kmemleak: use rbtree instead of prio tree" (3.7).
    tree = host.address_of("object_tree_root")
    layout = host.layout("struct kmemleak_object")
    if tree is None or layout is None or "rb_node" not in layout or layout.size > _MAX_RECORD:
        return 0
    try:
        return u64(host, tree)
    except ReadFault:
        return 0


def read_records(host: Host, objects: Addresses) -> LeakRecords:
    """Records of allocated objects that begin at `objects`."""
    layout, root = host.layout("struct kmemleak_object"), _root(host)
    if layout is None or not root:
        return _columns(None, np.zeros((len(objects), 0), np.uint8), len(objects))
    pointer = layout["pointer"]

    def sides(rows: Bytes, keys: Words) -> NDArray[np.int64]:
        held = column(rows, pointer)
        return np.where(keys < held, -1, (keys > held).astype(np.int64))

    rows, _ = rbtree.search(host, root, layout, layout["rb_node"].offset, objects, sides)
    return _columns(layout, rows, len(objects))


def _columns(layout: Layout | None, rows: Bytes, n: int) -> LeakRecords:
    none = np.zeros(n, np.uint64)
    if layout is None:
        empty, no = np.zeros((n, 0), np.uint64), np.zeros(n, np.bool_)
        return LeakRecords(none, empty, none, none, np.zeros((n, 16), np.uint8), no, no)
    # 56a61617dd22 (6.2) moved the stacks into the depot.
    handle, trace = layout.first_of("trace_handle"), layout.first_of("trace")
    inline = np.zeros((n, 0), np.uint64)
    if trace is not None:
        frames = min(trace.size // 8, _FRAMES)
        part = rows[:, trace.offset : trace.offset + 8 * frames]
        inline = np.ascontiguousarray(part).view("<u8").reshape(n, frames).copy()
        if "trace_len" in layout:
            length = column(rows, layout["trace_len"])
            inline[np.arange(frames)[None] >= length[:, None]] = 0
    flags = column(rows, layout["flags"])
    comm = layout["comm"]
    return LeakRecords(
        handle=column(rows, handle) if handle is not None else none,
        inline=inline,
        jiffies=column(rows, layout["jiffies"]),
        pid=column(rows, layout["pid"]),
        comm=rows[:, comm.offset : comm.offset + comm.size],
        reported=flags & np.uint64(_REPORTED) != 0,
        ok=flags & np.uint64(_ALLOCATED) != 0,
    )
