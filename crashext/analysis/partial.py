"""What a dump still tells of a machine where the part is missing that everything else rests on.

Without the memory map no object can be found, and the kernel's counters stand alone, as they do in
/proc; so they do where Ctrl-C came before it was read. Without the kernel's own variables there is
nothing, and that is said.
"""

from __future__ import annotations

from crashext.analysis.memory.accounting import Accounting
from crashext.analysis.memory.memsplit import MemorySplit
from crashext.analysis.verdict.facts import AreaFact, CacheFact, Facts
from crashext.hosts.base import Info
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.usage import usage
from crashext.kernel.slab.view import KernelView


def by_counters(view: KernelView, accounting: Accounting, why: str) -> Facts:
    """The facts by the counters, where the memory map is missing or was not read to its end, as
    `why` says. Where its slabs are known, those tell what their caches have."""
    page = view.space.page_size
    if whole_index(view):
        caches = [cache_fact(view, cache) for cache in view.caches.all]
    else:
        caches = [_cache(cache, page) for cache in view.caches.all if cache.counters is not None]
    caches.sort(key=lambda c: (-c.bytes, c.name))
    return Facts(
        split=accounting.split,
        caches=tuple(caches),
        areas=area_facts(accounting, page),
        processes=accounting.processes,
        limits=(*accounting.limits, why),
        damage=view.host.info().damage,
    )


def area_facts(accounting: Accounting, page: int) -> tuple[AreaFact, ...]:
    """vmalloc by caller; whether anything reaches the areas is not known yet."""
    return tuple(
        AreaFact(c.function, c.module, c.areas, c.bytes // page, c.bytes, None)
        for c in accounting.callers
    )


def nothing(info: Info, why: str) -> Facts:
    """No facts at all; `why` says what of the kernel cannot be read."""
    return Facts(MemorySplit(0, (), 0), limits=(why,), damage=info.damage)


def whole_index(view: KernelView) -> bool:
    """Whether all slabs of the memory map were found."""
    return view.scanned and view.index.complete


def cache_fact(view: KernelView, cache: SlabCache) -> CacheFact:
    """A cache by its slabs."""
    used = usage(view, cache, view.index)
    return CacheFact(
        cache.name,
        used.slabs * slab_bytes(cache, view.space.page_size),
        used.slabs,
        used.allocated,
        used.slots,
        cache.slot_size,
        "RECLAIM_ACCOUNT" in cache.flags,
    )


def _cache(cache: SlabCache, page: int) -> CacheFact:
    """A cache by its nodes' counters, which do not tell how many of the slots are free."""
    assert cache.counters is not None
    size = cache.counters.slabs * slab_bytes(cache, page)
    return CacheFact(
        cache.name,
        size,
        cache.counters.slabs,
        size,
        size,
        cache.slot_size,
        "RECLAIM_ACCOUNT" in cache.flags,
        counted=False,
    )


def slab_bytes(cache: SlabCache, page: int) -> int:
    """Size of one slab of the cache: a power of two of pages of so many bytes."""
    pages = -(-cache.slot_size * cache.objects_per_slab // page)
    return page << max(0, (pages - 1).bit_length())
