"""The kernel's functions that hand out memory, or take it back, and where they take what from.

Numbers are of the arguments as they are passed. Names and orders of arguments: include/linux/slab.h
and mm/ of 3.10, 4.18, 5.10, 6.1, 6.12 and 7.2; with 6.10 ("mm/slab: enable slab allocation
tagging") most got the suffix _noprof. Those that pass their arguments on (kmemdup, devm_kmalloc,
__alloc_skb) are here for their callers' sake: who calls *them* asked for the memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

_NONE = -1


class Kind(Enum):
    """What an entry point hands out."""

    SLAB = "slab"
    """An object of the cache that it is given."""
    SIZED = "kmalloc"
    """An object of the kmalloc cache that fits the size."""
    PAGES = "pages"
    AREA = "vmalloc"
    FREE = "free"


@dataclass(frozen=True)
class EntryPoint:
    """One function."""

    name: str
    kind: Kind
    cache: int = _NONE
    """The argument that is the cache; -1 for none, as with all the following."""
    size: int = _NONE
    flags: int = _NONE
    order: int = _NONE
    object: int = _NONE
    """The argument that is freed."""
    variable: tuple[str, ...] = ()
    """Variables of the caches that it always takes from."""
    returns: bool = True
    """It returns the memory itself, not a structure that owns it."""
    pool: int = _NONE
    """The argument that is a mempool, whose cache it takes from."""
    filling: bool = False
    """It makes a mempool and fills it, an array of objects; `cache` is the cache, or the size for
    kmalloc()."""
    bulk: bool = False
    """It hands out many, in an array that it is given."""
    managed: bool = False
    """A struct devres stands before the memory that it returns, in the same object."""


def _slab(size: int, flags: int, *names: str) -> list[EntryPoint]:
    return [EntryPoint(n, Kind.SLAB, cache=0, size=size, flags=flags) for n in names]


def _sized(size: int, flags: int, *names: str) -> list[EntryPoint]:
    return [EntryPoint(n, Kind.SIZED, size=size, flags=flags) for n in names]


def _managed(size: int, flags: int, *names: str) -> list[EntryPoint]:
    return [EntryPoint(n, Kind.SIZED, size=size, flags=flags, managed=True) for n in names]


def _pages(order: int, flags: int, *names: str) -> list[EntryPoint]:
    return [EntryPoint(n, Kind.PAGES, order=order, flags=flags) for n in names]


def _area(size: int, *names: str) -> list[EntryPoint]:
    return [EntryPoint(n, Kind.AREA, size=size) for n in names]


def _free(argument: int, *names: str) -> list[EntryPoint]:
    return [EntryPoint(n, Kind.FREE, object=argument) for n in names]


def _free_of(*names: str) -> list[EntryPoint]:
    return [EntryPoint(n, Kind.FREE, cache=0, object=1) for n in names]


_NOPROF = "_noprof"
_SKB = ("skbuff_head_cache", "skbuff_cache")
_UNTAGGED = (
    *_slab(2, 1, "kmem_cache_alloc_trace", "kmalloc_trace", "__kmalloc_cache"),
    *_slab(3, 1, "kmem_cache_alloc_node_trace", "kmalloc_node_trace", "__kmalloc_cache_node"),
    *_slab(_NONE, 1, "kmem_cache_alloc", "kmem_cache_alloc_node", "kmem_cache_zalloc"),
    *_slab(_NONE, 2, "kmem_cache_alloc_lru"),
    *_slab(_NONE, 1, "kmem_cache_alloc_from_sheaf"),
    *_sized(0, 1, "__kmalloc", "__kmalloc_node", "__kmalloc_track_caller"),
    *_sized(0, 1, "__kmalloc_node_track_caller", "kmalloc_large", "kmalloc_large_node"),
    *_sized(0, 1, "__kmalloc_large", "__kmalloc_large_node", "kmalloc_order"),
    *_sized(0, 1, "kmalloc_order_trace", "kvmalloc_node", "__kvmalloc_node"),
    *_sized(1, 2, "kmemdup", "krealloc", "__krealloc", "kvmemdup", "sock_kmalloc"),
    *_sized(1, 3, "krealloc_node_align", "kvrealloc_node_align"),
    *_sized(0, 1, "__kmalloc_flags"),
    *_sized(1, _NONE, "memdup_user", "vmemdup_user", "memdup_user_nul", "strndup_user"),
    *_sized(_NONE, 1, "kstrdup", "kstrdup_const"),
    *_sized(_NONE, 2, "kstrndup", "kmemdup_nul", "kvrealloc"),
    *_sized(_NONE, 3, "kmemdup_array"),
    *_sized(_NONE, 0, "kasprintf", "kvasprintf", "kvasprintf_const"),
    *_managed(1, 2, "devm_kmalloc", "__devres_alloc_node"),
    *_managed(2, 3, "devm_kmemdup"),
    *_managed(_NONE, 2, "devm_kstrdup"),
    *_managed(_NONE, 1, "devm_kasprintf", "devm_kvasprintf"),
    EntryPoint("__alloc_skb", Kind.SLAB, flags=1, variable=_SKB),
    EntryPoint("kmem_cache_alloc_bulk", Kind.SLAB, cache=0, flags=1, returns=False, bulk=True),
    # 6.18 on: into a sheaf, from which each is taken later
    EntryPoint("kmem_cache_prefill_sheaf", Kind.SLAB, cache=0, flags=1, returns=False, bulk=True),
    EntryPoint("kmem_cache_refill_sheaf", Kind.SLAB, cache=0, flags=1, returns=False, bulk=True),
    # mm/mempool.c: the function that hands out, the one that takes back, and their data
    EntryPoint("mempool_init", Kind.SLAB, cache=4, returns=False, filling=True),
    EntryPoint("mempool_init_node", Kind.SLAB, cache=4, returns=False, filling=True),
    EntryPoint("mempool_create", Kind.SLAB, cache=3, returns=False, filling=True),
    EntryPoint("mempool_create_node", Kind.SLAB, cache=3, returns=False, filling=True),
    EntryPoint("mempool_alloc", Kind.SLAB, flags=1, pool=0),
    *_pages(1, 0, "alloc_pages", "alloc_pages_current", "__get_free_pages", "__alloc_pages"),
    *_pages(1, 0, "__alloc_pages_nodemask", "__folio_alloc", "folio_alloc", "alloc_frozen_pages"),
    *_pages(1, 0, "__alloc_frozen_pages"),
    *_pages(1, 0, "get_free_pages"),
    *_pages(_NONE, 0, "get_zeroed_page"),
    *_pages(_NONE, 1, "alloc_pages_exact"),
    *_area(0, "vmalloc", "vzalloc", "__vmalloc", "vmalloc_user", "vmalloc_node", "vzalloc_node"),
    *_area(0, "vmalloc_32", "vmalloc_huge", "__vmalloc_node", "__vmalloc_node_range"),
    *_area(_NONE, "vmap", "ioremap", "ioremap_cache", "ioremap_wc", "vmap_pfn"),
)

ALLOCATING: tuple[EntryPoint, ...] = tuple(
    replace(
        entry,
        name=entry.name + suffix,
        returns=entry.returns and entry.name != "alloc_pages",
    )
    for entry in _UNTAGGED
    for suffix in ("", _NOPROF)
)

FREEING: tuple[EntryPoint, ...] = (
    *_free(0, "kfree", "kvfree", "kfree_sensitive", "kzfree", "kfree_const", "vfree", "vunmap"),
    *_free(0, "kfree_skb", "consume_skb", "__free_pages", "free_pages", "call_rcu", "kfree_rcu"),
    *_free(0, "kfree_call_rcu", "kvfree_call_rcu", "put_page", "kfree_skb_reason"),
    *_free(0, "call_rcu_hurry", "kvfree_sensitive", "kvfree_atomic", "kfree_nolock"),
    *_free(1, "mempool_free", "devm_kfree"),
    *_free_of("kmem_cache_free"),
)

CREATING = ("kmem_cache_create", "kmem_cache_create_usercopy", "__kmem_cache_create_args")
"""Functions that make a cache; its name is their first argument."""

LATER = ("call_rcu", "call_rcu_hurry")
"""Functions that have something freed later, by a function that they are given."""

LATER_BY_ITSELF = ("kfree_rcu", "kfree_call_rcu", "kvfree_call_rcu")
"""Functions that have something freed later, as kfree() frees it."""

KFREE = (
    *("kfree", "kvfree", "kfree_sensitive", "kzfree", "kfree_const", "devm_kfree"),
    *("kvfree_sensitive", "kvfree_atomic", "kfree_nolock"),
    *LATER_BY_ITSELF,
)
"""Functions that free what kmalloc() gave, of whatever size."""

# With CONFIG_SLAB_BUCKETS (6.11) a set of buckets, or NULL, follows the size; from 6.18 on what the
# memory is to be aligned to comes before the flags of those that may fall back to vmalloc().
_WITH_BUCKETS = ("__kmalloc_node", "__kmalloc_node_track_caller", "__kvmalloc_node")
_ALIGNED = ("__kvmalloc_node",)
BUCKETS, ALIGNING = "kmem_buckets_create", "kvrealloc_node_align_noprof"
"""Functions that came with those arguments."""


def flags_argument(entry: EntryPoint, buckets: bool, aligning: bool) -> int:
    """Which argument holds the gfp flags, on a kernel with or without buckets, or alignment."""
    base = entry.name.removesuffix(_NOPROF)
    if entry.name == base:
        return entry.flags
    return entry.flags + (buckets and base in _WITH_BUCKETS) + (aligning and base in _ALIGNED)
