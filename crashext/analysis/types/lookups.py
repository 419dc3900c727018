"""What a kernel's types, symbols and memory tell about a candidate struct."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from crashext.analysis.likeness.words import Classifier, Kind
from crashext.analysis.types.fit import Observed
from crashext.hosts.base import Host, ReadFault, Symbol
from crashext.hosts.keeping import keep
from crashext.kernel.access import Words
from crashext.kernel.btf import Btf
from crashext.kernel.btf_types import BtfKind
from crashext.kernel.fields import Choice, Field, Fields, Form, Items
from crashext.kernel.pages.pagetables import physical
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView

CODE = (Kind.TEXT_SYMBOL, Kind.MODULE)
_TARGET = 256
_MAX_DEPTH = 8
# Votes of a function's prototype, in the unit of `fit`.
_PROTOTYPE = 3.0
_OTHER_PROTOTYPE = -2.0
_NO_FUNCTION = -2.0


class Lookups:
    """What structs are judged by in one kernel; each symbol and function is looked up once."""

    def __init__(self, view: KernelView, btf: Btf, classifier: Classifier) -> None:
        self.view, self.btf, self._classifier = view, btf, classifier
        self.fields = keep(view.host, ("fields", len(btf)), lambda: Fields(btf), large=True)
        sizes = {c.object_size for c in view.caches.all if is_kmalloc(c)}
        self.kmalloc_sizes = sorted(sizes)
        self._symbols: dict[int, Symbol | None] = {}
        self._functions: dict[int, tuple[int, ...]] = {}
        self._alike: dict[tuple[int, int], bool] = {}
        self._enumerators: dict[int, frozenset[int]] = {}

    def gain(self, items: Items, number: int, seen: Observed) -> float:
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
        if field.type not in self._enumerators:
            values = self.btf.enumerators(self.btf.strip(field.type))
            self._enumerators[field.type] = frozenset(values)
        return self._enumerators[field.type]

    def holes(self, items: Items, number: int) -> list[tuple[int, int]]:
        """Bytes of a struct that no field has."""
        spans = sorted((i.offset, i.offset + i.size) for i in items)
        edges = [(0, 0), *spans, (self.btf.size(number),) * 2]
        gaps, reached = [], 0
        for (_, end), (start, _) in pairwise(edges):
            reached = max(reached, end)
            if start > reached:
                gaps.append((reached, start))
        return gaps

    def of_target(self, number: int, seen: Observed) -> float:
        """How well a struct explains what a pointer leads to; its functions are looked up."""
        items = tuple(i for i in self.fields.of(number) if i.offset < seen.length)
        total = self.gain(items, number, seen)
        for item in items:
            if isinstance(item, Field) and item.form == Form.FUNCTION:
                at = item.offset // 8
                if item.offset + 8 <= seen.length and seen.words.kinds[0, at] in CODE:
                    total += self.function_vote(item, int(seen.words.values[0, at]))[0]
        return total

    def symbol(self, address: int) -> Symbol | None:
        """The symbol that holds `address`."""
        if address not in self._symbols:
            self._symbols[address] = self.view.host.symbol_at(address)
        return self._symbols[address]

    def functions(self, address: int) -> tuple[int, ...]:
        """The prototypes of the function that begins at `address`; several share a name."""
        if address not in self._functions:
            symbol = self.symbol(address)
            found: tuple[int, ...] = ()
            if symbol is not None and symbol.address == address:
                numbers = self.btf.functions(symbol.name)
                found = tuple(
                    self.btf.target(n)
                    for n in numbers
                    if self.btf.module(n) == symbol.module
                    and self.btf.kind[self.btf.target(n)] == BtfKind.FUNC_PROTO
                )
            self._functions[address] = found
        return self._functions[address]

    def function_vote(self, field: Field, address: int) -> tuple[float, str]:
        """Whether the function at `address` may stand in a function pointer's field."""
        btf = self.btf
        wanted = btf.strip(btf.target(btf.strip(field.type)))
        known = self.functions(address)
        if not known:
            symbol = self.symbol(address)
            if symbol is not None and symbol.address != address:
                return _NO_FUNCTION, "no start of a function"
            return 0.0, ""
        if any(self.alike(wanted, proto) for proto in known):
            return _PROTOTYPE, "of this prototype"
        return _OTHER_PROTOTYPE, "of another prototype"

    def takes(self, address: int) -> str:
        """The struct that a function's first argument points to; "" where that is none."""
        for proto in self.functions(address):
            arguments = self.btf.prototype(proto)[1:]
            if arguments:
                first = self.btf.strip(arguments[0])
                if self.btf.kind[first] == BtfKind.PTR:
                    inner = self.btf.strip(self.btf.target(first))
                    if self.btf.kind[inner] == BtfKind.STRUCT:
                        return self.btf.name(inner)
        return ""

    def alike(self, one: int, other: int, depth: int = 0) -> bool:
        """Do two types mean the same, const and names of parameters apart?

        Kept is what was asked, not what was met on the way: how deep that may look depends on the
        way, and the answer would on what was asked before.
        """
        btf = self.btf
        one, other = btf.strip(one), btf.strip(other)
        if one == other:
            return True
        if not depth and (one, other) in self._alike:
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
        if not depth:
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
        mapped = physical(self.view.host, self.view.space, values)[1]
        mapped |= np.array([kind is not Kind.VMALLOC for kind in kinds])
        content = np.zeros((len(values), _TARGET), np.uint8)
        ok = np.zeros(len(values), np.bool_)
        content[mapped], ok[mapped] = self.view.host.read_many(values[mapped], _TARGET)
        known = np.full(len(values), _TARGET)
        # At the end of a page half a look is better than none.
        for at in np.flatnonzero(mapped & ~ok).tolist():
            room = int(4096 - int(values[at]) % 4096)
            if room < _TARGET:
                try:
                    data = self.view.host.read(int(values[at]), room)
                except ReadFault:
                    continue
                content[at, :room] = np.frombuffer(data, np.uint8)
                known[at], ok[at] = room, True
        words = self._classifier.classify(content, values)
        targets = self.view.pointers.resolve(values)
        caches = self.view.caches.all
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


def modules_at(host: Host, values: Words) -> set[str]:
    """The modules that some addresses are in."""
    return {
        m.name
        for m in host.modules()
        for a, b in m.ranges
        if ((values >= np.uint64(a)) & (values < np.uint64(b))).any()
    }


def is_kmalloc(cache: SlabCache) -> bool:
    return re.match(r"(dma-)?kmalloc-", cache.name) is not None
