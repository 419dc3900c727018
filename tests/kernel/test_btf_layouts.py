"""Layouts out of the dump's own BTF are those of vmlinux's DWARF."""

from __future__ import annotations

import pytest

from crashext.kernel.btf_layouts import CarriedTypes
from tests.conftest import lab_host

STRUCTURES = (
    "struct page",  # nested anonymous unions
    "struct task_struct",  # bit fields
    "struct kmem_cache",
    "struct super_block",
    "struct sk_buff",
    "struct pglist_data",
    "struct vmap_area",
    "union handle_parts",  # nothing but bit fields
    "pg_data_t",  # a typedef
)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_layout_is_dwarfs(name: str) -> None:
    host = lab_host("default")
    assert CarriedTypes(host).layout(name) == host.layout(name)


@pytest.mark.parametrize("name", ["PG_slab", "NR_SLAB_RECLAIMABLE_B", "MIGRATE_MOVABLE"])
def test_an_enumerator_is_dwarfs(name: str) -> None:
    host = lab_host("default")
    assert CarriedTypes(host).enumerator(name) == host.enumerator(name) is not None


def test_what_the_kernel_has_not_is_none() -> None:
    types = CarriedTypes(lab_host("default"))
    assert types.known
    assert types.layout("struct no_such_struct") is None
    assert types.enumerator("NO_SUCH_ENUMERATOR") is None


def test_a_struct_of_a_module() -> None:
    types = CarriedTypes(lab_host("default"))
    assert types.layout("struct leaknode") == lab_host("default").layout("struct leaknode")
