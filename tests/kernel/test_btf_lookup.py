"""A few types looked up in BTF: the same as when all of it is taken apart."""

from __future__ import annotations

import struct

import pytest

from crashext.kernel.btf import Btf
from crashext.kernel.btf_layouts import BtfLayouts
from crashext.kernel.btf_lookup import BtfLookup
from crashext.kernel.btf_memory import read_blobs
from crashext.kernel.btf_types import BtfKind
from tests.conftest import lab_host
from tests.kernel.btfmaker import blob, kind_of


def test_every_tenth_struct_of_a_kernel_is_the_same() -> None:
    found = read_blobs(lab_host("default"))
    assert found is not None
    all_types, lookup = Btf(found[0]), BtfLookup(found[0])
    whole = BtfLayouts(all_types)
    names = [f"struct {name}" for name in all_types.named(BtfKind.STRUCT)][::10]
    assert len(names) > 500
    assert [lookup.layout(name) for name in names] == [whole.layout(name) for name in names]
    for name in ("KERNFS_LINK", "KERNFS_DIR", "NR_FREE_PAGES", "no_such_enumerator"):
        assert lookup.enumerator(name) == whole.enumerator(name), name


INT = kind_of(1, BtfKind.INT, 0, 8, 64)
"""Called "a"."""
TEXT = b"\0a\0b\0c\0"


def test_what_is_not_there_is_none() -> None:
    lookup = BtfLookup(blob(INT, TEXT))
    assert lookup.layout("struct a") is None  # an integer's name
    assert lookup.layout("struct c") is None  # nobody's
    assert lookup.layout("struct no") is None
    assert lookup.layout("a") is None
    assert lookup.enumerator("a") is None


def test_the_name_of_a_member_is_not_its_struct_s() -> None:
    inner = kind_of(0, BtfKind.UNION, 1, 8, 3, 1, 0)  # union {a c;}
    outer = kind_of(3, BtfKind.STRUCT, 2, 16, 5, 1, 0, 0, 2, 64)  # struct b {a c; union;}
    lookup = BtfLookup(blob(INT + inner + outer, TEXT))
    found = lookup.layout("struct b")
    assert found is not None
    assert (found.size, {n: m.offset for n, m in found.members.items()}) == (16, {"c": 0, "b": 8})
    assert lookup.layout("struct c") is None


def test_what_follows_damage_is_not_found() -> None:
    bad = struct.pack("<III", 0, 31 << 24, 0)
    lookup = BtfLookup(blob(INT + bad + kind_of(3, BtfKind.STRUCT, 0, 16), TEXT))
    assert lookup.layout("struct b") is None


@pytest.mark.parametrize("data", [b"", bytes(24), blob(INT, TEXT)[:-1]])
def test_what_is_no_btf_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no BTF data"):
        BtfLookup(data)
