"""Which place in the code allocated a group of objects, with no record of it: a ranking.

Every place that allocates from the cache may have. What speaks for one: its module is named by the
objects, it asks for a size that fits what they use, and what it writes into the memory is what all
of them hold. What speaks against it: a size that they do not fit into, and another value where it
writes one. Each is a weight of evidence, added up as logarithms; the result is a probability among
all places, and only one that stands clearly out is called the likely allocator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from crashext.analysis.likeness.words import WordMap
from crashext.analysis.origin.content import BEYOND
from crashext.analysis.origin.content import RUNG as CONTENT
from crashext.analysis.origin.group import Group
from crashext.analysis.origin.mentions import Symbols
from crashext.analysis.origin.places import code_of, frees_of, located
from crashext.analysis.origin.pointed import Pointed
from crashext.analysis.origin.tracing import trace_command
from crashext.analysis.origin.weighing import (
    AGAINST,
    ASKS,
    Hints,
    of_size,
    other_weight,
    said,
    sizes_of,
    weigh,
)
from crashext.analysis.results.callsites import Callers, CallSite, Candidate, CodeOf, FreesOf
from crashext.analysis.results.evidence import Allocator, Head, Pointer, TypeCandidate
from crashext.analysis.types.candidates import settled
from crashext.kernel.access import Words
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView
from crashext.wording import bracketed, percent, plural, some_of

RUNG = "code"
_SHOWN = 4
_CLEAR = 0.8
"""Least probability of a function that stands out."""
_AHEAD = 2.0
"""Least difference of its weight and the next function's."""
_NEARLY_ALL = 0.9
_EQUAL = 1.5
"""Difference of weights up to which places are as good as equal."""


def rank_callers(
    view: KernelView,
    cache: SlabCache,
    addresses: Words,
    words: WordMap,
    allocators: tuple[Allocator, ...],
    types: tuple[TypeCandidate, ...] = (),
    head: Head | None = None,
    pointers: tuple[Pointer, ...] = (),
) -> Callers | None:
    """Who may have allocated the objects of `cache` at `addresses`, whose content is `words`.

    `allocators` are those that weaker rungs name, `types` what they may be, `head` is where they
    hang, `pointers` where others point at them. None where a session does not know the code.
    """
    code = code_of(view, cache)
    if code is None or not len(addresses) or not code.places:
        return None
    group = Group.of(words, addresses)
    named = next((a for a in allocators if a.rung == CONTENT and a.module), None)
    beyond = tuple(w for p in pointers if _all(p) and not p.own for w in p.symbols)
    symbols = Symbols.find(view, cache, words, head, beyond)
    pointed = Pointed(view, cache, pointers)
    hints = Hints(
        "" if named is None else named.module,
        named is not None and BEYOND in named.note,
        best if (best := settled(types)) is not None and best.module else None,
        symbols,
        pointed,
        sizes_of(view, cache),
        head,
    )
    known = {place.site.address for place in code.places}
    named_too = {p.site.address: p for p in (*symbols.more, *pointed.more)}
    more = [place for address, place in named_too.items() if address not in known]
    others = max(0, code.others - len(more))
    code = replace(code, places=(*code.places, *more), others=others)
    weighed = [weigh(view, place, group, hints) for place in code.places]
    certain = any(place.certain for place in code.places)
    other = other_weight(cache, certain) + of_size((), group.used, hints.sizes)
    rest = code.others * math.exp(other)
    calls = [int(place.site.address) for place in code.places]
    weights = pointed.lifted(calls, [weight for weight, _ in weighed], rest)
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    total = rest + sum(map(math.exp, weights))
    ranked = [
        Candidate(
            located(view.host, code.places[i].site),
            math.exp(weights[i]) / total,
            said(weighed[i][1]),
        )
        for i in order[:_SHOWN]
    ]
    first = ranked[0]
    places = sum(place.certain for place in code.places)
    equals = sum(weights[order[0]] - weights[i] <= _EQUAL for i in order)
    others = code.others + len(code.places) - places
    clear = stands_out(
        [code.places[i].site for i in order], [math.exp(weights[i]) / total for i in order]
    )
    clear &= places == 1 or telling(first, hints.sizes)
    freed = _freed(view, cache, code, first.site.module if clear else "")
    return Callers(
        sites=tuple(ranked),
        places=places,
        others=others,
        clear=clear,
        equals=equals,
        remark=_remark(
            [code.places[i].site for i in order[: 1 if clear else equals]],
            only=clear and places == 1,
            known=clear or (not hints.sizes and equals <= _SHOWN),
        ),
        freed=freed.surely,
        perhaps_freed=freed.perhaps,
        step=(
            ""
            if clear
            else trace_command(
                view.host.info().release, cache, [code.places[i].site for i in order[:equals]]
            )
        ),
    )


def _all(pointer: Pointer) -> bool:
    """Whether nearly all of them are pointed at so."""
    return pointer.objects >= _NEARLY_ALL * pointer.of


def _freed(view: KernelView, cache: SlabCache, code: CodeOf, module: str) -> FreesOf:
    """Where the module of the place that stands out frees such objects."""
    found = frees_of(view, cache, module) if module else FreesOf((), ())
    if found is None:
        found = FreesOf(tuple(s for s in code.freeing if s.module == module), ())
    return found


def stands_out(sites: Sequence[CallSite], probabilities: Sequence[float]) -> bool:
    """Whether one function does: it may ask at several places, which are as probable then.

    The most probable place comes first.
    """
    first = sites[0].function, sites[0].module
    sums: dict[tuple[str, str], float] = {}
    for site, probability in zip(sites, probabilities, strict=True):
        name = site.function, site.module
        sums[name] = sums.get(name, 0.0) + probability
    mine = sums.pop(first)
    return mine >= _CLEAR and mine >= math.exp(_AHEAD) * max(sums.values(), default=0.0)


def telling(first: Candidate, sizes: range) -> bool:
    """Whether more than a size speaks for a place: many ask for as much from a kmalloc cache, and
    the best fit of them is no more than that. `sizes` are those requests' sizes, if any."""
    if not sizes:
        return True
    return any(not reason.startswith((AGAINST, ASKS)) for reason in first.reasons)


def _remark(sites: list[CallSite], only: bool, known: bool) -> str:
    """What to keep in mind of a place that stands out, or of some that are equal."""
    if not known or any(site.module for site in sites):
        return ""
    return ("the only place that does; " if only else "") + (
        "the kernel allocates them for whoever asks: where a reference was lost, look for "
        "who took it, not here"
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
            note=f"{where}{percent(of_function(callers))} among {of}",
        ),
    )


def of_function(callers: Callers) -> float:
    """The probability of the first place's function, which may ask at others, too."""
    first = callers.sites[0].site
    mine = (c for c in callers.sites if c.site.function == first.function)
    return sum(c.probability for c in mine if c.site.module == first.module)


def reasons_for(candidate: Candidate) -> list[str]:
    """What speaks for a place, without what speaks against it."""
    return [reason for reason in candidate.reasons if not reason.startswith(AGAINST)]


def in_words(callers: Callers | None) -> tuple[str, ...]:
    """The place that stands out, and why, in a sentence; none where none does, but where a few of
    the kernel's own do together: that it is none of them is worth as much."""
    if callers is None:
        return ()
    if not callers.clear:
        few = callers.sites[: callers.equals]
        if not callers.remark or sum(c.probability for c in few) < _CLEAR:
            return ()
        named = some_of(list(dict.fromkeys(c.site.function for c in few)), _SHOWN)
        return (f"by the code, allocated by one of {named}: {callers.remark}",)
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
