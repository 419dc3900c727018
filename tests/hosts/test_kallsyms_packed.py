"""Names are packed in one way only, and a variable with a damaged name is not taken for absent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crashext.hosts.kallsyms import Kallsyms
from crashext.hosts.kallsyms_packed import PackedNames, Packing

PAIRS = {0xFF: "pc", 0xFE: "pu", 0xFD: "pcpu", 0xFC: "ad", 0xFB: "dr", 0xFA: "ma", 0xF9: "addr"}
PAIRS |= {0xF8: "se", 0xF7: "x_", 0xF6: "max_", 0xF5: "Dpcpu", 0xF4: "te", 0xF3: "pf"}
TOKENS = [PAIRS.get(code, chr(code)) for code in range(256)]
"""Each letter for itself, and pairs that were put together, the highest first."""
NAMES = ["pcpu_base_addr", "max_pfn", "slab_caches", "vmap_area_root"]
PACKING = Packing(TOKENS)


def table(forms: list[bytes], by_name: list[int] | None = None) -> Kallsyms:
    """Symbols sixteen bytes apart, packed so; `by_name` are their rows in order of names."""
    data, places = b"", []
    for form in forms:
        places.append(len(data))
        long = len(form) > 127
        data += bytes([0x80 | len(form) & 0x7F, len(form) >> 7] if long else [len(form)]) + form
    packed = PackedNames(data, np.array(places, np.int32), PACKING)
    if by_name is not None:
        packed = packed.in_order(b"".join(row.to_bytes(3, "big") for row in by_name))
    names = [packed.name(row)[1:] for row in range(len(forms))]
    addresses = 16 * np.arange(len(names), dtype=np.uint64)
    known = dict(zip(names, addresses.tolist(), strict=True))
    return Kallsyms(names, addresses, known, packed)


def flipped(form: bytes) -> list[bytes]:
    return [
        form[:at] + bytes([form[at] ^ 1 << bit]) + form[at + 1 :]
        for at in range(len(form))
        for bit in range(8)
    ]


def test_a_text_has_one_packed_form() -> None:
    assert PACKING.form("Dpcpu_base_addr") == b"\xf5_ba\xf8_\xf9"
    assert PACKING.form("bmax_pcp") == b"b\xf6\xffp"
    assert PACKING.text(PACKING.form("Bmax_pfn")) == "Bmax_pfn"
    with pytest.raises(ValueError, match="abc"):
        Packing([*TOKENS[:0xF0], "abc", *TOKENS[0xF1:]])  # of three parts


def test_what_is_packed_otherwise_is_strange() -> None:
    whole = [PACKING.form("B" + name) for name in NAMES]
    assert PACKING.strange(table(whole).packed.codes()) == 0
    for form, strange in ((b"Bpcx", 1), (b"Bpcp\xfe", 1), (b"B\xfd\xf9", 0), (b"D\xff\xfe", 1)):
        assert PACKING.strange(table([*whole, form]).packed.codes()) == strange


@pytest.mark.parametrize("row", range(len(NAMES)))
def test_every_flipped_bit_of_a_packed_name_is_found_out(row: int) -> None:
    whole = [PACKING.form("B" + name) for name in NAMES]
    name = NAMES[row]
    for form in flipped(whole[row]):
        found = table([*whole[:row], form, *whole[row + 1 :]])
        if name in found.by_name:  # nm's letter
            continue
        damaged = found.names[row]
        assert found.a_bit_apart(name, set) == damaged
        in_btf = frozenset((damaged,)).copy
        assert found.a_bit_apart(name, in_btf) == ""
        exported = {**found.by_name, f"__ksymtab_{damaged}": 0}
        assert replace(found, by_name=exported).a_bit_apart(name, set) == ""


def test_a_name_that_this_kernel_lacks_is_no_damage() -> None:
    found = table([PACKING.form("B" + name) for name in NAMES])
    for name in ("max_pgp", "pcpu_base_size", "kmalloc_noprof", "", "m"):
        assert found.a_bit_apart(name, set) == ""


def test_a_damaged_name_is_still_in_its_place_among_all() -> None:
    """Where the kernel keeps their order: another's would be elsewhere."""
    forms = [PACKING.form(text) for text in ("Bmix_low", "Bnix_high")]
    for order in ([0, 1], None):
        assert table(forms, order).a_bit_apart("mix_loq", set) == ""
        assert table(forms, order).a_bit_apart("mix_lnw", set) == "mix_low"
    assert table(forms, [0, 1]).a_bit_apart("oix_low", set) == ""
    assert table(forms).a_bit_apart("lix_low", set) == "mix_low"
    third = [*forms, PACKING.form("Blzx")]
    assert table(third, [2, 0, 1]).a_bit_apart("lix_low", set) == ""


def test_functions_and_what_macros_make_have_other_witnesses() -> None:
    for edges in (("_text", "_etext"), ("_sinittext", "_einittext")):
        for letter, code, found in (("T", 16, ""), ("T", 0, "max_pfm"), ("R", 16, "")):
            symbols = table([PACKING.form(letter + "max_pfm")])
            known = {**symbols.by_name, **dict(zip(edges, (0, code), strict=True))}
            assert replace(symbols, by_name=known).a_bit_apart("max_pfl", set) == found
    assert table([PACKING.form("Rmax_pfm")]).a_bit_apart("max_pfl", set) == "max_pfm"
    # Of 7.2: get_free_pages() was __get_free_pages(), whose name is a token away.
    assert table([PACKING.form("r__flags_pfm")]).a_bit_apart("__flags_pfl", set) == ""


def test_what_lies_outside_the_code_is_a_variable_whatever_its_letter() -> None:
    """7.2 has `T` of some; where code does not name those, they have been moved."""
    symbols = table([PACKING.form("Tmax_pfn"), PACKING.form("Tslab_caches")])
    known = {**symbols.by_name, "_text": 0, "_etext": 16}
    found = replace(symbols, by_name=known)
    assert not found.needs_witness("max_pfn")
    assert found.needs_witness("slab_caches")
    exported = replace(symbols, by_name={**known, "__ksymtab_slab_caches": 0})
    assert not exported.needs_witness("slab_caches")


@pytest.mark.parametrize(
    ("other", "alone"), [("__key.12", True), ("__end_once", True), ("pool", False)]
)
def test_a_key_of_locks_takes_no_room_from_the_variable_that_is_there(
    other: str, alone: bool
) -> None:
    symbols = table([PACKING.form(f"b{name}") for name in (other, "slab_caches")])
    both = np.zeros(2, np.uint64)
    found = replace(symbols, addresses=both, by_name=dict.fromkeys((other, "slab_caches"), 0))
    assert found.is_alone("slab_caches") == alone


def test_long_names_have_two_bytes_of_length() -> None:
    long = "B" + "a" * 200
    found = table([PACKING.form(long), PACKING.form("Bend")])
    assert found.names == [long[1:], "end"]
    assert (found.packed.codes() == 257).sum() == 1
    assert found.a_bit_apart("a" * 199 + "c", set) == long[1:]
