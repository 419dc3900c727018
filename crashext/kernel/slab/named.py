"""A cache by the name that somebody typed."""

from __future__ import annotations

from crashext.hosts.base import HostError
from crashext.kernel.slab.caches import Caches, SlabCache


class UnknownCache(HostError):
    """No cache is called so; the message has the names that are close."""


def find_cache(caches: Caches, name: str) -> SlabCache:
    """The cache of that name or alias; raises `UnknownCache` with the names that are close."""
    cache = caches.find(name)
    if cache is not None:
        return cache
    from rapidfuzz import fuzz, process  # for mistakes alone

    close = process.extract(name, caches.names(), scorer=fuzz.ratio, limit=3, score_cutoff=60)
    hint = ", ".join(n for n, _, _ in close)
    raise UnknownCache(
        f"no slab cache is called {name}"
        + (f": did you mean {hint}?" if hint else f" among the {len(caches.all)} of this kernel")
    )
