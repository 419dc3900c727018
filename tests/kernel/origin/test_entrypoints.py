"""Which argument of an allocator is which, by version of the kernel."""

from __future__ import annotations

import pytest

from crashext.kernel.origin.entrypoints import ALLOCATING, flags_argument

BY_NAME = {entry.name: entry for entry in ALLOCATING}


@pytest.mark.parametrize(
    ("name", "buckets", "aligning", "argument"),
    [
        ("kvmalloc_node", False, False, 1),  # 6.1
        ("__kvmalloc_node_noprof", True, False, 2),  # 6.12: size, buckets, flags
        ("__kvmalloc_node_noprof", True, True, 3),  # 6.18: size, buckets, alignment, flags
        ("__kvmalloc_node_noprof", False, True, 2),  # without buckets
        ("__kmalloc_node_noprof", True, True, 2),
        ("__kmalloc_noprof", True, True, 1),
        ("kmem_cache_alloc_lru_noprof", True, True, 2),
    ],
)
def test_where_the_gfp_flags_are(name: str, buckets: bool, aligning: bool, argument: int) -> None:
    """An alignment of 1, taken for flags, is the bit that asks for DMA: none of them was known."""
    assert flags_argument(BY_NAME[name], buckets, aligning) == argument
