"""Every struct that fits a cache, judged by the words of a group of its objects.

Three things speak for or against a struct: what kind of word each of its fields holds (`fit`), what
its pointers and functions lead to (`votes`), and, a little, the cache's name.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.words import Classifier, Kind, WordMap
from crashext.analysis.results.evidence import TypeCandidate
from crashext.analysis.types.fit import Observed
from crashext.analysis.types.votes import (
    CODE,
    NO_FUNCTION,
    OTHER_PROTOTYPE,
    PROTOTYPE,
    TELLS,
    Evidence,
    Note,
    is_kmalloc,
)
from crashext.hosts.base import ReadFault, Symbol
from crashext.kernel.access import Words
from crashext.kernel.btf import Btf, BtfKind
from crashext.kernel.fields import Choice, Field, Fields, Form, Items
from crashext.kernel.pages.pagetables import physical
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView

MOST_CANDIDATES = 5
MOST_LINES = 8
_ROWS = 96
_JUDGED = 150  # candidates whose pointers are followed, best first
_WORDS = 1024  # of an object that are looked at: 8 KiB
_TARGET = 256
_MAX_DEPTH = 8
# What is lost where a struct's size is not the cache's, in the unit of `fit`.
_NEAR, _MERGED, _OPEN_ENDED = -1.0, -2.0, -2.0


class Ranker:
    """Ranks structs for groups of one kernel's objects."""

    def __init__(self, view: KernelView, btf: Btf, classifier: Classifier) -> None:
        self._view, self._btf, self._classifier = view, btf, classifier
        self._fields = Fields(btf)
        sizes = {c.object_size for c in view.caches.all if is_kmalloc(c)}
        self.kmalloc_sizes = sorted(sizes)
        self._symbols: dict[int, Symbol | None] = {}
        self._functions: dict[int, tuple[int, ...]] = {}
        self._alike: dict[tuple[int, int], bool] = {}

    def rank(
        self, cache: SlabCache, words: WordMap, rows: NDArray[np.intp], most: int = MOST_CANDIDATES
    ) -> tuple[TypeCandidate, ...]:
        """The best candidates for objects `rows` of `words`, at most `most`."""
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _ROWS)).astype(np.intp)]
        width = min(words.values.shape[1], _WORDS)
        seen = Observed(
            WordMap(
                words.values[rows, :width], words.kinds[rows, :width], words.details[rows, :width]
            ),
            min(cache.object_size, 8 * width),
        )
        evidence = Evidence(self, seen)
        priors = self._fitting(cache)
        first = {n: p + self._gain(self._fields.of(n), n, seen) for n, p in priors.items()}
        best = sorted(first, key=lambda n: -first[n])[:_JUDGED]
        total: dict[int, float] = {}
        most_explained = np.zeros(width)
        for number in best:
            notes: list[Note] = []
            total[number] = (
                priors[number]
                + evidence.gain(self._fields.of(number), number, notes)
                + evidence.about(cache, number)[0]
            )
            most_explained = np.maximum(most_explained, _by_word(notes, width))
        # What there is to explain: in every word as much as any of the structs does.
        most_to_gain = float(most_explained.sum())
        ranked = sorted(best, key=lambda n: (-total[n], self._btf.name(n)))
        result: list[TypeCandidate] = []
        names: set[str] = set()
        for number in ranked:
            name = self._btf.name(number)
            if name in names or total[number] <= 0 or len(result) == most:
                continue
            names.add(name)
            gain = total[number]
            score = min(1.0, gain / max(most_to_gain, gain))
            result.append(self._candidate(evidence, cache, number, score, gain))
        return tuple(result)

    def _candidate(
        self, evidence: Evidence, cache: SlabCache, number: int, score: float, gain: float
    ) -> TypeCandidate:
        notes: list[Note] = []
        evidence.gain(self._fields.of(number), number, notes, wordy=True)
        about = evidence.about(cache, number)[1]
        good = [n for n in notes if n.gain >= TELLS]
        bad = [n for n in notes if n.gain <= -TELLS]
        return TypeCandidate(
            name=f"struct {self._btf.name(number)}",
            score=round(score, 4),
            agreements=_lines(good, about),
            disagreements=_lines(bad, []),
            module=self._btf.module(number),
            agree=len({n.offset // 8 for n in good}),
            disagree=len({n.offset // 8 for n in bad}),
            gain=round(gain, 2),
        )

    def _fitting(self, cache: SlabCache) -> dict[int, float]:
        """Structs that an object of the cache has room for, with what their size costs them."""
        btf, size = self._btf, cache.object_size
        result: dict[int, float] = {}

        def add(numbers: Iterable[int], prior: float) -> None:
            for number in numbers:
                if number not in result and btf.name(number):
                    result[number] = prior

        if is_kmalloc(cache):
            low = max((s for s in self.kmalloc_sizes if s < size), default=0)
            add(btf.structs(low + 1, size).tolist(), 0.0)
        else:
            add(btf.structs(size, size).tolist(), 0.0)
            low = size - 8
            add(btf.structs(low + 1, size - 1).tolist(), _NEAR)
            if cache.aliases:
                # A merged cache is as large as its first owner's objects; others had less.
                low = cache.slot_size - 64
                add(btf.structs(low + 1, size - 1).tolist(), _MERGED)
            # The kernel cuts the tail of some to what this machine needs (task_struct: x86 gives
            # it only as much of thread.fpu as the processor has).
            longer = btf.structs(size + 1, 2 * size)
            cut = (btf.last_member[longer] > size // 2) & (btf.last_member[longer] < size)
            add(longer[cut].tolist(), _OPEN_ENDED)
        shorter = btf.structs(max(1, size // 4), low)
        add((n for n in shorter.tolist() if btf.flexible(n)), _OPEN_ENDED)
        return result

    def _gain(self, items: Items, number: int, seen: Observed) -> float:
        """By the words alone."""
        total = sum(self._one(item, seen) for item in items)
        return total + sum(seen.hole(a, b) for a, b in self.holes(items, number))

    def _one(self, item: Field | Choice, seen: Observed) -> float:
        if isinstance(item, Choice):
            return max((sum(self._one(i, seen) for i in a) for a in item.alternatives), default=0.0)
        return seen.gain(item, self.enumerators(item))

    def enumerators(self, field: Field) -> frozenset[int] | None:
        """The values that an enum's field may have."""
        if field.form != Form.ENUM:
            return None
        return frozenset(self._btf.enumerators(self._btf.strip(field.type)))

    def holes(self, items: Items, number: int) -> list[tuple[int, int]]:
        """Bytes of a struct that no field has."""
        spans = sorted((i.offset, i.offset + i.size) for i in items)
        edges = [(0, 0), *spans, (self._btf.size(number),) * 2]
        gaps, reached = [], 0
        for (_, end), (start, _) in pairwise(edges):
            reached = max(reached, end)
            if start > reached:
                gaps.append((reached, start))
        return gaps

    def of_target(self, number: int, seen: Observed) -> float:
        """How well a struct explains what a pointer leads to; its functions are looked up."""
        items = tuple(i for i in self._fields.of(number) if i.offset < seen.length)
        total = self._gain(items, number, seen)
        for item in items:
            if isinstance(item, Field) and item.form == Form.FUNCTION:
                at = item.offset // 8
                if item.offset + 8 <= seen.length and seen.words.kinds[0, at] in CODE:
                    total += self.function_vote(item, int(seen.words.values[0, at]))[0]
        return total

    def symbol(self, address: int) -> Symbol | None:
        """The symbol that holds `address`."""
        if address not in self._symbols:
            self._symbols[address] = self._view.host.symbol_at(address)
        return self._symbols[address]

    def functions(self, address: int) -> tuple[int, ...]:
        """The prototypes of the function that begins at `address`; several share a name."""
        if address not in self._functions:
            symbol = self.symbol(address)
            found: tuple[int, ...] = ()
            if symbol is not None and symbol.address == address:
                numbers = self._btf.named(BtfKind.FUNC).get(symbol.name, [])
                found = tuple(
                    self._btf.target(n)
                    for n in numbers
                    if self._btf.module(n) == symbol.module
                    and self._btf.kind[self._btf.target(n)] == BtfKind.FUNC_PROTO
                )
            self._functions[address] = found
        return self._functions[address]

    def function_vote(self, field: Field, address: int) -> tuple[float, str]:
        """Whether the function at `address` may stand in a function pointer's field."""
        btf = self._btf
        wanted = btf.strip(btf.target(btf.strip(field.type)))
        known = self.functions(address)
        if not known:
            symbol = self.symbol(address)
            if symbol is not None and symbol.address != address:
                return NO_FUNCTION, "no start of a function"
            return 0.0, ""
        if any(self.alike(wanted, proto) for proto in known):
            return PROTOTYPE, "of this prototype"
        return OTHER_PROTOTYPE, "of another prototype"

    def takes(self, address: int) -> str:
        """The struct that a function's first argument points to; "" where that is none."""
        for proto in self.functions(address):
            arguments = self._btf.prototype(proto)[1:]
            if arguments:
                first = self._btf.strip(arguments[0])
                if self._btf.kind[first] == BtfKind.PTR:
                    inner = self._btf.strip(self._btf.target(first))
                    if self._btf.kind[inner] == BtfKind.STRUCT:
                        return self._btf.name(inner)
        return ""

    def alike(self, one: int, other: int, depth: int = 0) -> bool:
        """Do two types mean the same, const and names of parameters apart?"""
        btf = self._btf
        one, other = btf.strip(one), btf.strip(other)
        if one == other:
            return True
        if (one, other) in self._alike:
            return self._alike[one, other]
        a, b = btf.kind[one], btf.kind[other]
        same = False
        if depth < _MAX_DEPTH:
            named = (BtfKind.STRUCT, BtfKind.UNION, BtfKind.FWD)
            if a == b == BtfKind.PTR:
                same = self.alike(btf.target(one), btf.target(other), depth + 1)
            elif a == b == BtfKind.FUNC_PROTO:
                left, right = btf.prototype(one), btf.prototype(other)
                same = len(left) == len(right) and all(
                    self.alike(x, y, depth + 1) for x, y in zip(left, right, strict=True)
                )
            elif (a in named and b in named) or a == b == BtfKind.ENUM:
                same = btf.name(one) == btf.name(other) != ""
            elif a == b == BtfKind.INT:
                same = btf.size(one) == btf.size(other)
        self._alike[one, other] = same
        return same

    def follow(
        self, values: Words, kinds: list[Kind]
    ) -> list[tuple[Observed | None, frozenset[str]]]:
        """What is at some addresses, and whom the functions found there serve."""
        if not len(values):
            return []
        # A stale pointer into vmalloc space may lead nowhere: ask the page tables first, because
        # crash does not like reads that fail.
        mapped = physical(self._view.host, self._view.space, values)[1]
        mapped |= np.array([kind is not Kind.VMALLOC for kind in kinds])
        content = np.zeros((len(values), _TARGET), np.uint8)
        ok = np.zeros(len(values), np.bool_)
        content[mapped], ok[mapped] = self._view.host.read_many(values[mapped], _TARGET)
        known = np.full(len(values), _TARGET)
        # At the end of a page half a look is better than none.
        for at in np.flatnonzero(mapped & ~ok).tolist():
            room = int(4096 - int(values[at]) % 4096)
            if room < _TARGET:
                try:
                    data = self._view.host.read(int(values[at]), room)
                except ReadFault:
                    continue
                content[at, :room] = np.frombuffer(data, np.uint8)
                known[at], ok[at] = room, True
        words = self._classifier.classify(content, values)
        targets = self._view.pointers.resolve(values)
        caches = self._view.caches.all
        result: list[tuple[Observed | None, frozenset[str]]] = []
        for i, kind in enumerate(kinds):
            if not ok[i]:
                result.append((None, frozenset()))
                continue
            length = int(known[i])
            if kind is Kind.SLAB and targets.cache[i] >= 0:
                owner = caches[int(targets.cache[i])]
                length = min(length, max(0, owner.object_size - int(targets.offset[i])))
            takes: set[str] = set()
            if kind in (Kind.DATA_SYMBOL, Kind.MODULE):
                code = np.isin(words.kinds[i, : length // 8], np.array(CODE, np.uint8))
                takes = {self.takes(int(v)) for v in words.values[i, : length // 8][code]}
            result.append((Observed(words.row(i), length), frozenset(takes - {""})))
        return result

    def modules_at(self, values: Words) -> set[str]:
        """The modules that some addresses are in."""
        return {
            m.name
            for m in self._view.host.modules()
            for a, b in m.ranges
            if ((values >= np.uint64(a)) & (values < np.uint64(b))).any()
        }

    @property
    def view(self) -> KernelView:
        return self._view

    @property
    def btf(self) -> Btf:
        return self._btf


def _lines(notes: list[Note], first: list[str]) -> tuple[str, ...]:
    """The most telling, in the order of the struct."""
    chosen = sorted(notes, key=lambda n: -abs(n.gain))[: MOST_LINES - len(first)]
    return (*first, *(n.text for n in sorted(chosen, key=lambda n: n.offset)))


def _by_word(notes: list[Note], width: int) -> NDArray[np.float64]:
    """Gains spread over the words they are about: float64[width]."""
    result = np.zeros(width)
    for note in notes:
        first, last = note.offset // 8, min(width, (note.offset + note.size + 7) // 8)
        if first < last:
            result[first:last] += note.gain / (last - first)
    return result
