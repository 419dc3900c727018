"""Which place in a module's code asked for vmalloc areas, or for pages, that nothing reaches.

An area's record names the function; of pages only what is in them names a module. Pages may be
written by whoever: that a module's text is in them is why its own code is looked at, no more.
"""

from __future__ import annotations

import math
from dataclasses import replace

from crashext.analysis.origin.places import call_site
from crashext.analysis.results.callsites import Callers, Candidate
from crashext.analysis.results.evidence import UnreachableMemory
from crashext.kernel.origin.entrypoints import Kind
from crashext.kernel.origin.fitting import Request
from crashext.kernel.origin.requests import requests_of
from crashext.kernel.slab.view import KernelView
from crashext.wording import percent

_SHOWN = 4
_ANY_ORDER = -1.0
_OTHER_ORDERS = 4.0
"""How much it speaks against a place that some of the blocks are of orders it never asks for: what
is alike in content was mostly allocated in one place."""
_LIKELY = 0.6
_CLEARLY = math.log(4)
"""How many times as probable as the next a place must be, or they are equals: of blocks of one
order, one that asks for that order is but some three times as probable as one that works it out."""
_ELSEWHERE = 0.1
"""Weight of other code that may have allocated a module's pages for it: little, by experience."""


def with_callers(view: KernelView, memory: UnreachableMemory) -> UnreachableMemory:
    """With the places of its module that may have allocated it."""
    if not memory.module:
        return memory
    known = requests_of(view.host, view.caches)
    areas = [r for m in view.host.modules() if m.name == memory.module for r in m.ranges]
    kind = Kind.AREA if memory.kind == "vmalloc" else Kind.PAGES
    orders = {order for order, _ in memory.orders}
    fitting = [
        r
        for r in known.of((kind,), areas)
        if (r.function.name == memory.what if kind is Kind.AREA else _fits(r, orders))
    ]
    if not fitting:
        return memory
    freed = [r for r in known.of((Kind.FREE,), areas) if r.entry.name in _FREES[kind]]
    fitting.sort(key=lambda r: (-_weight(r, memory), r.call))
    total = sum(math.exp(_weight(r, memory)) for r in fitting)
    total += _ELSEWHERE if kind is Kind.PAGES else 0.0
    sites = tuple(
        Candidate(
            call_site(view.host, r), math.exp(_weight(r, memory)) / total, _reasons(r, memory, kind)
        )
        for r in fitting[:_SHOWN]
    )
    best = _weight(fitting[0], memory)
    equals = sum(best - _weight(r, memory) < _CLEARLY for r in fitting)
    clear = equals == 1 and sites[0].probability >= _LIKELY
    return replace(
        memory,
        callers=Callers(
            sites=sites,
            places=len(fitting),
            others=0,
            clear=clear,
            equals=equals,
            freed=tuple(call_site(view.host, r) for r in freed),
            step="" if clear else _STEPS[kind],
        ),
    )


_FREES = {
    Kind.AREA: ("vfree", "kvfree", "vunmap"),
    Kind.PAGES: ("__free_pages", "free_pages", "put_page"),
}
_STEPS = {
    Kind.AREA: "trace-cmd record -p function -l 'vmalloc*' -l 'vfree*' --func-stack sleep 60",
    Kind.PAGES: "trace-cmd record -e kmem:mm_page_alloc -T -e kmem:mm_page_free sleep 60 "
    "# then: leakscan --trace trace.dat",
}


def _fits(request: Request, orders: set[int]) -> bool:
    return not request.sizes or bool(orders & set(request.sizes)) or not orders


def explained(request: Request, memory: UnreachableMemory) -> float:
    """The share of the blocks that are of orders which a place may ask for."""
    total = sum(count for _, count in memory.orders)
    if not request.sizes or not total:
        return 1.0
    return sum(count for order, count in memory.orders if order in request.sizes) / total


def _weight(request: Request, memory: UnreachableMemory) -> float:
    if memory.kind == "vmalloc":
        return 0.0
    if not request.sizes:
        return _ANY_ORDER
    return _OTHER_ORDERS * math.log(max(explained(request, memory), 1e-3))


def _reasons(request: Request, memory: UnreachableMemory, kind: Kind) -> tuple[str, ...]:
    if kind is Kind.AREA:
        return ("the areas' own records name the function",)
    if request.sizes:
        share = explained(request, memory)
        asks = f"asks for order {'/'.join(map(str, request.sizes))}"
        asks += f", as {percent(share)} of them are" if share < 1 else ""
    else:
        asks = "asks for an order that it works out"
    return (f"in {memory.module}, which what is in the pages speaks of", asks)
