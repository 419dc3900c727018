"""Layouts out of the dump's own BTF are those of vmlinux's DWARF."""

from __future__ import annotations

import pytest

from crashext.hosts.base import Layout
from crashext.kernel.btf_layouts import CarriedTypes
from tests.conftest import lab_host
from tests.fake import FakeHost, layout
from tests.kernel.btfmaker import btf_of

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
    assert CarriedTypes(host).layout(name) == host.debug_layout(name)


@pytest.mark.parametrize("name", ["PG_slab", "NR_SLAB_RECLAIMABLE_B", "MIGRATE_MOVABLE"])
def test_an_enumerator_is_dwarfs(name: str) -> None:
    host = lab_host("default")
    assert CarriedTypes(host).enumerator(name) == host.debug_enumerator(name) is not None


def test_what_the_kernel_has_not_is_none() -> None:
    types = CarriedTypes(lab_host("default"))
    assert types.known
    assert types.layout("struct no_such_struct") is None
    assert types.enumerator("NO_SUCH_ENUMERATOR") is None


def test_a_struct_of_a_module() -> None:
    types = CarriedTypes(lab_host("default"))
    assert types.layout("struct leaknode") == lab_host("default").debug_layout("struct leaknode")


class Alone(FakeHost):
    """Knows of types what its own memory says."""

    def __init__(self, with_list: bool) -> None:
        super().__init__()
        data = btf_of([layout("struct page", 64, flags=(0, 8))], {"PG_slab": 9})
        self.put(0x1000, data)
        self.symbols = {"__start_BTF": 0x1000, "__stop_BTF": 0x1000 + len(data)}
        if with_list:
            self.symbols["btf_modules"] = 0x9000
        self.types = CarriedTypes(self)

    def layout(self, type_name: str) -> Layout | None:
        return self.types.layout(type_name)


@pytest.mark.parametrize("with_list", [False, True])
def test_a_kernel_whose_modules_have_no_types_of_their_own(with_list: bool) -> None:
    """Until 5.11, or without struct btf_module: whoever reads the modules' asks for it."""
    host = Alone(with_list)
    assert host.layout("struct no_such_struct") is None
    known = host.layout("struct page")
    assert known is not None
    assert known.size == 64
