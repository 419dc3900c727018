"""Reading all of kernel memory once, for whoever looks for something in its words.

Physical pages are read through the direct map, so a page that is mapped twice is seen once. What
is looked for is a `Scanner`'s business; which pages are worth reading is the caller's. A page that
cannot be read is seen as zeros, and is counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Host, ReadFault
from crashext.hosts.readers import ManyReaders, Reader
from crashext.kernel.access import Words
from crashext.kernel.addresses import page_shift
from crashext.kernel.byframe import ByFrame, spread
from crashext.kernel.pages.frames import Frames, FrameUse
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress

if TYPE_CHECKING:
    from concurrent.futures import Future

KERNEL_USES = (FrameUse.SLAB, FrameUse.KERNEL, FrameUse.RESERVED, FrameUse.UNKNOWN)
"""What page frames that hold pointers of the kernel's are used for, or may be."""

_READ = 1 << 20
_BRIDGE = 16  # page frames nobody wants that are read along
_BLOCK = 1 << 16  # words: what is compared stays in the CPU's cache
_WORTH_THREADS = 16 << 20  # bytes
_TOGETHER = 4  # pieces that a thread is given at a time
_AHEAD = 2  # times that each thread may be ahead of what was taken


T = TypeVar("T")


class Scanner(Protocol[T]):
    """Somebody who looks at every word of memory."""

    def look(self, offset: int, words: Words) -> T:
        """What uint64[n] say that begin at direct-map `offset`. It changes nothing.

        Pages that were not wanted may be among them, where reading past them was cheaper.
        """
        ...

    def take(self, found: T) -> None:
        """Keep what was found; called in the order of memory."""
        ...


def scan_memory(
    view: KernelView,
    wanted: ByFrame[np.bool_],
    present: ByFrame[np.bool_] | None,
    scanners: Sequence[Scanner[Any]],
    progress: Progress,
    what: str,
) -> NDArray[np.int64]:
    """One pass over the `wanted` page frames for all of `scanners`.

    `present` is `present_frames` of the host. Returns the wanted frames that could not be read.
    """
    total, done = wanted.count(), 0
    missing = [np.zeros(0, np.int64)]
    runs = _bridged(wanted.runs(), present).tolist()
    for first, last, found, unread in _looks(view, runs, scanners, total):
        for scanner, piece in found:
            scanner.take(piece)
        missing.append(unread[wanted[unread]])
        done += int(wanted.part(first, last).sum())
        progress(what, done, total)
    return np.concatenate(missing)


Found = list[tuple[Scanner[Any], Any]]


def _looks(
    view: KernelView, runs: Iterable[tuple[int, int]], scanners: Sequence[Scanner[Any]], total: int
) -> Iterator[tuple[int, int, Found, NDArray[np.int64]]]:
    """(first frame, end, what was found, frames that are missing) of each piece, in order.

    With readers for more than one thread, pieces are read and looked at side by side. What they
    cannot read, as a page that is not in the dump, is read through the host, one at a time.
    """
    host, shift = view.host, view.space.page_shift
    per_read = _READ >> shift
    pieces = ((a, min(a + per_read, b)) for first, b in runs for a in range(first, b, per_read))

    def look(first: int, data: memoryview | bytes) -> Found:
        words = np.frombuffer(data, "<u8")
        return [
            (scanner, scanner.look((first << shift) + 8 * begin, words[begin : begin + _BLOCK]))
            for begin in range(0, len(words), _BLOCK)
            for scanner in scanners
        ]

    def alone(first: int, end: int) -> tuple[int, int, Found, NDArray[np.int64]]:
        data, unread = _read_frames(view, first, end)
        return first, end, look(first, data), unread

    readers: list[Reader] = []
    if isinstance(host, ManyReaders) and host.jobs > 1 and total << shift > _WORTH_THREADS:
        readers = host.readers(host.jobs)
    if not readers:
        yield from (alone(*piece) for piece in pieces)
        return
    from concurrent.futures import ThreadPoolExecutor  # here, as most commands do without
    from queue import SimpleQueue

    idle = SimpleQueue[Reader]()
    for reader in readers:
        idle.put(reader)

    def aside(some: list[tuple[int, int]]) -> list[Found | None]:
        reader = idle.get()
        try:
            return [by(reader, first, end) for first, end in some]
        finally:
            idle.put(reader)

    def by(reader: Reader, first: int, end: int) -> Found | None:
        try:
            data = reader.read(view.space.address(first), (end - first) << shift)
        except OSError:
            return None
        return None if data is None else look(first, data)

    waiting: deque[tuple[list[tuple[int, int]], Future[list[Found | None]]]] = deque()
    pool = ThreadPoolExecutor(len(readers))
    none = np.zeros(0, np.int64)
    # To hand a piece over costs a twentieth of reading one that is easily unpacked.
    parcels = iter(lambda: list(islice(pieces, _TOGETHER)), [])
    try:
        for parcel in chain(parcels, repeat(None)):
            if parcel is not None:
                waiting.append((parcel, pool.submit(aside, parcel)))
            if not waiting:
                break
            if parcel is None or len(waiting) > _AHEAD * len(readers):
                some, future = waiting.popleft()
                for (first, end), found in zip(some, future.result(), strict=True):
                    yield alone(first, end) if found is None else (first, end, found, none)
    finally:
        # Ctrl-C, too: what was begun takes some milliseconds more, the rest is not begun.
        pool.shutdown(cancel_futures=True)


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


def _read_frames(view: KernelView, first: int, last: int) -> tuple[bytes, NDArray[np.int64]]:
    """Page frames [first, last): bytes, and which are missing; these read as zeros."""
    count = last - first
    address = view.space.address(first)
    try:
        return view.host.read(address, count << view.space.page_shift), np.zeros(0, np.int64)
    except ReadFault:
        pages = np.uint64(address) + np.arange(count, dtype=np.uint64) * np.uint64(
            view.space.page_size
        )
        rows, ok = view.host.read_many(pages, view.space.page_size)
        return rows.tobytes(), first + np.flatnonzero(~ok)
