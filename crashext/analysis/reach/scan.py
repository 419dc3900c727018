"""Reading all of kernel memory once, for whoever looks for something in its words.

Physical pages are read through the direct map, so a page that is mapped twice is seen once. What
is looked for is a `Scanner`'s business; which pages are worth reading is the caller's. A page that
cannot be read is seen as zeros, and is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Host, Mask, ReadFault
from crashext.kernel.access import Words
from crashext.kernel.addresses import page_shift
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress

KERNEL_USES = (FrameUse.SLAB, FrameUse.KERNEL, FrameUse.RESERVED, FrameUse.UNKNOWN)
"""What page frames that hold pointers of the kernel's are used for, or may be."""

_READ = 1 << 20
_BRIDGE = 16  # page frames nobody wants that are read along
_BLOCK = 1 << 16  # words: what is compared stays in the CPU's cache


class Scanner(Protocol):
    """Somebody who looks at every word of memory."""

    def look(self, offset: int, words: Words) -> None:
        """Take in uint64[n] that begin at direct-map `offset`.

        Pages that were not wanted may be among them, where reading past them was cheaper.
        """
        ...


def scan_memory(
    view: KernelView,
    wanted: Mask,
    present: Mask | None,
    scanners: Sequence[Scanner],
    progress: Progress,
    what: str,
) -> NDArray[np.int64]:
    """One pass over the `wanted` page frames, bool[frames], for all of `scanners`.

    `present` is `present_frames` of the host. Returns the wanted frames that could not be read.
    """
    total, done = int(wanted.sum()), 0
    missing = [np.zeros(0, np.int64)]
    for first, last in _runs_of(_bridged(wanted, present)):
        for offset, data, unread in _read_frames(view, first, last):
            words = np.frombuffer(data, "<u8")
            for begin in range(0, len(words), _BLOCK):
                for scanner in scanners:
                    scanner.look(offset + 8 * begin, words[begin : begin + _BLOCK])
            missing.append(unread[wanted[unread]])
            here = offset >> view.space.page_shift
            done += int(wanted[here : here + (len(data) >> view.space.page_shift)].sum())
            progress(what, done, total)
    return np.concatenate(missing)


def present_frames(host: Host, frames: int) -> Mask | None:
    """bool[frames]: which page frames the dump holds whole; None: the host cannot say."""
    ranges = host.present()
    if ranges is None:
        return None
    shift = page_shift(host)
    held = np.zeros(frames, np.bool_)
    for start, end in ranges:
        first, last = -(-start >> shift), min(end >> shift, frames)
        held[min(first, frames) : last] = True
    return held


def readable_frames(
    view: KernelView, frames: Frames, present: Mask | None, *uses: FrameUse
) -> Mask:
    """bool[frames]: page frames of these uses that the dump holds, none past the end of memory."""
    wanted = np.isin(frames.use, np.array([int(u) for u in uses], np.uint8))
    # The last section of the memory map goes on where memory has ended.
    wanted[(view.space.direct.end - view.space.direct.start) >> view.space.page_shift :] = False
    return wanted if present is None else wanted & present[: len(wanted)]


def _bridged(wanted: Mask, present: Mask | None) -> Mask:
    """Also the short gaps between wanted pages: one long read is cheaper than two short ones."""
    bridged = wanted.copy()
    for first, last in _runs_of(~wanted):
        if last - first <= _BRIDGE and (present is None or present[first:last].all()):
            bridged[first:last] = True
    return bridged


def _runs_of(wanted: Mask) -> list[tuple[int, int]]:
    """Neighbours that are wanted, as (first, end)."""
    edges = np.flatnonzero(np.diff(wanted.view(np.int8), prepend=0, append=0))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _read_frames(
    view: KernelView, first: int, last: int
) -> Iterator[tuple[int, bytes, NDArray[np.int64]]]:
    """Page frames [first, last) in pieces: direct-map offset, bytes, frames that are missing.

    A missing page reads as zeros.
    """
    per_read = _READ >> view.space.page_shift
    for pfn in range(first, last, per_read):
        count = min(per_read, last - pfn)
        address = view.space.address(pfn)
        try:
            data = view.host.read(address, count << view.space.page_shift)
            yield pfn << view.space.page_shift, data, np.zeros(0, np.int64)
        except ReadFault:
            pages = np.uint64(address) + np.arange(count, dtype=np.uint64) * np.uint64(
                view.space.page_size
            )
            rows, ok = view.host.read_many(pages, view.space.page_size)
            yield pfn << view.space.page_shift, rows.tobytes(), pfn + np.flatnonzero(~ok)
