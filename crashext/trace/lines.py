"""Lines of trace text as arrays of events. Knows how traces are printed, not what they mean.

One reader for tracefs' ``trace`` and ``trace_pipe``, ``trace-cmd report`` and ``perf script``:
they print the head of a line differently and the message alike, from the same format string
(include/trace/events/kmem.h)::

    leaklab-103 [000] ..... 5.646054: kmalloc: call_site=f+0x21/0xd0 [mod] ptr=ffff8ccc0969 …
    leaklab-103   [000]  5.646054: kmalloc:  (f+0x21) call_site=f+0x21 ptr=0xffff8ccc0969 …
    leaklab   103 [000]  5.646054:  kmem:kmalloc: call_site=f+0x21 ptr=0xffff8ccc0969 …

What differed between kernels: call_site was a bare address until 5.4; ptr is a hash since 4.15
unless the instance's option hash-ptr is off (5.12); pfn is decimal until 5.16 (%lu), then
hexadecimal; kmem_cache_free has name= since 5.12; kmalloc_node and kmem_cache_alloc_node became
kmalloc and kmem_cache_alloc, with node= and accounted=, in 6.1. So every value is found by its
key, never by its place in the line.

It is done for all lines of a piece of text at once, by the places of ``=``, ``:`` and ``]`` in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.trace.callsites import CallSite, Task, place, stack, task
from crashext.trace.columns import (
    MOST,
    decimal,
    decimal_before,
    ends_with,
    hexadecimal,
    past_0x,
    words,
)
from crashext.trace.events import (
    KINDS,
    PAGE_ALLOC,
    SLAB_FREE,
    Events,
    Heard,
)
from crashext.trace.names import Ids, Names
from crashext.trace.remarks import hear
from crashext.trace.stackowners import StackOwners

_UNKNOWN = -1

_MOST_SITES = 1 << 16
_MOST_TASKS = 1 << 16
_MOST_CACHES = 1 << 14
_MOST_STACKS = 1 << 17
_NO_STACK = 0
_NO_SITE = CallSite("")
_LONGEST_STACK = 1 << 14
_MAX_ORDER = 64
_MAX_PFN = 1 << 52
_MAX_SIZE = 1 << 37  # kmalloc ends at 4 MiB, kvmalloc does not trace; far beyond both
_REAL_DIGITS = 16

_NEWLINE, _EQUALS, _COLON, _BRACKET, _OPEN = b"\n=:]["
_SPACE, _TAB, _DOT, _ARROW, _PARENTHESIS = b" \t.>)"
_END_OF_VALUE = np.zeros(256, bool)
_END_OF_VALUE[[_SPACE, _NEWLINE, _TAB, ord("\r")]] = True


class LineReader:
    """Turns pieces of whole lines into events; keeps the names, and counts what it skips."""

    def __init__(self) -> None:
        self.heard = Heard()
        self.sites: Names[CallSite] = Names(place, CallSite("(others)"), _MOST_SITES)
        self.tasks: Names[Task] = Names(task, Task("(others)", -1), _MOST_TASKS)
        self.caches: Names[str] = Names(_cache, "", _MOST_CACHES)
        self.stacks: Names[tuple[str, ...]] = Names(stack, (), _MOST_STACKS, _LONGEST_STACK)
        self.no_site = self.sites.id(b"")
        """The site of events that have none: pages."""
        self._has_stacks = False

    @property
    def has_stacks(self) -> bool:
        """Whether there were stacks so far: they follow their events, pieces must not part them."""
        return self._has_stacks

    def read(self, data: bytes) -> Events:
        """The events in `data`, whole lines only."""
        padded = b"".join((b"\n" * MOST, data, b"\n" * (2 * MOST)))
        return _Piece(self, padded, len(data)).events()


def _cache(text: bytes) -> str:
    return text.decode("ascii", "backslashreplace")


_KEYS = {
    "site": ends_with(b"all_site"),
    "pointer": ends_with(b" ptr"),
    "alloc": ends_with(b"es_alloc"),
    "name": ends_with(b" name"),
    "page": ends_with(b" page"),
    "pfn": ends_with(b" pfn"),
    "order": ends_with(b" order"),
}


class _Piece:
    """One piece of text. `self.at[key]` is where the ``=`` of a key is on each line, or 0."""

    def __init__(self, reader: LineReader, data: bytes, length: int) -> None:
        self.reader = reader
        self.heard = reader.heard
        self.data = data
        text = np.frombuffer(data, np.uint8)
        self.text = text
        newlines = np.flatnonzero(text[: MOST + length + 1] == _NEWLINE)[MOST - 1 :]
        if length and data[MOST + length - 1] == _NEWLINE:
            newlines = newlines[:-1]  # of the padding
        self.start = newlines[:-1] + 1
        self.end = newlines[1:]
        self.heard.lines += len(self.start)
        self.words = words(text)
        self.colons = np.flatnonzero(text == _COLON)
        self.brackets = np.flatnonzero(text == _BRACKET)
        equals = np.flatnonzero(text == _EQUALS)
        before = self.words[equals - 8]
        self.at: dict[str, NDArray[np.int64]] = {}
        for key, is_key in _KEYS.items():
            places = equals[is_key(before)]
            line = np.searchsorted(newlines, places) - 1
            first = np.zeros(len(self.start), np.int64)
            first[line[::-1]] = places[::-1]  # the first one of a line is written last
            self.at[key] = first

    def events(self) -> Events:
        objects = (self.at["site"] > 0) & (self.at["pointer"] > self.at["site"])
        pages = ~objects & (self.at["page"] > 0) & (self.at["pfn"] > self.at["page"])
        lines = np.flatnonzero(objects | pages)
        kind, time, head_end = self._heads(lines, np.where(objects, self.at["site"] - 9, 0)[lines])
        known = (kind != _UNKNOWN) & ((kind >= PAGE_ALLOC) == pages[lines])
        lines, kind, time, head_end = lines[known], kind[known], time[known], head_end[known]
        key, size, good, counted = self._values(lines, kind)
        mine = np.zeros(len(self.start), bool)
        mine[lines[good | counted]] = True
        lines, kind, time, head_end = lines[good], kind[good], time[good], head_end[good]
        key, size = key[good], size[good]
        stacks = np.zeros(len(lines), np.int32)
        self._rest(mine, lines, stacks)
        return Events(
            kind=kind.astype(np.int8),
            key=key,
            size=size,
            site=self._sites(lines, kind),
            cache=self._caches(lines),
            task=self.reader.tasks.ids(self._slices(self.start[lines], head_end)),
            stack=stacks,
            time=time,
        )

    def _slices(self, start: NDArray[np.int64], end: NDArray[np.int64]) -> list[bytes]:
        data = self.data
        return [data[a:b] for a, b in zip(start.tolist(), end.tolist(), strict=True)]

    def _heads(
        self, lines: NDArray[np.int64], site: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Kind of event, time, and where the task's part ends; kind `_UNKNOWN` where unreadable."""
        start = self.start[lines]
        anchor = np.where(site > 0, site, self.at["page"][lines] - 4)
        colons = self.colons
        if not len(colons) or not len(lines):
            nothing = np.zeros(len(lines), np.int64)
            return nothing + _UNKNOWN, nothing, nothing
        nth = np.searchsorted(colons, anchor) - 1
        name_end = colons[np.maximum(nth, 0)]
        kind, name_start = self._names(name_end)
        grouped = self.text[name_start - 1] == _COLON  # perf's kmem:kmalloc
        time_end = colons[np.maximum(nth - 1 - grouped, 0)]
        ok = (time_end > start) & (time_end < name_start) & (self.text[anchor - 1] == _SPACE)
        time_end = np.where(ok, time_end, start)

        last, digits = decimal_before(self.text, time_end)
        dotted = self.text[time_end - digits - 1] == _DOT
        whole_end = time_end - digits - 1
        whole, whole_digits = decimal_before(self.text, np.where(dotted, whole_end, time_end))
        time_start = np.where(dotted, whole_end, time_end) - whole_digits
        ok &= (digits > 0) & (digits <= 18) & (whole_digits > 0) & (time_start > start)
        ok &= ~dotted | ((digits <= 9) & (whole_digits <= 9))
        scale = 10 ** np.clip(9 - digits, 0, 9).astype(np.int64)
        time = np.where(
            dotted,
            whole.astype(np.int64) * 1_000_000_000 + last.astype(np.int64) * scale,
            whole.astype(np.int64),
        )

        head_end = time_start
        if len(self.brackets):
            bracket = self.brackets[np.maximum(np.searchsorted(self.brackets, time_start) - 1, 0)]
            _, cpu_digits = decimal_before(self.text, bracket)
            opening = bracket - cpu_digits - 1
            has_cpu = (bracket < time_start) & (opening > start) & (self.text[opening] == _OPEN)
            head_end = np.where(has_cpu & (cpu_digits > 0), opening, time_start)
        ok &= head_end - start <= 256
        return np.where(ok, kind, _UNKNOWN), np.where(ok, time, 0), np.where(ok, head_end, start)

    def _names(self, end: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Kind of the event whose name ends before `end`, and where the name starts."""
        kind = np.full(len(end), _UNKNOWN, np.int64)
        start = end.copy()
        parts = [self.words[end - 8 * n] for n in (1, 2, 3)]
        for name, which in KINDS.items():
            hit = np.ones(len(end), bool)
            left = name
            for part in parts:
                if left:
                    hit &= ends_with(left[-8:])(part)
                    left = left[:-8]
            before = self.text[end - len(name) - 1]
            hit &= (before == _SPACE) | (before == _COLON)
            kind[hit] = which
            start[hit] = end[hit] - len(name)
        return kind, start

    def _values(
        self, lines: NDArray[np.int64], kind: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Key and size of each event; which are good, and which are none but accounted for."""
        key = np.zeros(len(lines), np.uint64)
        size = np.zeros(len(lines), np.int64)
        good = np.zeros(len(lines), bool)
        counted = np.zeros(len(lines), bool)

        some = np.flatnonzero(kind < PAGE_ALLOC)
        at = self.at["pointer"][lines[some]] + 1
        for _ in range(_REAL_DIGITS):  # NULL was padded to the width of a pointer until 4.14
            blank = self.text[at] == _SPACE
            if not blank.any():
                break
            at = at + blank
        digits_at, prefixed = past_0x(self.text, at)
        address, length = hexadecimal(self.text, digits_at)
        whole = (length > 0) & (length <= 16) & _END_OF_VALUE[self.text[digits_at + length]]
        whole &= digits_at + length <= self.end[lines[some]]
        allocates = kind[some] != SLAB_FREE
        bytes_at = self.at["alloc"][lines[some]]
        amount, amount_digits = decimal(self.text, bytes_at + 1)
        sized = (bytes_at > at) & (amount_digits > 0) & (amount < _MAX_SIZE)
        # At the very end of a cut line a number may be cut, too: something must follow.
        sized &= self.text[bytes_at + 1 + amount_digits] == _SPACE
        word = self.text[at]
        bracketed = word == ord("(")
        null = (bracketed & (self.text[at + 1] == ord("n"))) | (whole & (address == 0))
        unprinted = bracketed & (self.text[at + 1] == ord("_"))
        readable = whole & (address != 0) & (sized | ~allocates)
        self.heard.failed += int((null & allocates).sum())
        self.heard.null_frees += int((null & ~allocates).sum())
        self.heard.unprinted += int(unprinted.sum())
        wide = readable & (address >> np.uint64(32) != 0)
        padded = readable & ~wide & (length == _REAL_DIGITS) & ~prefixed
        self.heard.pointers["wide"] += int(wide.sum())
        self.heard.pointers["hashed"] += int(padded.sum())
        key[some] = address
        size[some] = np.where(allocates & sized, amount, np.uint64(0)).astype(np.int64)
        good[some] = readable
        counted[some] = null | unprinted

        some = np.flatnonzero(kind >= PAGE_ALLOC)
        if len(some):
            frame, order, fine = self._pages(lines[some])
            self.heard.failed += int((fine & (frame == 0) & (kind[some] == PAGE_ALLOC)).sum())
            key[some] = frame * np.uint64(_MAX_ORDER) + order
            size[some] = order.astype(np.int64)
            good[some] = fine & (frame != 0)
            counted[some] = fine & (frame == 0)
        return key, size, good, counted

    def _pages(
        self, lines: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]]:
        """Page frame number, order, and whether both could be read."""
        at = self.at["pfn"][lines] + 1
        digits_at, prefixed = past_0x(self.text, at)
        hexa, hexa_digits = hexadecimal(self.text, digits_at)
        deci, deci_digits = decimal(self.text, at)
        frame = np.where(prefixed, hexa, deci)
        digits = np.where(prefixed, hexa_digits, deci_digits)
        end = np.where(prefixed, digits_at, at) + digits
        fine = (digits > 0) & (self.text[end] == _SPACE) & (frame < _MAX_PFN)
        order_at = self.at["order"][lines]
        order, order_digits = decimal(self.text, order_at + 1)
        fine &= (order_at > at) & (order_digits > 0) & (order < _MAX_ORDER)
        fine &= _END_OF_VALUE[self.text[order_at + 1 + order_digits]]
        return np.where(fine, frame, np.uint64(0)), np.where(fine, order, np.uint64(0)), fine

    def _sites(self, lines: NDArray[np.int64], kind: NDArray[np.int64]) -> Ids:
        sites = np.full(len(lines), self.reader.no_site, np.int32)
        some = np.flatnonzero(kind < PAGE_ALLOC)
        these = lines[some]
        texts = self._slices(self.at["site"][these] + 1, self.at["pointer"][these] - 4)
        sites[some] = self.reader.sites.ids(texts)
        return sites

    def _caches(self, lines: NDArray[np.int64]) -> Ids:
        caches = np.zeros(len(lines), np.int32)
        named = np.flatnonzero(self.at["name"][lines] > self.at["pointer"][lines])
        if len(named):
            start = self.at["name"][lines[named]] + 1
            texts = self._slices(start, np.minimum(self.end[lines[named]], start + 128))
            names = [text.split(b" ", 1)[0].rstrip() for text in texts]
            has = [i for i, name in enumerate(names) if name]
            caches[named[has]] = self.reader.caches.ids([names[i] for i in has])
        return caches

    def _rest(self, mine: NDArray[np.bool_], lines: NDArray[np.int64], stacks: Ids) -> None:
        """Count the lines that are no events of ours, and put the stacks to their events."""
        candidates = (self.at["site"] > 0) | (self.at["page"] > 0)
        rest = np.flatnonzero(~mine)
        if not len(rest):
            return
        framed = np.zeros(len(mine), bool)
        framed[rest] = self._are_frames(rest) & ~candidates[rest]
        if framed.any():
            self.reader._has_stacks = True
            self.heard.frames += int(framed.sum())
            self._stacks(framed, lines, stacks)
        for number in np.flatnonzero(~mine & ~framed).tolist():
            hear(self.heard, self.data[self.start[number] : self.end[number]])

    def _are_frames(self, lines: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which lines are frames: ``=> func``, or perf's ``ffffffff81… func+0x.. (image)``."""
        text, start, end = self.text, self.start[lines], self.end[lines]
        at = start.copy()
        for _ in range(MOST):
            blank = ((text[at] == _SPACE) | (text[at] == _TAB)) & (at < end)
            if not blank.any():
                break
            at += blank
        arrow = (text[at] == _EQUALS) & (text[at + 1] == _ARROW)
        _, digits = hexadecimal(text, at)
        address = (digits > 0) & (digits <= 16) & (text[at + digits] == _SPACE) & (at > start)
        tabbed = text[start] == _TAB
        spaced: NDArray[np.bool_] = ~np.isin(lines, self._with_brackets(lines))
        closed = text[end - 1] == _PARENTHESIS
        frames: NDArray[np.bool_] = arrow | (address & closed & (tabbed | spaced))
        return frames

    def _with_brackets(self, lines: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `lines` that have a CPU: ``[000]``, which no frame has."""
        opening = np.flatnonzero(self.text == _OPEN)
        digits = self.text[opening + 1] - np.uint8(ord("0")) < 10
        at = opening[digits]
        return np.unique(np.searchsorted(self.start, at, side="right") - 1)

    def _stacks(self, framed: NDArray[np.bool_], lines: NDArray[np.int64], stacks: Ids) -> None:
        before = np.concatenate(([False], framed[:-1]))
        after = np.concatenate((framed[1:], [False]))
        event_of = np.full(len(framed), -1, np.int64)
        event_of[lines] = np.arange(len(lines))
        first = np.flatnonzero(framed & ~before)
        last = np.flatnonzero(framed & ~after)
        blocks = self._slices(self.start[first], self.end[last])
        numbers = self.reader.stacks.ids(blocks).tolist()
        owners = StackOwners(self.data, self.start, self.end, framed, event_of)
        for line, number in zip(first.tolist(), numbers, strict=True):
            owner = owners.of(line - 1)
            if owner >= 0 and not stacks[owner]:
                stacks[owner] = number
            elif owner < 0:
                self.heard.stray_stacks += owner == -1
