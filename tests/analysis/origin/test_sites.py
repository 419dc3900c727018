"""Which frame of a stack asked for the memory."""

from __future__ import annotations

import pytest

from crashext.allocators import allocates_for_others
from crashext.analysis.origin.sites import FrameNames
from crashext.hosts.base import Module
from tests.fake import FakeHost

TEXT = 0xFFFFFFFF81000000


@pytest.mark.parametrize(
    "function",
    [
        *("kmalloc_trace", "__kmalloc", "__kmalloc_node_track_caller", "kmem_cache_alloc"),
        *(
            "kmem_cache_alloc_lru",
            "__kmem_cache_alloc_node",
            "___slab_alloc",
            "__slab_alloc.isra.0",
        ),
        *("kmem_cache_alloc_noprof", "__kmalloc_cache_noprof", "slab_alloc_node.constprop.0"),
        *("new_slab", "allocate_slab", "alloc_slab_page", "kmem_cache_alloc_trace"),
        *("__alloc_pages", "get_page_from_freelist", "alloc_pages", "alloc_page_interleave"),
        *("__get_free_pages", "post_alloc_hook", "__alloc_frozen_pages_noprof", "kvmalloc_node"),
        *("kmemdup", "kstrdup", "kstrdup_const", "memdup_user_nul", "kasprintf", "krealloc"),
        *("devm_kmalloc", "kmemleak_alloc", "__set_page_owner", "save_stack", "mempool_alloc"),
        *("kmem_cache_prefill_sheaf", "kmem_cache_refill_sheaf"),
        *("__vmalloc_node_range", "vzalloc", "vmalloc", "kvmalloc_node_noprof", "vmap"),
        *("__alloc_skb", "kmalloc_reserve", "alloc_skb_with_frags", "__netdev_alloc_skb"),
        *("alloc_empty_file", "__alloc_file", "__napi_alloc_skb", "sock_alloc_send_pskb"),
    ],
)
def test_functions_that_allocate_for_others(function: str) -> None:
    assert allocates_for_others(function)


@pytest.mark.parametrize(
    "function",
    [
        *("alloc_inode", "d_alloc", "copy_process", "alloc_page_buffers", "alloc_fdtable"),
        *("ext4_alloc_inode", "leaklab_leak_nodes", "bio_alloc_bioset"),
        *("sock_alloc_inode", "sk_prot_alloc", "security_task_alloc", "my_kmalloc", "", "alloc_fs"),
        *("alloc_workqueue", "prepare_creds", "__kernfs_new_node", "pskb_expand_head"),
    ],
)
def test_functions_that_allocate_for_themselves(function: str) -> None:
    assert not allocates_for_others(function)


def names(**symbols: int) -> FrameNames:
    modules = (Module("bond", ((TEXT + 0x10000, TEXT + 0x20000),)),)
    return FrameNames(FakeHost(symbols=symbols, modules=modules))


def test_the_site_is_the_first_frame_that_is_not_the_allocators() -> None:
    known = names(kmalloc_trace=TEXT, d_alloc=TEXT + 8, vfs_create=TEXT + 16)
    stack = (TEXT + 4, TEXT + 12, TEXT + 20)
    assert known.site(stack).site == "d_alloc+0x4"
    # Nothing but the allocator: its own frame is all there is.
    assert known.site(stack[:1]).site == "kmalloc_trace+0x4"


def test_a_call_that_ends_its_function_is_still_in_it() -> None:
    """The return address of a call to a function that never returns is the next function's."""
    known = names(leak=TEXT, innocent=TEXT + 8)
    assert known.frame(TEXT + 8).text == "leak+0x8"


def test_an_address_without_a_name_still_has_a_module() -> None:
    known = names()
    assert known.frame(TEXT + 0x10008).text == f"{TEXT + 0x10008:#x} [bond]"
    assert known.frame(TEXT + 0x30008).text == f"{TEXT + 0x30008:#x}"
    assert known.site((TEXT + 0x10008,)).module == "bond"
