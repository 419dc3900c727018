"""The code rung beside the kernel's own record of who allocated, on guests that keep one.

`python -m tests.end_to_end.by_record [DUMP …]` lists every group of alike objects that one place
allocated, by the record, and what the code alone says of it. The record is not shown to the code.

A group is *of one place* where the record names one for nearly all of it; what is counted once more
are those of a single one, their objects, and the places themselves, each once.

How a group counts: *right* where the recorded function is first, by the line of source: a helper
that is compiled into several functions is one; *among equals* where the code says itself that some
are as probable as the first, and the recorded one is among the few that it shows; *not told* where
no place stands out; *wrong* where another one is said to. Of what it says the code has to be right,
and a text of 16 bytes that kstrdup() made has nothing in it to know its maker by.

Apart, each with its outcome, are groups that code of __init made: it is freed after boot, so no
dump has it, and no reading of the text can name it. Of them the code must not name another.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from crashext.allocators import allocates_for_others
from crashext.analysis.likeness.similarity import group
from crashext.analysis.likeness.survey import Survey, make_classifier, survey
from crashext.analysis.likeness.words import Classifier
from crashext.analysis.origin.callers import rank_callers
from crashext.analysis.origin.content import content_owners
from crashext.analysis.origin.places import source_of
from crashext.analysis.reach.holders import Holders
from crashext.analysis.reach.pointers import pointers
from crashext.analysis.reach.reachability import Class, Reach
from crashext.analysis.results.callsites import Callers, CallSite
from crashext.analysis.results.evidence import Head, Pointer
from crashext.analysis.settings import DEFAULTS
from crashext.analysis.types.candidates import Types
from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import Words
from crashext.kernel.origin.fitting import Request
from crashext.kernel.origin.kmemleak import read_records, watched
from crashext.kernel.origin.requests import requests_of
from crashext.kernel.origin.stackdepot import StackDepot
from crashext.kernel.origin.tracks import read_tracks, tracked
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from tests.conftest import lab_view
from tests.end_to_end.guests import marked

LEAST = 10
"""Objects of a group that is asked about: of fewer, chance makes one place."""
GROUPS = 8
"""Of a cache: those that a report shows."""
OUTCOMES = ("right", "among equals", "not told", "wrong")
_ONE_SITE = 0.95
_JUMP = 5

Stack = tuple[int, ...]


@dataclass(frozen=True)
class Compared:
    """A group that one place allocated, and what the code says."""

    cache: str
    objects: int
    stack: Stack
    """The record's most frequent one."""
    site: int
    """The return address of who asked for the memory."""
    callers: Callers | None
    rank: int | None
    """Of the true place among those that are shown; None where it is not."""
    single: bool
    """The record names no other place for any of them."""

    same: bool
    """The first is in the recorded function, or in a helper that it asked, if at another call."""

    line: bool
    """The first is the same line of source, compiled into another function."""

    gone: bool
    """The recorded function is no more: the text of __init is freed after boot."""

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`."""
        if self.rank == 0 or self.same or self.line:
            return "right"
        if self.callers is not None and self.callers.clear:
            return "wrong"
        few = self.rank is not None and self.callers is not None and self.callers.equals > self.rank
        return "among equals" if few else "not told"


class Record:
    """Stacks of allocations as the kernel noted them."""

    def __init__(self, view: KernelView) -> None:
        self._view, self._depot = view, StackDepot(view.host)

    def stacks(self, cache: SlabCache, objects: Words) -> list[Stack | None]:
        if not tracked(cache):
            return self._by_kmemleak(objects)
        tracks = read_tracks(self._view.host, cache, objects)
        known = self._depot.stacks(np.unique(tracks.handle[tracks.ok]))
        stacks: list[Stack | None] = []
        for i, good in enumerate(tracks.ok.tolist()):
            stack = known.get(int(tracks.handle[i])) or tuple(int(f) for f in tracks.inline[i] if f)
            stacks.append((stack or (int(tracks.addr[i]),)) if good else None)
        return stacks

    def _by_kmemleak(self, objects: Words) -> list[Stack | None]:
        records = read_records(self._view.host, objects)
        known = self._depot.stacks(np.unique(records.handle[records.ok]))
        stacks = [
            known.get(int(handle)) or tuple(int(f) for f in inline if f)
            for handle, inline in zip(records.handle, records.inline, strict=True)
        ]
        return [s if s and good else None for s, good in zip(stacks, records.ok, strict=True)]

    def called(self, address: int) -> int | None:
        """The function whose call returns to `address`."""
        return callee(self._view.host, address)

    def asked(self, stack: Stack) -> int:
        """The place in the stack of who asked for the memory."""
        for i, address in enumerate(stack):
            symbol = self._view.host.symbol_at(address - 1)
            if symbol is None or not allocates_for_others(symbol.name):
                return i
        return 0


def names(host: Host, site: CallSite, stack: Stack) -> bool:
    """Whether a stack goes through a place in the code."""
    called = int(site.address)
    if not site.tail:
        return called + site_length(host) in stack
    # A tail jump leaves no frame: who called the function that jumps is in the stack.
    symbol = host.symbol_at(called)
    if symbol is None:
        return False
    # Of a call through a pointer nobody sees what was called: with no frame of its own, one that
    # jumps.
    return through_pointer(host, stack[-1]) or any(callee(host, a) == symbol.address for a in stack)


def site_length(host: Host) -> int:
    return 4 if host.info().arch == "aarch64" else _JUMP


def callee(host: Host, address: int) -> int | None:
    """Where the direct call that returns to `address` goes."""
    length = site_length(host)
    try:
        data = host.read(address - length, length)
    except ReadFault:  # text of __init, which is gone
        return None
    if length == 4:  # bl
        word = int.from_bytes(data, "little")
        distance = (word & 0x3FFFFFF) - (word << 1 & 0x4000000)
        return address - 4 + 4 * distance if word >> 26 == 0x25 else None
    return address + int.from_bytes(data[1:], "little", signed=True) if data[0] == 0xE8 else None


def through_pointer(host: Host, address: int) -> bool:
    """Whether what returns to `address` was called through a pointer."""
    target = callee(host, address)
    symbol = None if target is None else host.symbol_at(target)
    if symbol is not None:
        return symbol.name.startswith("__x86_indirect_thunk")
    if site_length(host) == 4:  # blr
        try:
            word = int.from_bytes(host.read(address - 4, 4), "little")
        except ReadFault:
            return False
        return word & 0xFFFFFC1F == 0xD63F0000
    try:
        return _indirect(host.read(address - _JUMP, _JUMP))
    except ReadFault:
        return False


def _indirect(code: bytes) -> bool:
    """Whether it ends in `call *register`, of 2 or 3 bytes, or is one padded by prefixes."""
    return any(code[i] == 0xFF and code[i + 1] & 0xF8 == 0xD0 for i in range(len(code) - 1))


def compared(
    view: KernelView,
    caches: Iterable[SlabCache] | None = None,
    groups: int = GROUPS,
    marked: Reach | None = None,
) -> Iterator[Compared]:
    """Every group of one place, in every cache (or of `caches`) whose objects are noted.

    With who is `marked` as reached, the code is told where they hang, too, as in a report.
    """
    holders = None if marked is None else Holders(marked)
    record, classifier = Record(view), make_classifier(view)
    for cache in view.caches.all if caches is None else caches:
        if not (tracked(cache) or watched(view.host)):
            continue
        seen = survey(view, classifier, cache, DEFAULTS, silent)
        grouping = group(seen.words, DEFAULTS.threshold, DEFAULTS.metric, seen.rng)
        for cluster in grouping.clusters[:groups]:
            if len(cluster.members) >= LEAST:
                found = _compare(view, classifier, cache, seen, cluster.members, record, holders)
                if found is not None:
                    yield found


def _compare(
    view: KernelView,
    classifier: Classifier,
    cache: SlabCache,
    seen: Survey,
    members: np.ndarray[tuple[int], np.dtype[np.intp]],
    record: Record,
    holders: Holders | None,
) -> Compared | None:
    addresses, words = seen.sample.address[members], seen.words.rows(members)
    stacks = [s for s in record.stacks(cache, addresses) if s is not None]
    sites = Counter(s[record.asked(s)] for s in stacks)
    if not sites:
        return None
    site, times = sites.most_common(1)[0]
    if times < _ONE_SITE * len(stacks):
        return None
    (stack, _) = Counter(s for s in stacks if s[record.asked(s)] == site).most_common(1)[0]
    stack = stack[: record.asked(stack) + 1]
    types = Types(view, classifier).candidates(cache, words, np.arange(len(members)), addresses[0])
    owners = content_owners(view, classifier, words)
    asked = view, cache, addresses, words, owners, types
    callers = rank_callers(*asked)
    if holders is not None and callers is not None and not callers.clear:
        callers = rank_callers(*asked, *_held(holders, addresses))
    ranked = [] if callers is None else [c.site for c in callers.sites]
    rank = next((i for i, s in enumerate(ranked) if names(view.host, s, stack)), None)
    through = {symbol.name for a in stack if (symbol := view.host.symbol_at(a - 1))}
    same = bool(ranked and ranked[0].function in through)
    source = source_of(view.host, site - site_length(view.host))
    line = bool(source and ranked and ranked[0].source == source)
    single, away = times == len(stacks), gone(view.host, site)
    return Compared(cache.name, len(members), stack, site, callers, rank, single, same, line, away)


def gone(host: Host, site: int) -> bool:
    """Whether the code that a stack's address is of was freed after boot."""
    first, last = (host.address_of(name) for name in ("_sinittext", "_einittext"))
    if first and last and first < site <= last:
        return True
    return host.symbol_at(site - 1) is None and any(a <= site < b for a, b in _text_areas(host))


def _text_areas(host: Host) -> list[tuple[int, int]]:
    """Where modules are, and were: what they need for their start alone is beside the rest."""
    areas = [area for module in host.modules() for area in module.ranges]
    return [(min(a for a, _ in areas), max(b for _, b in areas))] if areas else []


def _held(holders: Holders, addresses: Words) -> tuple[Head | None, tuple[Pointer, ...]]:
    slots = holders.marked.table.at(addresses)
    head = holders.head(slots[holders.marked.classes(slots) == Class.HELD])
    return head, pointers(holders.marked, slots)


def main(dumps: list[str]) -> None:
    for name in dumps:
        view = lab_view(name)
        found = list(compared(view, marked=marked(name)))
        print(f"{name}: {len(found)} groups of one place each")
        for one in found:
            print(*lines(view, one), sep="\n  ")
        for line in summary(found):
            print(f"{name}: {line}")


def summary(found: list[Compared]) -> list[str]:
    """How many of each outcome, by what is counted."""
    apart = [one for one in found if one.gone]
    found = [one for one in found if not one.gone]
    single = [one for one in found if one.single]
    objects: Counter[str] = Counter()
    for one in single:
        objects[one.outcome] += one.objects
    counted = {
        "groups": Counter(one.outcome for one in found),
        "groups of a single place": Counter(one.outcome for one in single),
        "objects of those": objects,
        "places": Counter({(one.cache, one.site): one.outcome for one in found}.values()),
    }
    told = [
        f"{', '.join(f'{times[o]:,} {o}' for o in OUTCOMES)} of {sum(times.values()):,} {what}"
        for what, times in counted.items()
    ]
    by_line = [one for one in single if one.line and one.rank != 0 and not one.same]
    told.append(f"of a single place {len(by_line):,} right by the line of source alone")
    those = Counter(one.outcome for one in apart if one.single)
    if those:
        outcomes = ", ".join(f"{times:,} {o}" for o, times in those.items())
        count = sum(one.objects for one in apart if one.single)
        told.append(f"apart, made by __init code that is gone: {outcomes}, {count:,} objects")
    return told


def lines(view: KernelView, one: Compared) -> list[str]:
    host = view.host
    clear = one.callers is not None and one.callers.clear
    outcome = f"{'gone, ' if one.gone else ''}{one.outcome}{', clear' if clear else ''}"
    head = f"{outcome}: {one.cache} {one.objects}: rank {one.rank}"
    told = [head, "record: " + " < ".join(_name(host, a) for a in one.stack)]
    if one.outcome == "right" and clear:
        return told[:1]
    if one.callers is None:
        return [*told, "no place known"]
    told.append(f"{one.callers.places}+{one.callers.others} places, {one.callers.equals} equal")
    if one.outcome != "right":
        index = requests_of(host, view.caches)
        cache = view.caches.find(one.cache)
        assert cache is not None
        mine = [r for r in index.from_cache(cache) if _is(host, r, one.stack)]
        told.append(f"index has: {[(r.function.name, hex(r.offset), r.sizes) for r in mine]}")
    for candidate in one.callers.sites:
        site = candidate.site
        where = f"{site.function}+{site.offset:#x} {site.module}"
        told.append(f"{candidate.probability:.2f} {where}: {'; '.join(candidate.reasons)}")
    return told


def _is(host: Host, request: Request, stack: Stack) -> bool:
    if not request.jump:
        return request.call + request.length in stack
    return any(callee(host, a) == request.function.address for a in stack)


def _name(host: Host, address: int) -> str:
    symbol = host.symbol_at(address - 1)
    return f"{address:#x}" if symbol is None else f"{symbol.name}+{address - symbol.address:#x}"


if __name__ == "__main__":
    main(sys.argv[1:] or ["traced", "nodes-debug"])
