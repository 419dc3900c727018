"""A whole trace: read in pieces, paired as it comes, summed up at the end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import HostError
from crashext.trace.events import CACHE_ALLOC, PAGE_ALLOC, SLAB_ALLOC, Events
from crashext.trace.flows import OTHER, Flows
from crashext.trace.lines import LineReader
from crashext.trace.names import Ids
from crashext.trace.pairing import NOT_PAIRED, Entries, Table
from crashext.trace.source import pieces
from crashext.trace.stackend import stack_end
from crashext.trace.summary import (
    OBJECTS,
    PAGES,
    Cache,
    Outstanding,
    Site,
    TraceSummary,
    outstanding_of,
    rank,
    seconds,
)
from crashext.trace.unused import skipped
from crashext.wording import plural

PAGE_SIZE = 4096
_ORDER_BITS = 6
_PIECE = 2 << 20  # fits into a cache, and is what malloc hands out again and again
_LONGEST_LINE = 1 << 16
_HEAD = 1 << 16
_STACKED = re.compile(rb"=>|\n\t|\n +[0-9a-f]{4,16} \S+ \(")
_TENTHS = 10
# What stands between the page allocator's event and the one who wanted the pages.
_PAGE_ALLOCATOR = re.compile(
    r"_*(?:alloc_pages|alloc_pages_\w+|alloc_frozen_pages\w*|get_free_pages|get_zeroed_page\w*|"
    r"folio_alloc|folio_alloc_\w+|vma_alloc_\w+|page_frag_alloc\w*|alloc_page_\w+|"
    r"get_page_from_freelist|alloc_pages_bulk\w*|alloc_page)(?:\.\w+)*$"
)

Progress = Callable[[int], None]


def trace_table(
    path: Path, page_size: int = PAGE_SIZE, progress: Progress = lambda n: None
) -> TraceSummary:
    """Read and pair the trace in `path`; `HostError` where it holds no allocation events.

    `progress` is called with the number of bytes read so far.
    """
    reader = TraceReader(str(path), page_size)
    done = 0
    interrupted = False
    try:
        for piece in pieces(path):
            reader.feed(piece)
            done += len(piece)
            progress(done)
    except KeyboardInterrupt:
        if not reader.events:
            raise
        interrupted = True
    summary = reader.finish(interrupted)
    if not summary.events and not reader.recognised:
        what = plural(reader.lines, "line") if reader.lines else "nothing"
        raise HostError(
            f"{path} has no allocation events ({what} in it): trace kmem:kmalloc, "
            "kmem:kmem_cache_alloc, kmem:kfree and kmem:kmem_cache_free"
        )
    return summary


class TraceReader:
    """Takes a trace's text in pieces that may end anywhere. Memory: what is outstanding."""

    def __init__(self, source: str, page_size: int = PAGE_SIZE) -> None:
        self._source = source
        self._page_size = page_size
        self._lines = LineReader()
        self._flows = Flows()
        self._objects = Table()
        self._pages = Table()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._skipping = False
        self._allocs = self._frees = 0
        self._unknown_frees = self._unknown_page_frees = self._again = 0
        self._backwards = 0
        self._page_sites: dict[int, int] = {}
        self._ended = False

    @property
    def events(self) -> int:
        """Events read so far."""
        return self._allocs + self._frees

    @property
    def recognised(self) -> int:
        """Lines so far that are of a trace, though not of allocations that can be paired."""
        heard = self._lines.heard
        return heard.failed + heard.null_frees + heard.unprinted

    @property
    def lines(self) -> int:
        """Lines read so far."""
        return self._lines.heard.lines

    @property
    def outstanding(self) -> int:
        """Objects outstanding so far."""
        return len(self._objects)

    def feed(self, text: bytes) -> None:
        """Take the next bytes of the trace."""
        self._waiting.append(text)
        self._waiting_bytes += len(text)
        if self._waiting_bytes >= _PIECE:
            self._work()

    def catch_up(self) -> None:
        """Read the lines that wait for more, so that `events` and `outstanding` are of now."""
        if self._waiting_bytes:
            self._work()

    def finish(self, interrupted: bool = False) -> TraceSummary:
        """Take what is left, and sum up. Only once."""
        assert not self._ended
        self._ended = True
        rest = b"".join(self._waiting)
        self._waiting = []
        whole, newline, cut = rest.rpartition(b"\n")
        if self._skipping:
            _, found, after = (whole + newline).partition(b"\n")
            whole, newline = after.removesuffix(b"\n"), b"\n" if found and after else b""
        if newline:
            self._take(whole + newline)
        # A line that does not end may have lost the end of a number: it cannot be believed.
        self._lines.heard.cut_off += bool(cut)
        return self._summary(interrupted)

    def _work(self) -> None:
        """Read all whole lines that are waiting, up to where no stack is torn off its event."""
        data = b"".join(self._waiting)
        if self._skipping:
            _, newline, data = data.partition(b"\n")
            self._skipping = not newline
        end = data.rfind(b"\n") + 1
        if end and (self._lines.has_stacks or _STACKED.search(data, 0, _HEAD)):
            end = stack_end(data, end)
        if not end and len(data) > _LONGEST_LINE:
            self._lines.heard.too_long += 1
            self._skipping = True
            data = b""
        self._waiting = [data[end:]]
        self._waiting_bytes = len(data) - end
        if end:
            self._take(data[:end])

    def _take(self, text: bytes) -> None:
        events = self._lines.read(text)
        if not len(events):
            return
        self._backwards += self._flows.see(events.time)
        is_page = events.kind >= PAGE_ALLOC
        self._pair(events, np.flatnonzero(~is_page), self._objects)
        if is_page.any():
            self._pair(events, np.flatnonzero(is_page), self._pages)

    def _pair(self, events: Events, which: NDArray[np.int64], table: Table) -> None:
        if not len(which):
            return
        kind, cache = events.kind[which], events.cache[which]
        stack, time, site = events.stack[which], events.time[which], events.site[which]
        allocates = (kind == SLAB_ALLOC) | (kind == CACHE_ALLOC) | (kind == PAGE_ALLOC)
        a, f = np.flatnonzero(allocates), np.flatnonzero(~allocates)
        if table is self._pages and self._lines.has_stacks:
            site = self._sites_by_stack(stack)
        flow = np.zeros(len(which), np.int32)
        flow[a] = self._flows.numbers(kind[a], site[a], events.size[which][a])
        matched = table.advance(events.key[which], allocates, flow, stack, events.task[which], time)
        paired = np.flatnonzero(matched.flow != NOT_PAIRED)
        freed = matched.flow[paired]
        self._flows.count(flow[a], freed, matched.lost)
        self._flows.count_times(flow[a], time[a], freed, time[paired])
        named = paired[cache[paired] > 0]
        self._flows.learn(matched.flow[named], cache[named])
        named = a[cache[a] > 0]
        self._flows.learn(flow[named], cache[named])
        self._flows.learn_freed(cache[np.flatnonzero(matched.unknown & (cache > 0))])
        self._allocs += len(a)
        self._frees += len(f)
        if table is self._pages:
            self._unknown_page_frees += int(matched.unknown.sum())
        else:
            self._unknown_frees += int((matched.unknown & ~matched.again).sum())
            self._again += int(matched.again.sum())

    def _sites_by_stack(self, stack: Ids) -> Ids:
        """Sites of page allocations, which events do not have: who called the page allocator."""
        distinct, inverse = np.unique(stack, return_inverse=True)
        sites = np.zeros(len(distinct), np.int32)
        for i, number in enumerate(distinct.tolist()):
            site = self._page_sites.get(number)
            if site is None:
                frames = self._lines.stacks.values[number]
                caller = next((f for f in frames if not _PAGE_ALLOCATOR.match(f)), "")
                site = self._lines.sites.id(caller.encode("ascii", "replace"))
                self._page_sites[number] = site if caller else self._lines.no_site
                site = self._page_sites[number]
            sites[i] = site
        return sites[inverse]

    # What is left is summing up: loops over flows and sites, none over events.

    def _summary(self, interrupted: bool) -> TraceSummary:
        flows = self._flows
        begin, end = flows.begin or 0, flows.end
        site_of: dict[int, tuple[str, str]] = {
            number: self._site_key(number) for number in range(len(flows))
        }
        held, held_pages = self._objects.entries(), self._pages.entries()
        cache_of, caches = self._caches(held, held_pages)
        objects, object_index = self._sites(held, OBJECTS, site_of)
        pages, page_index = self._sites(held_pages, PAGES, site_of)
        heard = self._lines.heard
        tasks = tuple(self._lines.tasks.values)
        stacks = tuple(self._lines.stacks.values)
        outstanding = self._outstanding(held, OBJECTS, object_index, cache_of)
        return TraceSummary(
            source=self._source,
            events=self.events,
            allocs=self._allocs,
            frees=self._frees,
            begin=begin,
            end=end,
            period=flows.period,
            hashed=heard.pointers["hashed"] > 0 and not heard.pointers["wide"],
            sites=objects,
            pages=pages,
            caches=caches,
            tasks=tasks,
            stacks=stacks,
            by_task=outstanding_of(outstanding.task, outstanding.size, [str(t) for t in tasks]),
            by_stack=outstanding_of(outstanding.stack, outstanding.size, [str(s) for s in stacks])
            if len(stacks) > 1
            else (),
            outstanding=outstanding,
            outstanding_pages=self._outstanding(held_pages, PAGES, page_index, cache_of),
            skipped=skipped(
                self._lines,
                self._flows,
                self._unknown_frees,
                self._unknown_page_frees,
                self._again,
                self._backwards,
            ),
            interrupted=interrupted,
        )

    def _bytes(self, flow: int) -> int:
        """Bytes of one allocation of a flow."""
        size = self._flows.size[flow]
        return self._page_size << size if self._flows.kind[flow] == PAGE_ALLOC else size

    def _is_page(self, flow: int) -> bool:
        return self._flows.kind[flow] == PAGE_ALLOC

    def _site_key(self, flow: int) -> tuple[str, str]:
        """Function and module of a flow."""
        site = self._lines.sites.values[self._flows.site[flow]]
        if flow == OTHER:
            return "(others)", ""
        if self._is_page(flow) and self._flows.site[flow] == self._lines.no_site:
            return f"(pages of order {self._flows.size[flow]})", ""
        return site.function, site.module

    def _sites(
        self, table: Entries, what: str, site_of: dict[int, tuple[str, str]]
    ) -> tuple[tuple[Site, ...], dict[str, int]]:
        """Sites of one kind, ranked, and where each function is among them."""
        flows = self._flows
        begin, span = flows.begin or 0, max(1, flows.end - (flows.begin or 0))
        by_function: dict[str, list[int]] = {}
        for flow in range(len(flows)):
            if self._is_page(flow) == (what == PAGES) and flows.allocs[flow]:
                by_function.setdefault(site_of[flow][0], []).append(flow)
        number = {function: i for i, function in enumerate(by_function)}
        site_of_flow = np.full(len(flows), -1, np.int64)
        for function, members in by_function.items():
            site_of_flow[members] = number[function]
        n = len(number)
        sizes = np.array([self._bytes(f) for f in range(len(flows))], np.int64)
        mine = site_of_flow[table.flow]
        count = np.bincount(mine, minlength=n)
        total = np.zeros(n, np.int64)
        np.add.at(total, mine, sizes[table.flow])
        oldest = np.full(n, flows.end, np.int64)
        youngest = np.full(n, begin, np.int64)
        np.minimum.at(oldest, mine, table.time)
        np.maximum.at(youngest, mine, table.time)
        tenth = np.clip((table.time - begin) * _TENTHS // span, 0, _TENTHS - 1)
        spread = np.bincount(mine * _TENTHS + tenth, minlength=n * _TENTHS).reshape(n, _TENTHS)
        found = [
            Site(
                function=function,
                module=next((site_of[f][1] for f in members if site_of[f][1]), ""),
                what=what,
                allocs=int(flows.allocs[members].sum()),
                frees=int(flows.frees[members].sum()),
                reused=int(flows.lost[members].sum()),
                outstanding=int(count[i]),
                bytes=int(total[i]),
                oldest=seconds(flows.end - int(oldest[i])) if count[i] else 0.0,
                youngest=seconds(flows.end - int(youngest[i])) if count[i] else 0.0,
                spread=tuple(spread[i].tolist()),
            )
            for i, (function, members) in enumerate(by_function.items())
        ]
        ranked = [found[i] for i in rank(found)]
        return tuple(ranked), {site.function: i for i, site in enumerate(ranked)}

    def _label(self, flow: int) -> str:
        flows = self._flows
        cache = flows.cache_of(flow)
        if flow == OTHER:
            return "(others)"
        if self._is_page(flow):
            return f"pages of order {flows.size[flow]}"
        if cache:
            return self._lines.caches.values[cache]
        kind = "kmalloc" if flows.kind[flow] == SLAB_ALLOC else "kmem_cache"
        return f"{kind} {flows.size[flow]}"

    def _caches(self, objects: Entries, pages: Entries) -> tuple[dict[int, int], tuple[Cache, ...]]:
        """Flow -> index of its cache, and the caches, by growth."""
        flows = self._flows
        hours = max(1, flows.end - (flows.begin or 0)) / 3.6e12
        members: dict[str, list[int]] = {}
        for flow in range(len(flows)):
            if flows.allocs[flow]:
                members.setdefault(self._label(flow), []).append(flow)
        freed = {self._lines.caches.values[c]: n for c, n in flows.freed_to.items()}
        for name in freed:
            members.setdefault(name, [])
        held = np.bincount(objects.flow, minlength=len(flows)) + np.bincount(
            pages.flow, minlength=len(flows)
        )
        found = []
        for name, these in members.items():
            sizes = [self._bytes(f) for f in these]
            allocs = int(flows.allocs[these].sum())
            frees = int(flows.frees[these].sum()) + freed.get(name, 0)
            net = sum(
                int(flows.allocs[f] - flows.frees[f] - flows.lost[f]) * size
                for f, size in zip(these, sizes, strict=True)
            )
            net -= freed.get(name, 0) * max(sizes, default=0)
            growth = (flows.allocs_in[these] - flows.frees_in[these]).sum(axis=0)
            used = -(-max(1, flows.end - (flows.begin or 0) + 1) // flows.period)
            found.append(
                Cache(
                    name=name,
                    what=PAGES if any(self._is_page(f) for f in these) else OBJECTS,
                    size=max(sizes, default=0),
                    allocs=allocs,
                    frees=frees,
                    outstanding=int(held[these].sum()),
                    bytes=sum(int(held[f]) * s for f, s in zip(these, sizes, strict=True)),
                    per_hour=round(net / hours, 1),
                    growth=tuple(growth[:used].tolist()),
                )
            )
        found.sort(key=lambda c: (-c.bytes, -(c.allocs - c.frees), c.name))
        index = {cache.name: i for i, cache in enumerate(found)}
        return {f: index[name] for name, these in members.items() for f in these}, tuple(found)

    def _outstanding(
        self, table: Entries, what: str, site_index: dict[str, int], cache_of: dict[int, int]
    ) -> Outstanding:
        flows = range(len(self._flows))
        site = np.array([site_index.get(self._site_key(f)[0], -1) for f in flows], np.int32)
        cache = np.array([cache_of.get(f, -1) for f in flows], np.int32)
        size = np.array([self._bytes(f) for f in flows], np.int64)
        return Outstanding(
            address=table.keys >> np.uint64(_ORDER_BITS) if what == PAGES else table.keys,
            size=size[table.flow],
            site=site[table.flow],
            stack=table.stack,
            cache=cache[table.flow],
            task=table.task,
            time=table.time,
        )
