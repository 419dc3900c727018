"""Names of types without taking BTF apart: the same as when that is done."""

from __future__ import annotations

import struct

import pytest

from crashext.kernel.btf import Btf
from crashext.kernel.btf_memory import read_blobs
from crashext.kernel.btf_names import type_names
from crashext.kernel.btf_types import BtfKind
from tests.conftest import lab_host
from tests.kernel.btfmaker import blob, kind_of


def test_names_of_a_kernel_and_its_modules_are_the_same() -> None:
    blobs = read_blobs(lab_host("default"))
    assert blobs is not None
    whole, found = Btf(*blobs), type_names(blobs[0], [data for _, data in blobs[1]])
    assert list(found.structs) == list(whole.named(BtfKind.STRUCT))
    assert list(found.unions) == list(whole.named(BtfKind.UNION))
    assert found.typedefs == set(whole.named(BtfKind.TYPEDEF))
    assert "leaklab_node" in found.structs
    for name in ("task_struct", "struct  leaklab_node", f"union {found.unions[0]}", "pid_t"):
        assert found.wrong(name) == ""
    assert found.wrong("struct dentri").startswith("this kernel has no struct dentri: did you mean")
    assert found.wrong("union task_struct") != ""
    assert found.wrong("comm") != ""  # a member's name


TEXT = b"\0one\0two\0a b\0"
STRUCT = kind_of(1, BtfKind.STRUCT, 0, 8)


def test_a_module_s_names_may_be_the_kernel_s_strings() -> None:
    kernel = blob(STRUCT, TEXT)
    module = kind_of(5, BtfKind.UNION, 0, 8) + kind_of(len(TEXT) + 1, BtfKind.TYPEDEF, 0, 1)
    found = type_names(kernel, [blob(module, b"\0mine\0")])
    assert (found.structs, found.unions) == (("one",), ("two",))
    assert found.typedefs == {"mine"}


@pytest.mark.parametrize(
    "types",
    [
        struct.pack("<III", 1, 31 << 24, 0),  # of no known kind
        STRUCT + kind_of(1, BtfKind.STRUCT, 1, 8),  # cut off before its member
        STRUCT + struct.pack("<I", 1),  # cut off behind its name
        kind_of(9, BtfKind.STRUCT, 0, 8),  # "a b"
        kind_of(99, BtfKind.STRUCT, 0, 8),  # nowhere
    ],
)
def test_damage_is_told(types: bytes) -> None:
    with pytest.raises(ValueError, match="a "):
        type_names(blob(types, TEXT), [])
