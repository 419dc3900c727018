"""A cache by the name that somebody typed."""

from __future__ import annotations

from crashext.hosts.base import HostError
from crashext.kernel.slab.caches import Caches, SlabCache
from crashext.kernel.slab.spelling import unknown


class UnknownCache(HostError):
    """No cache is called so; the message has the names that are close."""

    def __init__(self, name: str, said: str) -> None:
        super().__init__(said)
        self.name = name


def find_cache(caches: Caches, name: str) -> SlabCache:
    """The cache of that name or alias; raises `UnknownCache` with the names that are close."""
    cache = caches.find(name)
    if cache is None:
        raise UnknownCache(name, unknown(name, caches.names(), len(caches.all)))
    return cache
