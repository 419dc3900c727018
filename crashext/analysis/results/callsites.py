"""Places in the code that allocate, as reports have them."""

from __future__ import annotations

from dataclasses import dataclass

from crashext.analysis.results.evidence import Text
from crashext.analysis.results.reports import Kernel
from crashext.hosts.base import U64
from crashext.skipped import Skipped


@dataclass(frozen=True, slots=True)
class CallSite:
    """One call of an allocator, or of a function that frees."""

    function: Text
    """The function that calls; its address where it has no name."""
    offset: int
    """Of where the call returns to, as the kernel's stacks have it; of a tail jump its end."""
    module: Text
    """"" for the kernel image."""
    address: U64
    """Of the call itself."""
    calls: Text
    """``kmalloc_trace``, ``kmem_cache_free``, ..."""
    tail: bool
    """It is a tail jump: stacks of such allocations begin with the caller's caller."""
    sizes: tuple[int, ...]
    """Bytes that it may ask for; empty where that is not constant."""
    source: Text = ""
    """``file:line``; "" where no debug info says."""


@dataclass(frozen=True, slots=True)
class SitesReport:
    """The answer to `leakscan --sites CACHE`."""

    kernel: Kernel
    cache: str
    sites: tuple[CallSite, ...]
    """Places that allocate from the cache: it, or a size that only it fits, is in the code."""
    varying: tuple[CallSite, ...]
    """Places that may allocate from it, and from others: the size, or for a cache that is not
    kmalloc's the cache, is not constant in the code."""
    freed: tuple[CallSite, ...]
    """Places that give objects back to this very cache; kfree() does not name one."""
    text: int
    """Bytes of kernel and module text that were looked through."""
    skipped: tuple[Skipped, ...] = ()
