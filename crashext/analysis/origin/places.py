"""Places in the code that allocate from a cache, with their lines of source where those are known.

A session keeps the answer, not the text that it was read from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

from crashext.allocators import beyond_helpers
from crashext.analysis.likeness.survey import kernel_of
from crashext.analysis.results.callsites import Allocating, CallSite, CodeOf, FreesOf
from crashext.analysis.results.reports import SitesReport
from crashext.hosts.base import U64, Host, HostError, SourceHost
from crashext.hosts.plain import answered
from crashext.kernel.foreign import foreign_modules
from crashext.kernel.origin.entrypoints import Kind
from crashext.kernel.origin.fitting import Request
from crashext.kernel.origin.freeing import Freeing, Sure
from crashext.kernel.origin.requests import Requests, requests_of
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView
from crashext.skipped import Skipped
from crashext.wording import missing

_MOST_PLACES = 2048  # that a ranking looks at
_MOST_UNSURE = 64  # places whose cache is not known, of a cache that no place is known to be for


def sites_report(view: KernelView, cache: SlabCache) -> SitesReport:
    """Every place that allocates from `cache`. Raises `HostError` where a session has none."""
    found = answered(view.host, f"sites {cache.name}", SitesReport, lambda: _find(view, cache))
    if found is None:
        raise HostError("this session does not know: record one with leakscan --sites --record")
    return found


def code_of(view: KernelView, cache: SlabCache) -> CodeOf | None:
    """What a ranking needs of the code for `cache`; None where a session does not know it."""

    def compute() -> CodeOf:
        known = requests_of(view.host, view.caches)
        return known.once(("code", cache.address), lambda: _code(view, known, cache))

    return answered(view.host, f"code {cache.name}", CodeOf, compute)


def _code(view: KernelView, known: Requests, cache: SlabCache) -> CodeOf:
    foreign = foreign_of(known)
    places: list[Allocating] = []
    unsure: list[Request] = []
    for r in known.from_cache(cache):
        told = certain(r) or r.function.module or fits(known.supposed(r), cache)
        if not told and known.counting(r) is None:
            unsure.append(r)
        elif len(places) < _MOST_PLACES:
            places.append(allocating(known, r, foreign))
    if not any(place.certain for place in places) and len(unsure) <= _MOST_UNSURE:
        places += [allocating(known, r, foreign) for r in unsure]
        unsure = []
    return CodeOf(counted(known, places), len(unsure))


def frees_of(view: KernelView, cache: SlabCache, module: str) -> FreesOf | None:
    """Where a module frees objects of `cache`; None where a session does not know it."""

    def compute() -> FreesOf:
        known = requests_of(view.host, view.caches)
        key = "frees", cache.address, module
        return known.once(key, lambda: _frees(view, known, cache, module))

    return answered(view.host, f"frees {cache.name} {module}", FreesOf, compute)


def _frees(view: KernelView, known: Requests, cache: SlabCache, module: str) -> FreesOf:
    host = view.host
    freeing = known.once("freeing", lambda: Freeing(host, view.caches, known))
    found = list(freeing.of(cache, module))
    surely = (call_site(host, r) for r, sure in found if sure is Sure.YES)
    # Of hundreds only the functions' names are told.
    perhaps = (unlocated(r) for r, sure in found if sure is Sure.PERHAPS)
    return FreesOf(tuple(surely), tuple(perhaps))


def allocating(known: Requests, request: Request, foreign: Mapping[str, str]) -> Allocating:
    """The place with what is done with the memory there."""
    filled = known.filled(request)
    return Allocating(
        replace(unlocated(request), supposed=known.supposed(request)),
        filled.stores,
        certain(request),
        foreign.get(request.function.module, ""),
        filled.words,
        counting=known.counting(request),
    )


def counted(known: Requests, places: Sequence[Allocating]) -> tuple[Allocating, ...]:
    """With how often the function of each is called."""
    starts = [int(p.site.address) + known.call_length - p.site.offset for p in places]
    times = known.called(starts)
    return tuple(
        replace(place, called=times.get(start) if place.site.offset else None)
        for place, start in zip(places, starts, strict=True)
    )


def foreign_of(known: Requests) -> dict[str, str]:
    """Why modules are none of the kernel's own."""
    return known.once("foreign", lambda: foreign_modules(known.host))


def fits(supposed: tuple[int, ...], cache: SlabCache) -> bool:
    """Whether a size that a place is supposed to ask for is one for this cache."""
    return any(cache.object_size // 2 < size <= cache.object_size for size in supposed)


def certain(request: Request) -> bool:
    """Whether it is known to be this cache, or this size."""
    return bool(request.sizes or request.caches)


def _find(view: KernelView, cache: SlabCache) -> SitesReport:
    known = requests_of(view.host, view.caches)
    places = list(known.from_cache(cache))
    sure = [r for r in places if certain(r)]
    freed = [r for r in known.of((Kind.FREE,)) if cache.address in r.caches]
    return SitesReport(
        kernel=kernel_of(view.host),
        cache=cache.name,
        sites=_in_order(view.host, sure),
        varying=_in_order(view.host, [r for r in places if not certain(r)]),
        freed=_in_order(view.host, freed),
        text=known.text,
        skipped=_missing(known.missing, view.host.info().live),
    )


def _missing(text: int, live: bool) -> tuple[Skipped, ...]:
    if not text:
        return ()
    return (Skipped("bytes of text", text, f"{missing(live)}: calls there are not known"),)


def _in_order(host: Host, requests: list[Request]) -> tuple[CallSite, ...]:
    return tuple(call_site(host, r) for r in _sorted(requests))


def _sorted(requests: list[Request]) -> list[Request]:
    """Modules first, then by address: functions of one file stand together."""
    return sorted(requests, key=lambda r: (not r.function.module, r.function.module, r.call))


def call_site(host: Host, request: Request) -> CallSite:
    """The place as a report has it."""
    return replace(unlocated(request), source=source_of(host, request.call))


def located(host: Host, site: CallSite) -> CallSite:
    """With its line of source: of hundreds of places only those that are shown are looked up."""
    at = site.address
    found = answered(host, f"source {at:#x}", str, lambda: source_of(host, at))
    return replace(site, source=found or "")


def unlocated(request: Request) -> CallSite:
    """The place without its line of source."""
    function = request.function
    return CallSite(
        function=function.name or f"{request.call:#x}",
        offset=request.offset if function.name else 0,
        module=function.module,
        address=U64(request.call),
        calls=request.entry.name,
        tail=request.jump,
        sizes=request.sizes,
        least=request.least,
    )


def source_of(host: Host, address: int) -> str:
    """``file:line`` of whoever calls, functions inlined there seen through; "" where unknown."""
    lines = host.source_of(address) if isinstance(host, SourceHost) else []
    if not lines:
        return ""
    beyond = beyond_helpers(name for name, _ in lines)
    # A helper that asks by itself is where the call is, not what was inlined into it.
    path, _, number = lines[-1 if beyond is None else beyond][1].rpartition(":")
    parts = PurePath(path).parts
    # A module's debug info has the path of the machine that built it.
    short = PurePath(*parts[-2:]) if PurePath(path).is_absolute() else PurePath(path)
    return f"{short}:{number}"
