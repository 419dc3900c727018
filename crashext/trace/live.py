"""Allocations of the running kernel, traced for a while and paired as they come.

Allocations stop being traced before frees do: what lives shorter than the drain comes home, and
only what stays is outstanding. Everything goes through one tracing instance (`tracefs`), with
real pointers, filters in the kernel and bounded buffers. What it costs is measured and said.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from crashext.hosts.base import HostError
from crashext.trace.summary import TraceSummary
from crashext.trace.table import TraceReader
from crashext.trace.tracefs import Instance, find_root, remove_stale

Progress = Callable[[str, int, int], None]

ALLOCS = ("kmalloc", "kmalloc_node", "kmem_cache_alloc", "kmem_cache_alloc_node")
"""The *_node events are no more since 6.1."""
FREES = ("kfree", "kmem_cache_free")
_NEEDED = ("kmalloc", "kfree")

_MOST_BUFFER = 64 << 20
_LEAST_PER_CPU = 1 << 20
_MOST_PER_CPU = 8 << 20
_SHORTEST_DRAIN, _LONGEST_DRAIN = 1.0, 10.0
_PIECE = 1 << 16
_WAIT_MS = 100
_AT_ONCE = 256  # reads of trace_pipe (a page each) between two looks at the clock
_BETWEEN_WORDS = 0.5  # seconds
_LONGEST_REST = 60.0  # seconds for what is in the buffers when tracing ends
_SLABS = Path("/sys/kernel/slab")
_SLABINFO = Path("/proc/slabinfo")


@dataclass(frozen=True)
class Wanted:
    """What to trace."""

    seconds: float
    caches: tuple[str, ...] = ()
    """By name; none: all."""
    stacks: bool = False

    @property
    def drain(self) -> float:
        """Seconds for which frees are traced on."""
        return min(_LONGEST_DRAIN, max(_SHORTEST_DRAIN, self.seconds / 5))


def capture(wanted: Wanted, progress: Progress, root: Path | None = None) -> TraceSummary:
    """Trace the running kernel; Ctrl-C ends it early and keeps what was traced.

    `root` is where tracefs is. Raises `HostError` with one line: no tracefs, not root, no events.
    """
    root = root or find_root()
    sizes = {cache: slot_size(cache) for cache in wanted.caches}
    stale = remove_stale(root)
    begun = time.monotonic()
    used = time.process_time()
    reader = TraceReader(f"of this machine, {wanted.seconds:g} s")
    with Instance(root) as instance:
        allocs, frees = _set_up(instance, wanted, sizes)
        real = instance.has("options/hash-ptr")
        interrupted = False
        with instance.pipe() as pipe:
            clock = _Clock(reader, pipe, progress, wanted.seconds + wanted.drain)
            try:
                instance.enable(frees, True)
                instance.enable(allocs, True)
                instance.set("tracing_on", "1")
                clock.read_for(wanted.seconds)
                instance.enable(allocs, False)
                clock.read_for(wanted.drain)
            except KeyboardInterrupt:
                interrupted = True
                instance.enable(allocs, False)
            instance.set("tracing_on", "0")
            instance.enable(frees, False)
            # Another Ctrl-C here: what is in the buffers is not waited for.
            with suppress(KeyboardInterrupt):
                clock.read_rest()
        statistics = instance.statistics()
    summary = reader.finish(interrupted)
    if interrupted and not summary.events:
        raise KeyboardInterrupt
    if not summary.events:
        raise HostError("no allocation was traced: do kmem events work in this kernel?")
    cost = Cost(
        seconds=time.monotonic() - begun,
        cpu=time.process_time() - used,
        events=summary.events,
        lost=statistics.get("overrun", 0) + statistics.get("dropped events", 0),
    )
    remarks = [
        f"traced live for {wanted.seconds:g} s and {wanted.drain:g} s more for frees; {cost}"
    ]
    if summary.hashed and not real:
        remarks.append(
            "this kernel cannot show real pointers to one instance (options/hash-ptr, Linux 5.12): "
            "boot with no_hash_pointers to find the objects in memory"
        )
    if stale:
        remarks.append(f"removed {stale} tracing instance{'s' * (stale > 1)} of killed runs")
    return replace(summary, remarks=tuple(remarks))


@dataclass(frozen=True)
class Cost:
    """What a capture cost this machine."""

    seconds: float
    cpu: float
    """Seconds of processor time of this process, the kernel's on its behalf included."""
    events: int
    lost: int

    def __str__(self) -> str:
        rate = self.events / self.seconds if self.seconds else 0.0
        return (
            f"cost: {self.events:,} events ({rate:,.0f}/s), {self.lost:,} lost, "
            f"{self.cpu:.1f} s of processor time in {self.seconds:.1f} s"
        )


def _set_up(
    instance: Instance, wanted: Wanted, sizes: dict[str, int]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Settings, and the events of allocations and frees to enable."""
    instance.set("tracing_on", "0")
    allocs, frees = instance.events(ALLOCS), instance.events(FREES)
    if not set(_NEEDED) <= {*allocs, *frees}:
        raise HostError("this kernel has no kmem:kmalloc and kmem:kfree events to trace")
    # Since 4.15 pointers are hashed, since 5.12 not where this option is off.
    for name, value in (("hash-ptr", "0"), ("stacktrace", str(int(wanted.stacks)))):
        if instance.has(f"options/{name}"):
            instance.set(f"options/{name}", value)
    instance.set("buffer_size_kb", str(_buffer() >> 10))
    # A filter on frees would need to know what is freed: only names of caches are in the event,
    # and only where the allocations have them too do both sides of a pair pass.
    named = all("name" in instance.fields(e) for e in (*allocs, *frees) if "cache" in e)
    names = " || ".join(f'name == "{cache}"' for cache in sizes)
    for event in allocs:
        terms = [f"common_pid != {os.getpid()}"]
        if sizes and named and "cache" in event:
            terms.append(f"({names})")
        elif sizes:
            amounts = sorted(set(sizes.values()))
            terms.append("(" + " || ".join(f"bytes_alloc == {n}" for n in amounts) + ")")
        instance.set(f"events/kmem/{event}/filter", " && ".join(terms))
    instance.set("events/kmem/kfree/filter", "ptr != 0")  # kfree(NULL) is frequent
    if sizes and named and "kmem_cache_free" in frees:
        instance.set("events/kmem/kmem_cache_free/filter", names)
    return allocs, frees


def _buffer() -> int:
    """Bytes of buffer for each CPU."""
    return min(_MOST_PER_CPU, max(_LEAST_PER_CPU, _MOST_BUFFER // (os.cpu_count() or 1)))


def slot_size(cache: str) -> int:
    """Bytes that the kernel notes for an allocation from `cache`: those of a slot."""
    try:
        if re.fullmatch(r"[\w:.-]+", cache):
            return int((_SLABS / cache / "slab_size").read_text())
    except (OSError, ValueError):
        pass  # SLAB, or no CONFIG_SYSFS: the table has it
    try:
        # SLUB and SLAB print the slot's size in the column that is called objsize.
        text = _SLABINFO.read_text("ascii", "replace")
    except OSError:
        text = ""
    match = re.search(rf"^{re.escape(cache)} +\d+ +\d+ +(\d+) ", text, re.MULTILINE)
    if match is None:
        raise HostError(f"no slab cache of this machine is called {cache}")
    return int(match[1])


class _Clock:
    """Reads the pipe until times come."""

    def __init__(self, reader: TraceReader, pipe: int, progress: Progress, total: float) -> None:
        self._reader, self._pipe, self._progress = reader, pipe, progress
        self._begun = time.monotonic()
        self._total = total
        self._told = self._begun
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)

    def read_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not self._some():
                # A pipe without writers is always ready, and empty.
                time.sleep(min(0.01, left))
                self._poll.poll(min(_WAIT_MS, left * 1000))
            self._tell()

    def read_rest(self) -> None:
        """What is left in the buffers."""
        end = time.monotonic() + _LONGEST_REST
        while self._some() and time.monotonic() < end:
            self._tell()

    def _some(self) -> bool:
        """Take what there is, not more than some hundred pages; whether there was any."""
        for count in range(_AT_ONCE):
            try:
                piece = os.read(self._pipe, _PIECE)
            except BlockingIOError:
                return count > 0
            if not piece:
                return count > 0
            self._reader.feed(piece)
        return True

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told < _BETWEEN_WORDS:
            return
        self._told = now
        self._reader.catch_up()
        passed = min(self._total, now - self._begun)
        self._progress(
            f"tracing: {self._reader.events:,} events, {self._reader.outstanding:,} outstanding",
            int(passed),
            int(self._total),
        )
