"""Which requests may be one for a cache: by the cache that they name, by size and by gfp flags."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from crashext.hosts.base import Host, Symbol
from crashext.kernel.origin.entrypoints import EntryPoint, Kind
from crashext.kernel.slab.caches import Caches, SlabCache
from crashext.kernel.slab.families import family

_DMA, _RECLAIMABLE, _ACCOUNT = 0x1, 0x10, 0x400000  # of the gfp flags
_BY_FLAGS = ("", "dma", "rcl", "cg")
"""Variants of kmalloc caches that the gfp flags choose; others are chosen at random or by name."""


@dataclass(frozen=True)
class Request:
    """One place that asks for memory, or that frees some."""

    call: int
    """Address of the call."""
    entry: EntryPoint
    jump: bool
    function: Symbol
    caches: tuple[int, ...]
    """Addresses of the caches that it may be given, as far as they are known; 0 for none yet."""
    sizes: tuple[int, ...]
    """All sizes, or orders of pages, that it may ask for; empty where it is not known."""
    flags: int | None
    """The gfp flags; None where they are not known, and where the caches are."""
    length: int
    """Bytes of the call instruction."""
    least: int = 0
    """Where no sizes are known: it asks for no less."""

    @property
    def offset(self) -> int:
        """Of where the call returns to, as stacks of the kernel have it."""
        return self.call + self.length - self.function.address


class Fitting:
    """Caches of one kernel."""

    def __init__(self, host: Host, caches: Caches) -> None:
        self._host, self._caches = host, caches

    def of(self, cache: SlabCache) -> Fit:
        """What requests for `cache` are like."""
        below = below_of(self._caches, cache)
        name, variant = family(cache.name)
        return Fit(cache, name.startswith("kmalloc-"), variant, below, self._kmalloc_type)

    @cached_property
    def _variants(self) -> set[str]:
        """Of the kmalloc caches that this kernel has."""
        return {family(c.name)[1] for c in self._caches.all}

    def _kmalloc_type(self, flags: int) -> str:
        """The variant of the kmalloc caches that gfp flags lead to; "" for the plain ones."""
        for bits, variant in ((_DMA, "dma"), (_RECLAIMABLE, "rcl"), (self._account, "cg")):
            if flags & bits and variant in self._variants:
                return variant
        return ""

    @cached_property
    def _account(self) -> int:
        """__GFP_ACCOUNT: 6.10 made the flags an enum of bits."""
        bit = self._host.enumerator("___GFP_ACCOUNT_BIT")
        return _ACCOUNT if bit is None else 1 << bit


@dataclass(frozen=True)
class Fit:
    """Whether a request may be one for this cache."""

    cache: SlabCache
    kmalloc: bool
    variant: str
    below: int
    """Requests up to this size go to a smaller kmalloc cache."""
    type_of: Callable[[int], str]
    """The variant that gfp flags lead to."""

    def __call__(self, request: Request) -> bool:
        if request.caches:
            return self.cache.address in request.caches
        if request.entry.kind is Kind.SLAB and request.entry.size < 0 and not request.sizes:
            # A cache that the code does not tell: hardly one of kmalloc's.
            entry = request.entry
            return (entry.cache >= 0 or entry.pool >= 0) and not self.kmalloc
        if not self.kmalloc:
            return False
        known = request.flags is not None and self.variant in _BY_FLAGS
        if known and self.type_of(request.flags or 0) != self.variant:
            return False
        return request.least <= self.cache.object_size and self.size(request.sizes)

    def size(self, sizes: tuple[int, ...]) -> bool:
        """Whether one of them is of this cache, or none is known."""
        return not sizes or any(self.below < size <= self.cache.object_size for size in sizes)


def below_of(caches: Caches, cache: SlabCache) -> int:
    """The size up to which requests go to a smaller kmalloc cache than `cache`."""
    at = bisect_left(caches.kmalloc_sizes, cache.object_size)
    return caches.kmalloc_sizes[at - 1] if at else 0
