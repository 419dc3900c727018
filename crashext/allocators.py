"""The kernel's functions that allocate for whoever calls them: one list for every kind of stack.

A stack of an allocation begins inside kmalloc() or the page allocator, and often goes on through
helpers that have no purpose of their own (an skb's or a file's memory). Who asked is the first
function beyond them, whether the stack comes from a dump, a proc file or a log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_HELPER = re.compile(
    r"""_{0,4}(?:
    # slab, and what wraps it
      (?:do_)?kv?(?:[mzc](?:re)?|re)alloc\w* | kmem_cache_z?alloc\w* | kmem_alloc_\w+_node
    | kmem_getpages | slab_(?:post_)?alloc\w* | do_slab_alloc | allocate_slab | new_slab\w*
    | alloc_slab_page | get_partial\w* | refill_objects\w* | alloc_from_pcs\w*
    | alloc_from_new_slab\w* | cache_alloc(?:_refill)? | cache_grow\w* | fallback_alloc
    | kmem_cache_(?:pre|re)fill_sheaf
    | k(?:mem|str)n?dup\w* | v?memdup_user\w* | strndup_user | kv?asprintf\w*
    | devm_k\w*alloc\w* | devm_k(?:mem|str)dup\w* | devm_kv?asprintf\w* | devres_alloc\w*
    | mempool_(?:\w*alloc|init|create)\w* | napi_skb_cache_get
    # pages
    | alloc_(?:frozen_)?pages?(?!_buffers)\w* | folio_alloc\w* | get_free_pages?\w*
    | get_zeroed_page\w* | get_page_from_freelist | prep_new_page | post_alloc_hook
    | (?:dma_)?generic_alloc\w* | dma_(?:direct_)?alloc\w*
    | page_frag_alloc\w* | v(?:[mz]|re)alloc\w* | vmap\w*
    # memory of an skb, a socket option, a struct file: for any protocol, any file
    | alloc_skb\w* | (?:netdev|napi)_alloc_(?:skb|frag)\w* | (?:slab_)?build_skb\w*
    | sock_alloc_send_p?skb | sock_[wo]malloc | sock_kz?malloc
    | alloc_file\w* | alloc_empty_(?:\w+_)?file\w*
    # those who take the note
    | set_track\w* | save_stack\w* | stack_trace_save\w* | stack_depot_save\w* | dump_stack\w*
    | traceiter_\w+ | trace_event_raw_event_\w+ | perf_trace_\w+ | bpf_trace_run\w*
    | set_page_owner\w* | kmemleak_(?:alloc|vmalloc)\w* | create_object | log_early
    | link_alloc\w* | kasan_\w+
    )""",
    re.ASCII | re.VERBOSE,
)
# Compilers split functions, and 6.10 made the allocator's macros (7bd230a26648).
_SUFFIX = re.compile(r"(?:_noprof|\.(?:isra|constprop|part|cold|llvm)(?:\.\d+)?|\.\d+)+$")


def allocates_for_others(function: str) -> bool:
    """Whether `function` is the allocator's or wraps it, whoever calls it."""
    return _HELPER.fullmatch(_SUFFIX.sub("", function)) is not None


def beyond_helpers(functions: Iterable[str]) -> int | None:
    """The place of the first function, innermost first, that asked for the memory.

    None where there is none but helpers.
    """
    return next((i for i, f in enumerate(functions) if not allocates_for_others(f)), None)
