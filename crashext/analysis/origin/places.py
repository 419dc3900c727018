"""Places in the code that allocate from a cache, with their lines of source where those are known.

A session keeps the answer, not the text that it was read from.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath

from crashext.allocators import beyond_helpers
from crashext.analysis.likeness.survey import kernel_of
from crashext.analysis.results.callsites import Allocating, CallSite, CodeOf
from crashext.analysis.results.reports import SitesReport
from crashext.hosts.base import U64, Host, HostError, SourceHost
from crashext.hosts.keeping import keep
from crashext.hosts.plain import answered
from crashext.kernel.foreign import foreign_modules
from crashext.kernel.origin.entrypoints import Kind
from crashext.kernel.origin.requests import Request, requests_of
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView
from crashext.skipped import Skipped

_MOST_PLACES = 2048  # that a ranking looks at


def sites_report(view: KernelView, cache: SlabCache) -> SitesReport:
    """Every place that allocates from `cache`. Raises `HostError` where a session has none."""
    found = answered(view.host, f"sites {cache.name}", SitesReport, lambda: _find(view, cache))
    if found is None:
        raise HostError("this session does not know: record one with leakscan --sites --record")
    return found


def code_of(view: KernelView, cache: SlabCache) -> CodeOf | None:
    """What a ranking needs of the code for `cache`; None where a session does not know it."""

    def compute() -> CodeOf:
        return keep(view.host, ("code", cache.address), lambda: _code(view, cache))

    return answered(view.host, f"code {cache.name}", CodeOf, compute)


def _code(view: KernelView, cache: SlabCache) -> CodeOf:
    host, known = view.host, requests_of(view.host, view.caches)
    foreign = foreign_modules(host)
    places: list[Allocating] = []
    others = 0
    for r in known.from_cache(cache):
        certain = _certain(r)
        if not certain and not r.function.module:
            others += 1
        elif len(places) < _MOST_PLACES:
            outside = foreign.get(r.function.module, "")
            places.append(Allocating(unlocated(r), known.stores(r), certain, outside))
    freed = tuple(unlocated(r) for r in _sorted(known.freeing(cache)))
    return CodeOf(tuple(places), others, freed)


def _certain(request: Request) -> bool:
    return bool(request.sizes or request.caches)


def _find(view: KernelView, cache: SlabCache) -> SitesReport:
    known = requests_of(view.host, view.caches)
    places = list(known.from_cache(cache))
    certain = [r for r in places if _certain(r)]
    freed = [r for r in known.of((Kind.FREE,)) if cache.address in r.caches]
    return SitesReport(
        kernel=kernel_of(view.host),
        cache=cache.name,
        sites=_in_order(view.host, certain),
        varying=_in_order(view.host, [r for r in places if not _certain(r)]),
        freed=_in_order(view.host, freed),
        text=known.text,
        skipped=_missing(known.missing),
    )


def _missing(text: int) -> tuple[Skipped, ...]:
    if not text:
        return ()
    return (Skipped("bytes of text", text, "not in the dump: calls there are not known"),)


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
    )


def source_of(host: Host, address: int) -> str:
    """``file:line`` of whoever calls, functions inlined there seen through; "" where unknown."""
    lines = host.source_of(address) if isinstance(host, SourceHost) else []
    if not lines:
        return ""
    path, _, number = lines[beyond_helpers(name for name, _ in lines) or 0][1].rpartition(":")
    parts = PurePath(path).parts
    # A module's debug info has the path of the machine that built it.
    short = PurePath(*parts[-2:]) if PurePath(path).is_absolute() else PurePath(path)
    return f"{short}:{number}"
