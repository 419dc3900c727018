"""One stack has one culprit, whether it comes from a dump's memory or from a proc file."""

from __future__ import annotations

import pytest

from crashext.allocators import beyond_helpers
from crashext.analysis.origin.sites import FrameNames
from crashext.procfs.stacks import origin, parse_frames
from tests.fake import FakeHost

TEXT = 0xFFFFFFFF81000000

STACKS = {
    "kmalloc_trace devm_kmalloc my_probe really_probe": "my_probe",
    "kmem_cache_alloc mempool_alloc_slab mempool_alloc bio_alloc_bioset": "bio_alloc_bioset",
    "__vmalloc_node_range vmap i915_gem_object_pin_map": "i915_gem_object_pin_map",
    "__kmalloc_node_track_caller kmalloc_reserve __alloc_skb alloc_skb_with_frags "
    "sock_alloc_send_pskb unix_dgram_sendmsg": "unix_dgram_sendmsg",
    "kmem_cache_alloc __alloc_file alloc_empty_file path_openat": "path_openat",
    "__alloc_pages_noprof alloc_pages_mpol_noprof folio_alloc_noprof leak": "leak",
    "new_slab.isra.0 ___slab_alloc.constprop.0 kmem_cache_alloc d_alloc": "d_alloc",
    "kmem_cache_alloc alloc_buffer_head alloc_page_buffers": "alloc_buffer_head",
}


@pytest.mark.parametrize(("stack", "culprit"), STACKS.items())
def test_a_stack_has_one_culprit_from_every_source(stack: str, culprit: str) -> None:
    functions = stack.split()
    printed = origin(parse_frames([f"{f}+0x8/0x10" for f in functions]))
    assert printed is not None
    assert printed.symbol == culprit
    symbols = {f: TEXT + 16 * i for i, f in enumerate(functions)}
    site = FrameNames(FakeHost(symbols=symbols)).site(tuple(a + 8 for a in symbols.values()))
    assert site.function == culprit


def test_helpers_alone_are_nobody() -> None:
    assert beyond_helpers(["kmalloc_trace", "__alloc_skb"]) is None
    assert beyond_helpers([]) is None
