"""Which place in the code allocated a group of objects, with no record of it: a ranking.

Every place that allocates from the cache may have. What speaks for one: its module is named by the
objects, it asks for a size that fits what they use, and what it writes into the memory is what all
of them hold. What speaks against it: a size that they do not fit into, and another value where it
writes one. Each is a weight of evidence, added up as logarithms; the result is a probability among
all places, and only one that stands clearly out is called the likely allocator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from crashext.analysis.likeness.decode import symbolic
from crashext.analysis.likeness.words import WordMap
from crashext.analysis.origin.content import RUNG as CONTENT
from crashext.analysis.origin.places import code_of, located
from crashext.analysis.results.callsites import Allocating, Callers, CallSite, Candidate
from crashext.analysis.results.evidence import Allocator, TypeCandidate
from crashext.analysis.results.texts import MOST_LINES
from crashext.analysis.types.candidates import settled
from crashext.hosts.base import Bytes
from crashext.kernel.access import Words
from crashext.kernel.origin.stores import Store
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView
from crashext.wording import bracketed, percent, plural, some_of

RUNG = "code"
_SHOWN = 4
_AGAINST = "but "
"""How a reason begins that speaks against a place."""
_SAMPLE = 256
_CLEAR = 0.75
"""Least probability of a place that stands out."""
_ALIKE = 0.95
"""Least share of a group for what all of it is said to hold."""
_FEW = 0.01
"""Share of a group up to which it does not hold what is stored."""
_TELLING = 0x10000
_POISON = 0xDEAD0000  # the upper half of LIST_POISON1 and 2
_EQUAL = 1.5
"""Difference of weights up to which places are as good as equal."""

# Weights of evidence, natural logarithms. Where the lab knows the truth, a module named by content
# is right more often than e**8 to 1 against any one of the kernel's other places.
_NAMED, _TYPED, _FOREIGN = 8.0, 6.0, 1.0
_VARYING, _ANY_CACHE = -2.5, -6.0
_TOO_SMALL = -5.0
_STORED = {"word": 6.0, "self": 3.0, "poison": 3.0, "number": 1.5, "zero": 0.2}
_NOT_STORED = {"word": -4.0, "self": -0.5, "poison": -2.0, "number": -1.0, "zero": -0.2}
_UNCERTAIN = 0.5  # of a store that a branch comes before, what it counts where it disagrees
_MOST_STORES = 9.0  # of what stores say together


@dataclass(frozen=True)
class _Group:
    """Some of the objects, and how much of them is used."""

    content: Bytes
    """A row each."""
    inside: Words
    """Words, less the object's own address."""
    used: int
    """Bytes up to the end of the last word that nearly all of them use."""

    @classmethod
    def of(cls, words: WordMap, addresses: Words) -> _Group:
        rows = np.linspace(0, len(addresses) - 1, min(len(addresses), _SAMPLE)).astype(np.intp)
        values, kinds = words.values[rows], words.kinds[rows]
        used = 0
        for i in range(values.shape[1]):
            _, counts = np.unique(kinds[:, i], return_counts=True)
            alike = counts.max() >= _ALIKE * len(rows)
            if alike and (values[:, i] != 0).mean() >= _ALIKE:
                used = 8 * i + 8
        content = np.ascontiguousarray(values).view(np.uint8).reshape(len(rows), -1)
        return cls(content, values - addresses[rows][:, None], used)

    def share(self, store: Store) -> float | None:
        """Of the objects that hold what is stored; None where the store is beyond them."""
        end = store.offset + store.size
        if end > self.content.shape[1]:
            return None
        if store.kind == "self":
            if store.offset % 8:
                return None
            return float((self.inside[:, store.offset // 8] == np.uint64(store.value)).mean())
        wanted = np.frombuffer(store.value.to_bytes(8, "little")[: store.size], np.uint8)
        return float((self.content[:, store.offset : end] == wanted).all(axis=1).mean())

    def constant(self, store: Store) -> bool:
        """Whether nearly all of them hold the same where it is stored."""
        part = self.content[:, store.offset : store.offset + store.size]
        return bool((part == part[0]).all(axis=1).mean() >= _ALIKE)


def rank_callers(
    view: KernelView,
    cache: SlabCache,
    addresses: Words,
    words: WordMap,
    allocators: tuple[Allocator, ...],
    types: tuple[TypeCandidate, ...] = (),
) -> Callers | None:
    """Who may have allocated the objects of `cache` at `addresses`, whose content is `words`.

    `allocators` are those that weaker rungs name, `types` what they may be. None where a session
    does not know the code.
    """
    code = code_of(view, cache)
    if code is None or not len(addresses) or not code.places:
        return None
    group = _Group.of(words, addresses)
    hints = _Hints(
        next((a.module for a in allocators if a.rung == CONTENT and a.module), ""),
        best if (best := settled(types)) is not None and best.module else None,
    )
    weighed = [_weigh(view, place, group, hints) for place in code.places]
    order = sorted(range(len(weighed)), key=lambda i: -weighed[i][0])
    certain = any(place.certain for place in code.places)
    rest = code.others * math.exp(_other_weight(cache, certain))
    total = rest + sum(math.exp(weight) for weight, _ in weighed)
    ranked = [
        Candidate(
            located(view.host, code.places[i].site), math.exp(weighed[i][0]) / total, weighed[i][1]
        )
        for i in order[:_SHOWN]
    ]
    first = ranked[0]
    places = sum(place.certain for place in code.places)
    equals = sum(weighed[order[0]][0] - weighed[i][0] <= _EQUAL for i in order)
    others = code.others + len(code.places) - places
    clear = first.probability >= _CLEAR
    return Callers(
        sites=tuple(ranked),
        places=places,
        others=others,
        clear=clear,
        equals=equals,
        remark=_remark(first, places) if clear else "",
        freed=tuple(
            located(view.host, site)
            for site in code.freeing
            if clear and site.module == first.site.module
        ),
        step="" if clear else _step(cache, [code.places[i].site for i in order[:equals]]),
    )


def _other_weight(cache: SlabCache, certain: bool) -> float:
    if cache.name.startswith("kmalloc"):
        return _VARYING
    return _ANY_CACHE if certain else 0.0


@dataclass(frozen=True)
class _Hints:
    """Which module the objects are of."""

    contained: str
    """By symbols in them; "" for none."""
    type: TypeCandidate | None
    """By the type that they are, where it is a module's."""


def _weigh(
    view: KernelView, place: Allocating, group: _Group, hints: _Hints
) -> tuple[float, tuple[str, ...]]:
    """The logarithm of how much speaks for a place, and why, most telling first."""
    site, weight, reasons = place.site, 0.0, []
    if not place.certain:
        weight += _VARYING if "kmem_cache_alloc" not in site.calls else _ANY_CACHE
    if hints.contained and site.module == hints.contained:
        weight += _NAMED
        reasons.append(f"in {site.module}, whose symbols the objects contain")
    elif hints.type is not None and site.module == hints.type.module:
        weight += _TYPED
        reasons.append(f"in {site.module}, whose {hints.type.name} they may be")
    if place.foreign:
        weight += _FOREIGN
        if not reasons:
            reasons.append(f"{site.module} is {place.foreign}")
    if site.sizes and max(site.sizes) + 7 < group.used:
        weight += _TOO_SMALL
        reasons.append(f"{_AGAINST}it asks for {max(site.sizes)} bytes, they use {group.used}")
    elif site.sizes:
        reasons.append(f"asks for {'/'.join(map(str, site.sizes))} bytes")
    told = 0.0
    for store in place.stores:
        kind, agrees = _agreement(store, group)
        if agrees is None:
            continue
        if agrees:
            told += _STORED[kind]
        else:
            told += _NOT_STORED[kind] * (1.0 if store.certain else _UNCERTAIN)
        if kind != "zero":
            reasons.append(_told(view, store, agrees))
    weight += max(-_MOST_STORES, min(_MOST_STORES, told))
    reasons.sort(key=lambda reason: reason.startswith(_AGAINST))
    return weight, tuple(reasons[:MOST_LINES])


def _agreement(store: Store, group: _Group) -> tuple[str, bool | None]:
    """What kind of store it is, and whether the objects hold it; None where that says nothing."""
    kind = _kind(store)
    share = group.share(store)
    if share is None or _FEW < share < _ALIKE:
        return kind, None
    if share >= _ALIKE:
        return kind, True
    # What is linked into a list later, or counts, is another in each object: that is no argument.
    expected = kind in ("number", "zero", "self") or store.value >> 47
    if expected and kind != "poison" and not group.constant(store):
        return kind, None
    return kind, False


def _kind(store: Store) -> str:
    if store.kind == "self":
        return "self"
    if store.value >> 32 == _POISON:
        return "poison"
    return "word" if store.value >= _TELLING else "number" if store.value else "zero"


def _told(view: KernelView, store: Store, agrees: bool) -> str:
    if store.kind == "self":
        what = "the place's own address" if store.value == store.offset else "its own address"
    elif store.value >> 32 == _POISON:
        what = f"list poison {store.value:#x}"
    elif (text := store.value.to_bytes(8, "little")).isascii() and text.decode().isprintable():
        what = f'"{text.decode()}"'
    elif store.value >> 47:
        what = symbolic(view.host, store.value)
    else:
        what = f"{store.value:#x}"
    held = "as all of them hold" if agrees else "which none of them holds"
    return f"{'' if agrees else _AGAINST}writes {what} at +{store.offset:#x}, {held}"


def _remark(first: Candidate, places: int) -> str:
    """What to keep in mind of a place that stands out."""
    if first.site.module:
        return ""
    only = "the only place that does; " if places == 1 else ""
    return (
        f"{only}the kernel allocates them for whoever asks: where a reference was lost, look for "
        "who took it, not here"
    )


def _step(cache: SlabCache, equals: list[CallSite]) -> str:
    """A trace that would tell the equal places apart."""
    sizes = {size for e in equals for size in e.sizes}
    kmalloc = cache.name.startswith("kmalloc")
    asked = f" && bytes_req == {sizes.pop()}" if kmalloc and len(sizes) == 1 else ""
    events = ("kmalloc", "kfree") if kmalloc else ("kmem_cache_alloc", "kmem_cache_free")
    return (
        f"trace-cmd record -e kmem:{events[0]} -f 'bytes_alloc == {cache.slot_size}{asked}' -T "
        f"-e kmem:{events[1]} sleep 60 # then: leakscan --trace trace.dat"
    )


def as_allocator(callers: Callers | None, looked: int) -> tuple[Allocator, ...]:
    """The place that stands out as a rung of the ladder; none where none does."""
    if callers is None or not callers.clear:
        return ()
    first = callers.sites[0]
    site = first.site
    of = plural(callers.places + callers.others, "place")
    where = f"{site.source}; " if site.source else ""
    return (
        Allocator(
            rung=RUNG,
            site=f"{site.function}+{site.offset:#x}",
            module=site.module,
            stack=(),
            objects=looked,
            of=looked,
            note=f"{where}{percent(first.probability)} among {of}",
        ),
    )


def reasons_for(candidate: Candidate) -> list[str]:
    """What speaks for a place, without what speaks against it."""
    return [reason for reason in candidate.reasons if not reason.startswith(_AGAINST)]


def in_words(callers: Callers | None) -> tuple[str, ...]:
    """The place that stands out, and why, in a sentence; none where none does."""
    if callers is None or not callers.clear:
        return ()
    first = callers.sites[0]
    site = first.site
    where = f" ({site.source})" if site.source else ""
    name = bracketed(f"{site.function}+{site.offset:#x}", site.module)
    why = "; ".join((*reasons_for(first)[:3], *filter(None, (callers.remark,))))
    lines = [f"by the code, likely allocated by {name}{where}" + (f": {why}" if why else "")]
    if callers.freed:
        functions = list(dict.fromkeys(s.function for s in callers.freed))
        lines.append(f"{site.module or 'the kernel'} frees such objects in {some_of(functions, 4)}")
    return tuple(lines)
