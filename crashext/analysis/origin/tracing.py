"""The trace that would tell places in the code apart which are as probable as each other."""

from __future__ import annotations

import re
from collections.abc import Sequence

from crashext.analysis.results.callsites import CallSite
from crashext.kernel.markers import release_tuple
from crashext.kernel.slab.caches import SlabCache

_MOST_NAMED = 6
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
"""Of a function that a filter finds: not of a part that the compiler made of one. It comes from the
dump, and goes to a shell."""
_CACHE = re.compile(r"[A-Za-z_][\w:.-]*", re.ASCII)
_FUNCTIONS_SINCE = (6, 3)  # call_site.function: e6745a4da961
_CACHES_SINCE = (5, 12)  # the cache's name in kmem_cache_free: 3544de8ee6e4


def trace_command(release: str, cache: SlabCache, equals: Sequence[CallSite]) -> str:
    """A line to paste: what the places `equals` allocate from `cache`, and what is freed again."""
    kmalloc = cache.name.startswith("kmalloc")
    since = release_tuple(release) or (0, 0)
    wanted = [f"bytes_alloc == {cache.slot_size}"]
    sizes = {size for e in equals for size in e.sizes}
    if kmalloc and len(sizes) == 1 and all(e.sizes for e in equals):
        wanted.append(f"bytes_req == {sizes.pop()}")
    names = list(dict.fromkeys(e.function for e in equals))
    told = all(_NAME.fullmatch(n) for n in names) and not any(e.tail for e in equals)
    if since >= _FUNCTIONS_SINCE and told and len(names) <= _MOST_NAMED:
        some = " || ".join(f"call_site.function == {name}" for name in names)
        wanted.append(f"({some})" if len(names) > 1 else some)
    freed = ""
    if not kmalloc and since >= _CACHES_SINCE and _CACHE.fullmatch(cache.name):
        freed = f" -f 'name == \"{cache.name}\"'"
    events = ("kmalloc", "kfree") if kmalloc else ("kmem_cache_alloc", "kmem_cache_free")
    return (
        f"trace-cmd record -e kmem:{events[0]} -f '{' && '.join(wanted)}' -T "
        f"-e kmem:{events[1]}{freed} sleep 60 # then: leakscan --trace trace.dat"
    )
