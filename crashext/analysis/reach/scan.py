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

from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import Words
from crashext.kernel.addresses import page_shift
from crashext.kernel.byframe import ByFrame, spread
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
    wanted: ByFrame[np.bool_],
    present: ByFrame[np.bool_] | None,
    scanners: Sequence[Scanner],
    progress: Progress,
    what: str,
) -> NDArray[np.int64]:
    """One pass over the `wanted` page frames for all of `scanners`.

    `present` is `present_frames` of the host. Returns the wanted frames that could not be read.
    """
    total, done = wanted.count(), 0
    missing = [np.zeros(0, np.int64)]
    for first, last in _bridged(wanted.runs(), present).tolist():
        for offset, data, unread in _read_frames(view, first, last):
            words = np.frombuffer(data, "<u8")
            for begin in range(0, len(words), _BLOCK):
                for scanner in scanners:
                    scanner.look(offset + 8 * begin, words[begin : begin + _BLOCK])
            missing.append(unread[wanted[unread]])
            here = offset >> view.space.page_shift
            done += int(wanted.part(here, here + (len(data) >> view.space.page_shift)).sum())
            progress(what, done, total)
    return np.concatenate(missing)


def present_frames(host: Host, frames: int) -> ByFrame[np.bool_] | None:
    """Of so many page frames, which the dump holds whole; None: the host cannot say."""
    ranges = host.present()
    if ranges is None:
        return None
    shift = page_shift(host)
    runs = [(-(-start >> shift), end >> shift) for start, end in ranges]
    return ByFrame.of_runs(frames, np.array(runs, np.int64).reshape(-1, 2))


def readable_frames(
    view: KernelView, frames: Frames, present: ByFrame[np.bool_] | None, *uses: FrameUse
) -> ByFrame[np.bool_]:
    """Page frames of these uses that the dump holds, none past the end of memory."""
    wanted = frames.use.among(*uses)
    # The last section of the memory map goes on where memory has ended.
    end = (view.space.direct.end - view.space.direct.start) >> view.space.page_shift
    wanted.set(np.arange(end, max(end, len(wanted))), np.bool_(False))
    return wanted if present is None else wanted & present


def _bridged(runs: NDArray[np.int64], present: ByFrame[np.bool_] | None) -> NDArray[np.int64]:
    """Also the short gaps between wanted pages: one long read is cheaper than two short ones."""
    if not len(runs):
        return runs
    begin, end = runs[:-1, 1], runs[1:, 0]
    bridged = end - begin <= _BRIDGE
    if present is not None:
        some = np.flatnonzero(bridged)
        gaps = np.repeat(np.arange(len(some)), end[some] - begin[some])
        absent = gaps[~present[spread(begin[some], end[some])]]
        bridged[some[absent]] = False
    first = np.append(True, ~bridged)
    return np.stack([runs[first, 0], runs[np.append(~bridged, True), 1]], axis=1)


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
