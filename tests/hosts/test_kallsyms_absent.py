"""A symbol with a damaged name is not taken for one that the kernel lacks."""

from __future__ import annotations

import string
from dataclasses import replace

import numpy as np
import pytest

from crashext.hosts.kallsyms import Kallsyms
from crashext.hosts.kallsyms_absent import PackedNames

TOKENS = [chr(i) if chr(i) in string.printable else "" for i in range(256)]
TOKENS[0x80:0x88] = ["pcpu_", "base_", "ad", "dr", "Dpc", "max_pfn", "Bma", "x_pfn"]
NAMES = {  # packed by hand, nm's letter first
    "pcpu_base_addr": bytes([*b"D", 0x80, 0x81, 0x82, 0x83]),
    "max_pfn": bytes([*b"B", 0x85]),
    "slab_caches": b"Dslab_caches",
    "vmap_area_root": b"Bvmap_area_root",
}


def table(**damaged: bytes) -> Kallsyms:
    """Symbols in the order of `NAMES`, some of them packed otherwise."""
    rows = [damaged.get(name, packed) for name, packed in NAMES.items()]
    data, places = b"", []
    for row in rows:
        places.append(len(data))
        data += bytes([len(row)]) + row
    packed = PackedNames(data, np.array(places, np.int32), TOKENS)
    names = [packed.text(row) for row in rows]
    addresses = 16 * np.arange(len(names), dtype=np.uint64)
    return Kallsyms(names, addresses, dict(zip(names, addresses.tolist(), strict=True)), packed)


@pytest.mark.parametrize("name", NAMES)
def test_every_flipped_bit_of_a_packed_name_is_found_out(name: str) -> None:
    packed = NAMES[name]
    for at in range(len(packed)):
        for bit in range(8):
            other = packed[:at] + bytes([packed[at] ^ 1 << bit]) + packed[at + 1 :]
            found = table(**{name: other})
            if name in found.by_name or not found.packed.is_variable(other):  # nm's letter
                continue
            damaged = found.packed.text(other)
            assert found.a_bit_apart(name, set) == damaged
            in_btf = frozenset((damaged,)).copy  # BTF has it, too
            assert found.a_bit_apart(name, in_btf) == ""
            with_export = {**found.by_name, f"__ksymtab_{damaged}": 0}
            assert replace(found, by_name=with_export).a_bit_apart(name, set) == ""


def test_a_name_that_this_kernel_lacks_is_no_damage() -> None:
    found = table()
    # Letters alone may be a bit apart where these are packed in other tokens.
    for name in ("max_pfx", "pcpu_base_size", "kmalloc_noprof", "", "m"):
        assert found.a_bit_apart(name, set) == ""


def test_functions_and_what_macros_make_have_other_witnesses() -> None:
    function = table(max_pfn=b"Tmax_pfm")
    assert function.a_bit_apart("max_pfl", set) == ""
    assert table(max_pfn=b"Rmax_pfm").a_bit_apart("max_pfl", set) == "max_pfm"
    # Of 7.2: get_free_pages() was __get_free_pages(), whose name is a token away.
    assert table(max_pfn=b"r__flags_pfm").a_bit_apart("__flags_pfl", set) == ""


def test_long_names_have_two_bytes_of_length() -> None:
    long = b"T" + b"a" * 200
    data = bytes([0x80 | len(long) & 0x7F, len(long) >> 7]) + long
    packed = PackedNames(data, np.zeros(1, np.int32), TOKENS)
    assert packed.of_row(0) == long
    assert packed.text(long) == "a" * 200
