"""What speaks for a place in the code, and against it, as the allocator of a group's objects.

Weights are natural logarithms of how much more often something is seen at the true place than at
another one that may allocate from the cache. Most were counted where the kernel's own record says
which place is true (tests/end_to_end/by_record.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from crashext.analysis.likeness.decode import symbolic
from crashext.analysis.origin.group import ALIKE, SMALL, Group
from crashext.analysis.origin.mentions import HEAD, HOLDERS, Symbols, Told
from crashext.analysis.origin.pointed import Found, Pointed
from crashext.analysis.reach.pointers import RESERVE
from crashext.analysis.results.callsites import Allocating
from crashext.analysis.results.evidence import Head, TypeCandidate
from crashext.analysis.results.texts import MOST_LINES
from crashext.kernel.origin.counting import Counting
from crashext.kernel.origin.fitting import below_of
from crashext.kernel.origin.stores import Store
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.families import family
from crashext.kernel.slab.view import KernelView

AGAINST = "but "
"""How a reason begins that speaks against a place."""
ASKS = "asks for "
"""How a reason begins that any place of that size has."""
_FEW = 0.01
"""Share of a group up to which it does not hold what is stored."""
_TELLING = 0x10000
_POISON = 0xDEAD0000  # the upper half of LIST_POISON1 and 2

# Where the lab knows the truth, a module named by content is right more often than e**8 to 1
# against any one of the kernel's other places.
_NAMED, _NAMED_BEYOND, _TYPED, _FOREIGN = 8.0, 6.0, 6.0, 1.0
_HUNG = 3.0
"""They hang at a variable of the module: other code can put them there where it is handed that."""
_VARYING, _ANY_CACHE = -2.5, -6.0
_SUPPOSED, _OTHERWISE = -0.5, -4.0
"""A size by what variables are now: it fits, or it does not."""
_COUNTED = {True: 3.5, False: -3.0}
"""A number that the place writes into the object gives its size, or another one: of 31 such places
of 7.2 each has a number of its own, and few numbers are of a size between two kmalloc caches'."""
_WORD, _MOST_COUNTED = 8, 8
_LAST, _ANYWHERE = 0.4, 0.1
"""How often objects use the last word that was asked for, and so on with those before it; and the
share of which nothing is known."""
_TOO_SMALL = 0.002  # the probability of objects that are larger than what was asked for
# Of symbols and texts that agree, 5 of 2,968 places beside the true one write the same: they are
# weighed alike.
_STORED = {"word": 8.5, "self": 2.5, "poison": 3.0, "number": 3.0, "zero": 0.5}
_NOT_STORED = {"word": -3.0, "self": -2.5, "poison": -2.0, "number": -1.0, "zero": -1.5}
_COMMON = 1.5  # of a number that agrees and is all ones, or has less than four bytes
_UNCERTAIN = 0.5  # of a store that a branch comes before, what it counts where it disagrees
_FEWER = -0.3
"""Where a small number was written and is another small number now: it counts."""
_MOST_NUMBERS, _MOST_STORES = 3.0, 11.0  # of what numbers say against a place, and of all stores
_MOST_ZEROS = 1.0  # of what is 0 there anyway, in most objects of whatever kind
_FILLED, _LEFT_EMPTY = 0.3, -1.2
"""Something that is not known is written to a word that objects use; to one that is 0 in them."""
_MOST_FILLED, _MOST_EMPTY = 2.0, -4.0
_CALLED = ((10, 1.0), (4, 0.5), (1, 0.1))
"""Of a function that so many places call; more of them ask for more objects."""
_NOT_CALLED = -0.9  # that nobody does: through a pointer at best


def other_weight(cache: SlabCache, certain: bool) -> float:
    if cache.name.startswith("kmalloc"):
        return _VARYING
    return _ANY_CACHE if certain else 0.0


@dataclass(frozen=True)
class Hints:
    """Which module the objects are of."""

    contained: str
    """By symbols in them; "" for none."""
    beyond: bool
    """The symbols are in what they point at, not in themselves."""
    type: TypeCandidate | None
    """By the type that they are, where it is a module's."""
    symbols: Symbols
    pointed: Pointed
    sizes: range
    """Sizes in bytes that requests for a kmalloc cache have; none for another cache."""
    head: Head | None = None
    """What they hang at."""


Reason = str | Callable[[], str]


def weigh(
    view: KernelView, place: Allocating, group: Group, hints: Hints
) -> tuple[float, list[Reason]]:
    """The logarithm of how much speaks for a place, and why; see `said`."""
    site, weight, reasons = place.site, 0.0, list[Reason]()
    supposed = tuple(s for s in site.supposed if s in hints.sizes)
    if supposed:
        weight += _SUPPOSED
        reasons.append(f"{ASKS}{'/'.join(map(str, supposed))} bytes as its variables are now")
    elif site.supposed and hints.sizes:
        weight += _OTHERWISE
    elif not place.certain:
        weight += _VARYING if "kmem_cache_alloc" not in site.calls else _ANY_CACHE
    if hints.contained and site.module == hints.contained:
        weight += _NAMED_BEYOND if hints.beyond else _NAMED
        where = "are in what they point at" if hints.beyond else "the objects contain"
        reasons.append(f"in {site.module}, whose symbols {where}")
    elif hints.type is not None and site.module == hints.type.module:
        weight += _TYPED
        reasons.append(f"in {site.module}, whose {hints.type.name} they may be")
    elif hints.head is not None and site.module and site.module == hints.head.module:
        weight += _HUNG
        reasons.append(f"in {site.module}, at whose {hints.head.name or 'variable'} they hang")
    if place.foreign:
        weight += _FOREIGN
        if not reasons:
            reasons.append(f"{site.module} is {place.foreign}")
    counted = of_count(place.counting, group, hints.sizes)
    if place.counting is not None and counted is not None:
        weight += _COUNTED[bool(counted)]
        reasons.append(_counts_to(place.counting, counted))
    weight += of_size(site.sizes or supposed or counted or (), group.used, hints.sizes)
    if site.sizes and max(site.sizes) + 7 < group.used:
        reasons.append(f"{AGAINST}it asks for {max(site.sizes)} bytes, they use {group.used}")
    elif site.sizes:
        reasons.append(f"{ASKS}{'/'.join(map(str, site.sizes))} bytes")
    told = numbers = zeros = 0.0
    contradicted = False
    for store in place.stores:
        kind, agrees = _agreement(store, group)
        if agrees is None or (store.doubtful and not agrees):
            continue
        if agrees and kind == "zero":
            zeros += _STORED[kind]
        elif agrees:
            told += _COMMON if _common(store) else _STORED[kind]
        else:
            against = _FEWER if _counts(store, group) else _NOT_STORED[kind]
            against *= 1.0 if store.certain else _UNCERTAIN
            if kind in ("number", "zero"):
                numbers += against
            else:
                told += against
        if kind != "zero":
            contradicted |= not agrees
            reasons.append(partial(_told, view, store, agrees))
    weight += _covers(place, group) + _as_often_as(place.called)
    stored = {int(s.value) for s in place.stores}
    by_name, names = hints.symbols.of(int(site.address), stored, contradicted)
    told += max(-_MOST_NUMBERS, numbers) + min(_MOST_ZEROS, zeros)
    weight += max(-_MOST_STORES, min(_MOST_STORES, told)) + by_name
    reasons += [partial(_names, view, told) for told in names]
    by_pointer, kept = hints.pointed.of(int(site.address))
    weight += by_pointer
    reasons += [partial(_keeps, found) for found in kept[:2]]
    return weight, reasons


def said(reasons: Iterable[Reason]) -> tuple[str, ...]:
    """Reasons in words, most telling first: of hundreds of places a few are shown."""
    words = [reason if isinstance(reason, str) else reason() for reason in reasons]
    words.sort(key=lambda reason: reason.startswith(AGAINST))
    return tuple(words[:MOST_LINES])


def _covers(place: Allocating, group: Group) -> float:
    """What it says that a place writes to some words of the object what is not constant.

    What a store of a constant says is counted by itself.
    """
    fills = set(place.fills)
    filled, empty = len(fills & group.full), len(fills & group.empty)
    return min(_MOST_FILLED, _FILLED * filled) + max(_MOST_EMPTY, _LEFT_EMPTY * empty)


def _as_often_as(called: int | None) -> float:
    """What it says that so many places call the function."""
    if called is None:
        return 0.0
    return next((weight for least, weight in _CALLED if called >= least), _NOT_CALLED)


@lru_cache(1 << 12)  # most of a cache's places ask for one of a few sizes, or for any
def of_size(sizes: tuple[int, ...], used: int, possible: range) -> float:
    """How probable it is that objects of a size use so many bytes, as a logarithm."""
    if not possible or not used:
        return 0.0
    words = possible[7::8] or possible[-1:]
    if not sizes:
        return math.log(sum(_use(used, size, words) for size in words) / len(words))
    return math.log(max(_use(used, size, words) for size in sizes))


def _use(used: int, size: int, possible: range) -> float:
    spare = -(-size // 8) - -(-used // 8)
    if spare < 0:
        return _TOO_SMALL
    near = (1 - _ANYWHERE) * _LAST * (1 - _LAST) ** spare
    return near + _ANYWHERE / max(1, len(possible))


def of_count(counting: Counting | None, group: Group, possible: range) -> tuple[int, ...] | None:
    """The sizes that objects have by the number that they hold, where nearly all of those are of
    their cache; none where hardly one is, None where that says nothing."""
    if counting is None or not possible:
        return None
    end = counting.offset + counting.size
    if end > group.content.shape[1]:
        return ()
    part = group.content[:, counting.offset : end].astype(np.uint64)
    powers = np.uint64(1) << np.arange(counting.size, dtype=np.uint64) * np.uint64(8)
    numbers = (part * powers).sum(axis=1)
    most = np.uint64(possible.stop // counting.step)  # what is more has no product to speak of
    sizes = np.minimum(numbers, most + np.uint64(1)) * np.uint64(counting.step)
    sizes += np.uint64(counting.base)
    least = max(possible.start, group.used - _WORD + 1)
    fit = (sizes >= np.uint64(least)) & (sizes < np.uint64(possible.stop))
    if fit.mean() >= ALIKE:
        return tuple(np.unique(sizes[fit]).tolist()[:_MOST_COUNTED])
    return () if fit.mean() <= _FEW else None


def _counts_to(counting: Counting, sizes: tuple[int, ...]) -> str:
    made = f"{counting.base} bytes and {counting.step} for each of the number"
    if sizes:
        return f"makes them of {made} that they hold at +{counting.offset:#x}"
    return f"{AGAINST}makes its own of {made} at +{counting.offset:#x}, which gives another size"


def sizes_of(view: KernelView, cache: SlabCache) -> range:
    """Sizes that requests for a kmalloc cache may have; none for another cache."""
    if not family(cache.name)[0].startswith("kmalloc-"):
        return range(0)
    return range(below_of(view.caches, cache) + 1, cache.object_size + 1)


def _keeps(found: Found) -> str:
    pointer = found.pointer
    what = f"its +{pointer.inside:#x}" if pointer.inside else "it"
    if pointer.struct == RESERVE:
        return "fills the reserve of a mempool, which they are in"
    if pointer.offset < 0:
        return f"keeps the address of {what} in an array, as {pointer.holder} have theirs"
    where = f"+{pointer.offset:#x}" + (f" of a struct {found.struct}" if found.struct else "")
    return f"keeps the address of {what} at {where}, where {pointer.holder} have theirs"


def _names(view: KernelView, told: Told) -> str:
    what = symbolic(view.host, told.word)
    if told.offset == HOLDERS:
        return f"names {what}, which what points at them has"
    if told.offset == HEAD:
        return f"names {what}, at which they hang"
    if told.handed:
        return f"is called by who names {what}, which they hold at +{told.offset:#x}"
    return f"names {what}, which they hold at +{told.offset:#x}"


def _agreement(store: Store, group: Group) -> tuple[str, bool | None]:
    """What kind of store it is, and whether the objects hold it; None where that says nothing."""
    kind = _kind(store)
    share = group.share(store)
    if share is None or _FEW < share < ALIKE:
        return kind, None
    if share >= ALIKE:
        return kind, True
    # What is linked into a list later, or counts, is another in each object: that is no argument.
    expected = kind in ("number", "zero", "self") or store.value >> 47
    if expected and kind != "poison" and not group.constant(store):
        return kind, None
    return kind, False


def _common(store: Store) -> bool:
    """Whether it is a number of a kind that stands anywhere."""
    ones = store.value == (1 << 8 * store.size) - 1
    return _kind(store) == "number" and (store.size < 4 or ones)


def _counts(store: Store, group: Group) -> bool:
    """Whether what was a small number is another one now, as counts of references are."""
    if store.kind == "self" or not store.value < SMALL:
        return False
    if store.size < 4:
        # A byte may be one of many flags; counts and states begin with 0, also two in one store.
        return not store.value
    return group.small(store)


def _kind(store: Store) -> str:
    if store.kind == "self":
        return "self"
    if store.value >> 32 == _POISON:
        return "poison"
    ones = store.value == (1 << 8 * store.size) - 1
    return "word" if store.value >= _TELLING and not ones else "number" if store.value else "zero"


def _inside(offset: int) -> str:
    return f"the address of its own +{offset:#x}" if offset else "the object's address"


def _dynamic(view: KernelView, value: int) -> bool:
    """Whether it is an address of what the kernel allocated; -1 is none."""
    word = np.array([value], np.uint64)
    return bool(view.space.direct.holds(word)[0] or view.space.vmalloc.holds(word)[0])


def _told(view: KernelView, store: Store, agrees: bool) -> str:
    if store.kind == "self":
        what = "the place's own address" if store.value == store.offset else _inside(store.value)
    elif store.value >> 32 == _POISON:
        what = f"list poison {store.value:#x}"
    elif (text := store.value.to_bytes(8, "little")).isascii() and text.decode().isprintable():
        what = f'"{text.decode()}"'
    elif store.value >> 47:
        what = symbolic(view.host, store.value)
        if what.startswith("0x") and _dynamic(view, store.value):  # no code has it in itself
            what = f"the pointer that its variable holds now, {what},"
    else:
        what = f"{store.value:#x}"
    held = "as all of them hold" if agrees else "which none of them holds"
    return f"{'' if agrees else AGAINST}writes {what} at +{store.offset:#x}, {held}"
