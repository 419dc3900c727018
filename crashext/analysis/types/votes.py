"""What the words of a group lead to, and how that speaks for or against a struct's fields.

Pointers vote by the size and the content of what they lead to, functions by their prototypes.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from crashext.analysis.likeness.decode import symbolic
from crashext.analysis.likeness.words import Kind
from crashext.analysis.types.fit import Observed
from crashext.analysis.types.lookups import CODE, Lookups, is_kmalloc, modules_at
from crashext.kernel.btf_types import BtfKind
from crashext.kernel.fields import Choice, Field, Form, Items
from crashext.kernel.slab.caches import SlabCache

_FOLLOWED = 128  # words whose targets are read
_TARGETS = 3
_POINTS = (Kind.SLAB, Kind.DATA_SYMBOL, Kind.MODULE, Kind.DIRECT, Kind.VMALLOC)
TELLS = 0.25
"""Gain from which a field counts as agreeing, and below minus which as disagreeing."""

# Votes, in the unit of `fit`: logarithms of how much more probable the words become.
_EXACT_CACHE = 2.5
_CLASS_FITS = 1.0
_OTHER_SIZE = -0.7
_CANNOT_BE = -3.0
_PAGE = 2.0
_TAKES_IT = 1.5
_NAMES_IT = 0.7
_POINTS_TO_MODULE = 0.7
_HOLDS_MODULE = 2.5  # a little more than what chance may add to one of two structs
_CACHE_NAME = 1.0
_TARGET_WEIGHT, _TARGET_MOST = 0.5, 3.0
_TEXT = 1.5


@dataclass(frozen=True)
class Target:
    """One thing that a word points to."""

    value: int
    weight: float
    """Share of the objects that it stands for."""
    kind: Kind
    seen: Observed | None
    takes: frozenset[str]
    """Structs that the functions found there take as their first argument."""


@dataclass(frozen=True)
class Slots:
    """Where slab pointers of one word lead: into which cache, how far into an object."""

    cache: SlabCache
    offset: int
    weight: float


@dataclass(frozen=True)
class Note:
    """What one field, or hole, says for or against a struct."""

    offset: int
    size: int
    gain: float
    text: str = ""


class Votes:
    """What one group's words hold and lead to."""

    def __init__(self, look: Lookups, seen: Observed, held: frozenset[str]) -> None:
        """`held`: modules whose symbols the whole group holds; `seen` may be some of it."""
        self._look, self._seen = look, seen
        self._btf = look.btf
        self._votes: dict[tuple[int, int], float] = {}
        self._held = held
        self._modules = set(held)
        self._targets = self._follow()
        self._slots = {w: self._slots_of(w) for w in range(seen.words.kinds.shape[1])}
        self._code = {w: self._common(w, CODE) for w in range(seen.words.kinds.shape[1])}

    def _common(self, word: int, kinds: tuple[Kind, ...]) -> list[tuple[int, float]]:
        """The most frequent values of some kinds in a word, with shares that add up to all of
        their kinds'."""
        column = self._seen.words.kinds[:, word]
        mask = np.isin(column, np.array(kinds, np.uint8))
        if not mask.any():
            return []
        values, counts = np.unique(self._seen.words.values[mask, word], return_counts=True)
        order = np.argsort(-counts, kind="stable")[:_TARGETS]
        scale = float(mask.mean()) / float(counts[order].sum())
        return [(int(values[i]), float(counts[i]) * scale) for i in order]

    def _follow(self) -> dict[int, list[Target]]:
        asked: list[tuple[int, int, float, Kind]] = []
        pointing = np.isin(self._seen.words.kinds, np.array(_POINTS, np.uint8)).any(axis=0)
        for word in np.flatnonzero(pointing).tolist()[:_FOLLOWED]:
            for value, weight in self._common(word, _POINTS):
                row = int(np.flatnonzero(self._seen.words.values[:, word] == np.uint64(value))[0])
                kind = Kind(int(self._seen.words.kinds[row, word]))
                if value % 8 == 0:
                    asked.append((word, value, weight, kind))
        looked = self._look.follow(
            np.array([value for _, value, _, _ in asked], np.uint64), [k for *_, k in asked]
        )
        result: dict[int, list[Target]] = {}
        for (word, value, weight, kind), (seen, takes) in zip(asked, looked, strict=True):
            result.setdefault(word, []).append(Target(value, weight, kind, seen, takes))
            if seen is not None:
                found = seen.words.values[seen.words.kinds == Kind.MODULE].reshape(-1)
                self._modules |= modules_at(self._look.view.host, found)
        return result

    def _slots_of(self, word: int) -> list[Slots]:
        kinds, details = self._seen.words.kinds[:, word], self._seen.words.details[:, word]
        slab = kinds == Kind.SLAB
        if not slab.any():
            return []
        found, counts = np.unique(details[slab], return_counts=True)
        order = np.argsort(-counts, kind="stable")[:_TARGETS]
        scale = float(slab.mean()) / float(counts[order].sum())
        caches = self._look.view.caches.all
        return [
            Slots(caches[int(found[i]) >> 32], int(found[i]) & 0xFFFFFFFF, float(counts[i]) * scale)
            for i in order
        ]

    def gain(self, items: Items, number: int, notes: list[Note], wordy: bool = False) -> float:
        """A struct's fields over the words, votes included; `notes` gets each field's say."""
        total = sum(self._item(item, number, notes, wordy) for item in items)
        for start, end in self._look.holes(items, number):
            gain = self._seen.hole(start, end)
            total += gain
            notes.append(
                Note(start, end - start, min(gain, 0.0), f"+{start:#x}: padding that is not zero")
            )
        return total

    def _item(self, item: Field | Choice, number: int, notes: list[Note], wordy: bool) -> float:
        if isinstance(item, Field):
            gain, text = self._field(item, number, wordy)
            notes.append(Note(item.offset, item.size, gain, text))
            return gain
        best, best_notes = -np.inf, list[Note]()
        for alternative in item.alternatives:
            some: list[Note] = []
            gain = sum(self._item(i, number, some, wordy) for i in alternative)
            if gain > best:
                best, best_notes = gain, some
        notes += best_notes
        return best if item.alternatives else 0.0

    def _field(self, field: Field, number: int, wordy: bool) -> tuple[float, str]:
        seen = self._seen
        gain = seen.gain(field, self._look.enumerators(field))
        if field.offset + field.size > seen.length or field.offset % 8 or field.size % 8:
            return gain, self._says(field, []) if wordy else ""
        word = field.offset // 8
        said: list[str] = []
        if field.form == Form.FUNCTION:
            name = self._btf.name(number)
            for address, weight in self._code[word]:
                vote, why = self._look.function_vote(field, address)
                if len(name) > 3 and vote >= 0 and self._named(address, name):
                    vote += _NAMES_IT
                    why = why or "named like it"
                gain += field.share * weight * vote
                if wordy and why:
                    said.append(f"{symbolic(self._look.view.host, address)}, {why}")
        elif field.form == Form.POINTER:
            vote, said = self._pointer(field, number, word, wordy)
            gain += field.share * vote
        return gain, self._says(field, said) if wordy else ""

    def _named(self, address: int, name: str) -> bool:
        symbol = self._look.symbol(address)
        return symbol is not None and name in symbol.name

    def _pointer(
        self, field: Field, number: int, word: int, wordy: bool
    ) -> tuple[float, list[str]]:
        btf = self._btf
        inner = btf.strip(btf.target(btf.strip(field.type)))
        kind, size, name = btf.kind[inner], btf.size(inner), btf.name(inner)
        total, said = 0.0, list[str]()
        tables, taken = list[int](), set[str]()
        mine = {btf.name(number), btf.name(field.owner)}
        possible = True
        for slots in self._slots[word]:
            vote, why = self._slot_vote(slots, inner, kind, size)
            total += slots.weight * vote
            possible &= vote > _CANNOT_BE
            if wordy and why:
                said.append(why)
        for target in self._targets.get(word, []):
            if kind in (BtfKind.STRUCT, BtfKind.UNION):
                if name in ("page", "folio", "slab"):
                    total += target.weight * _CANNOT_BE
                elif target.seen is not None:
                    if (target.value, inner) not in self._votes:
                        fit = _TARGET_WEIGHT * self._look.of_target(inner, target.seen)
                        bounded = max(-_TARGET_MOST, min(_TARGET_MOST, fit))
                        self._votes[target.value, inner] = bounded
                    vote = min(0.0, self._votes[target.value, inner])
                    if possible:
                        vote = self._votes[target.value, inner]
                    total += target.weight * vote
                    if wordy and abs(vote) >= 1:
                        which = "looks like one" if vote > 0 else "does not look like one"
                        said.append(f"what is there {which}")
            elif kind == BtfKind.INT and size == 1 and target.seen is not None:
                text = target.seen.words.kinds[0, 0] == Kind.ASCII
                total += target.weight * (_TEXT if text else 0.0)
                if text and wordy:
                    said.append("text is there")
            if mine & target.takes:
                total += target.weight * _TAKES_IT
                taken |= mine & target.takes
                tables.append(target.value)
        if wordy and tables:
            where = symbolic(self._look.view.host, tables[0])
            said.append(f"functions at {where} take a struct {sorted(taken)[0]}")
        share = float((self._seen.words.kinds[:, word] == Kind.VMEMMAP).mean())
        if share and kind == BtfKind.STRUCT:
            page = name in ("page", "folio", "slab")
            total += share * (_PAGE if page else _CANNOT_BE)
        return total, said

    def _slot_vote(self, slots: Slots, inner: int, kind: int, size: int) -> tuple[float, str]:
        """What the size of the object that is pointed to says about a pointer to a struct."""
        if kind not in (BtfKind.STRUCT, BtfKind.UNION) or not size:
            return 0.0, ""
        room = slots.cache.object_size
        place = f"{slots.cache.name}+{slots.offset:#x}"
        if slots.offset + size > room:
            tail = slots.offset == 0 and self._btf.last_member[inner] < room < size
            if tail and not is_kmalloc(slots.cache):
                return 0.0, ""
            return _CANNOT_BE, f"{place} has no room for its {size} bytes"
        if slots.offset:
            return 0.0, place
        if is_kmalloc(slots.cache):
            sizes = self._look.kmalloc_sizes
            fits = sizes[min(bisect_left(sizes, size), len(sizes) - 1)] == room
            return (_CLASS_FITS, f"{place}, its size class") if fits else (_OTHER_SIZE, place)
        if room - 8 < size <= room:
            return _EXACT_CACHE, f"{place}, whose objects have its size"
        return _OTHER_SIZE, place

    def about(self, cache: SlabCache, number: int) -> tuple[float, list[str]]:
        """What speaks for a struct besides its fields."""
        total, said = 0.0, []
        module, name = self._btf.module(number), self._btf.name(number)
        if module and module in self._held:
            total += _HOLDS_MODULE
            said.append(f"the objects hold symbols of {module}, which defines it")
        elif module and module in self._modules:
            total += _POINTS_TO_MODULE
            said.append(f"the objects lead to {module}, which defines it")
        if not is_kmalloc(cache) and _named_like(cache.name, name):
            total += _CACHE_NAME
            said.append("the cache is named like it")
        return total, said

    def _says(self, field: Field, said: list[str]) -> str:
        what = {
            Form.LIST: "list_head",
            Form.HLIST_NODE: "hlist_node",
            Form.FUNCTION: "function pointer",
        }.get(field.form) or self._btf.describe(field.type)
        here = self._kinds(field)
        text = f"+{field.offset:#x} {field.name}: {what}"
        return text + f", {here}" * bool(here) + "".join(f"; {s}" for s in dict.fromkeys(said))

    def _kinds(self, field: Field) -> str:
        """What is seen in a field's words, in a word or two."""
        first = field.offset // 8
        kinds = self._seen.words.kinds[:, first : max(first + 1, (field.offset + field.size) // 8)]
        if not kinds.size:
            return ""
        found, counts = np.unique(kinds, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:2]
        return " or ".join(Kind(int(found[i])).label for i in order)


def _named_like(cache: str, name: str) -> bool:
    return re.sub(r"_(cache|cachep|jar)$", "", cache) in (name, f"{name}_struct", f"{name}s")
