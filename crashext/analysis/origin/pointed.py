"""Places in the code that keep the address of what they get where the pointers to a group are.

A task's security blob is pointed at from +0x1460 of a task_struct, and one function in the kernel
stores the address of new memory there. How telling that is depends on how many places do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from crashext.analysis.origin.holder import Holder, Keeps
from crashext.analysis.origin.places import allocating, certain, counted, foreign_of
from crashext.analysis.results.callsites import Allocating, Keeping
from crashext.analysis.results.evidence import Pointer
from crashext.hosts.base import U64
from crashext.hosts.plain import answered
from crashext.kernel.origin.bases import Bases
from crashext.kernel.origin.fitting import Request, below_of
from crashext.kernel.origin.keepers import Keepers
from crashext.kernel.origin.requests import requests_of
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.families import family
from crashext.kernel.slab.view import KernelView

_MOST_POINTERS = 4
_LEAST = 0.3
"""Share of a group that is pointed at so for the group to be asked about it."""
_KNOWN, _SEEN, _UNSURE = 0.75, 0.5, 0.25
"""How often the place that allocates is seen to keep the address where pointers are later: in what
they are in, in what may be that, and in what is not known. Of the first at least one place is there
in any case; that of the truth may be code of __init, which is gone, so that alone it makes nobody
stand out."""
_MOST = 9.0  # of what pointers say together
_NEXT = 0.5  # of what each further one says: they are of one stroke of code
_FEW = 64
"""Places that keep it so, above which places are not looked for by it."""


@dataclass(frozen=True)
class Found:
    """What one kind of pointer says for the places that make it."""

    pointer: Pointer
    weight: float
    calls: frozenset[int]
    struct: str
    """The struct that all of them keep it in; "" where that is not known, or is none."""
    exactly: bool
    """It is what has the pointers."""


class Pointed:
    """What the pointers to a group say of the places that may have allocated it."""

    def __init__(self, view: KernelView, cache: SlabCache, pointers: Sequence[Pointer]) -> None:
        asked = [p for p in pointers if p.objects >= _LEAST * p.of][:_MOST_POINTERS]
        found: tuple[Keeping, ...] | None = ()
        if asked:
            key = f"keeping {cache.name} " + ",".join(
                f"{p.holder}:{p.offset}:{p.inside}:{int(p.own)}" for p in asked
            )
            found = answered(view.host, key, tuple[Keeping, ...], lambda: _find(view, cache, asked))
        told = [
            one
            for pointer, keeping in zip(asked, found or (), strict=False)
            for one in _told(pointer, keeping)
        ]
        self._told = [t for t in told if t.weight > 0]
        self._there = max(
            (one for one in told if one.exactly and one.calls and not one.pointer.others),
            key=lambda one: (_share(one.pointer), -len(one.calls)),
            default=None,
        )
        self.more: tuple[Allocating, ...] = tuple(
            {a.site.address: a for one in found or () for a in one.more}.values()
        )
        """Places of the kernel itself whose size is not constant, and which keep it so."""

    def of(self, call: int) -> tuple[float, list[Found]]:
        """The weight for the place that calls at `call`, and what it keeps where they are."""
        kept = sorted((t for t in self._told if call in t.calls), key=lambda t: -t.weight)
        if not self._told:
            return 0.0, []
        if not kept:
            return math.log(1 - _SEEN * max(_share(t.pointer) for t in self._told)), []
        return min(_MOST, kept[0].weight + _NEXT * sum(t.weight for t in kept[1:])), kept

    def lifted(self, calls: Sequence[int], weights: Sequence[float], rest: float) -> list[float]:
        """Weights of places, with `rest` of those that are not looked at, by what is seen of a
        member: somebody has written the pointers there, and who is seen to do so is one of few."""
        there = self._there
        mine = [there is not None and call in there.calls for call in calls]
        if there is None or not any(mine):
            return list(weights)
        inside = sum(math.exp(w) for w, m in zip(weights, mine, strict=True) if m)
        outside = rest + sum(math.exp(w) for w, m in zip(weights, mine, strict=True) if not m)
        often = _KNOWN * _share(there.pointer)
        more = math.log(often / (1 - often) * outside / inside) if outside else 0.0
        more = min(_MOST, max(0.0, more))
        return [w + more if m else w for w, m in zip(weights, mine, strict=True)]


def _share(pointer: Pointer) -> float:
    return pointer.objects / pointer.of


def _holder(view: KernelView, pointer: Pointer) -> Holder:
    cache = view.caches.find(pointer.holder)
    if cache is None:
        return Holder(pointer, -1)
    sized = family(cache.name)[0].startswith("kmalloc-")
    return Holder(pointer, below_of(view.caches, cache) if sized else -1, cache.address)


def _told(pointer: Pointer, found: Keeping) -> list[Found]:
    return [
        Found(
            pointer,
            math.log(often * _share(pointer) * (found.places + 1) / (len(calls) + 0.5)),
            frozenset(int(a) for a in calls),
            struct,
            often == _KNOWN,
        )
        for calls, often, struct in (
            (found.exactly, _KNOWN, found.struct),
            (found.fitting, _SEEN, found.struct),
            (found.perhaps, _UNSURE, ""),
        )
    ]


def _find(view: KernelView, cache: SlabCache, pointers: Sequence[Pointer]) -> tuple[Keeping, ...]:
    known = requests_of(view.host, view.caches)
    keepers = known.once("keepers", lambda: Keepers(known))
    bases = known.once("bases", lambda: Bases(known, view.btf))
    foreign = foreign_of(known)
    # Where a function is disassembled for one of its calls, all of them are read.
    holders = [_holder(view, pointer) for pointer in pointers]
    places: list[tuple[Request, list[Keeps]]] = []
    seen = 0
    for request in known.from_cache(cache):
        kept = keepers.of(request)
        seen += bool(kept)
        places.append((request, [holder.of(kept, bases) for holder in holders]))
    result = []
    for number, holder in enumerate(holders):
        judged = [(r, each[number]) for r, each in places]
        # Every holder was made once, and has what it got then unless another took its place.
        most = max((keeps for _, keeps in judged), default=Keeps.NO)
        exactly = [r for r, keeps in judged if keeps is most >= Keeps.YES]
        fitting = [r for r, keeps in judged if keeps in (Keeps.YES, Keeps.FITS) and keeps < most]
        fitting += [r for r, keeps in judged if keeps is most is Keeps.FITS]
        perhaps = [r for r, keeps in judged if keeps is Keeps.PERHAPS]
        both = [*exactly, *fitting, *perhaps]
        uncertain = [r for r in both if not certain(r) and not r.function.module]
        few: list[Request] = uncertain[:_FEW]
        result.append(
            Keeping(
                places=seen,
                exactly=tuple(U64(r.call) for r in exactly),
                fitting=tuple(U64(r.call) for r in fitting),
                perhaps=tuple(U64(r.call) for r in perhaps),
                struct=holder.struct,
                more=counted(known, [allocating(known, r, foreign) for r in few]),
            )
        )
    return tuple(result)
