"""Symbols of modules from the dump alone: their table as load_module() leaves it, and damaged."""

from __future__ import annotations

import struct
from collections.abc import Callable

import drgn
import numpy as np
import pytest

from crashext.hosts import modulesymbols_places
from crashext.hosts.bare import BareHost
from crashext.hosts.base import Module
from crashext.hosts.drgn_modules import LoadedSymbols
from crashext.hosts.modulelist import module_list
from crashext.hosts.modulesymbols import ModuleSymbols, module_symbols
from crashext.hosts.modulesymbols_names import (
    a_bit_from,
    no_name,
    out_of_order,
    strange_chain,
    without_its_own,
)
from crashext.hosts.modulesymbols_places import Piece, Places
from crashext.kernel.btf_layouts import CarriedTypes
from tests.conftest import few, lab_dump
from tests.fake import FakeHost, layout, word

MODULE, KALLSYMS, SYMBOLS, STRINGS = (0xFFFFFFFFC0001000 + 0x1000 * i for i in range(4))
START = 0xFFFFFFFFC0000000
LOCAL, GLOBAL = 0x02, 0x12  # st_info: a function of that binding
LOADED = Module("bond", ((START, START + 0x1000),))
SYMTAB = (
    ("bond_open", LOCAL, 0x40),
    ("bond_exit", LOCAL, 0x80),
    ("cleanup_module", GLOBAL, 0x80),
    ("bond_xmit", GLOBAL, 0x100),
)


def symbols(letters: str = "", size: int = 0x20) -> ModuleSymbols:
    """What is read of `SYMTAB`; nm's `letters` in place of st_info, as before 5.2."""
    host = FakeHost(
        layout("struct module", 64, kallsyms=(16, 8)),
        layout("struct mod_kallsyms", 24, symtab=(0, 8), num_symtab=(8, 4), strtab=(16, 8)),
    )
    host.put(MODULE, bytes(16) + word(KALLSYMS) + bytes(40))
    host.put(KALLSYMS, word(SYMBOLS, len(SYMTAB), STRINGS))
    strings, table = b"\0", b""
    for i, (name, info, at) in enumerate(SYMTAB):
        info = ord(letters[i]) if letters else info
        table += struct.pack("<IBBHQQ", len(strings), info, 0, 1, START + at, size)
        strings += name.encode() + b"\0"
    host.put(SYMBOLS, table)
    host.put(STRINGS, strings)
    return module_symbols(host, MODULE, LOADED)


@pytest.mark.parametrize("letters", ["", "tttt"], ids=["5.2", "before"])
def test_of_two_that_share_an_address_the_global_one_is_known(letters: str) -> None:
    found = list(symbols(letters))
    assert symbols(letters).at(START + 0x9F) == found[1:3]
    assert [s.symbol.name for s in found] == [name for name, _, _ in SYMTAB]
    assert [s.symbol.address - START for s in found] == [at for _, _, at in SYMTAB]
    assert [s.is_global for s in found if s.symbol.address == START + 0x80] == [False, True]


def test_bindings_are_those_of_elf_where_it_still_has_them() -> None:
    assert [s.is_global for s in symbols()] == [False, False, True, True]


def test_an_address_is_in_the_symbols_that_cover_it() -> None:
    found = symbols()
    assert [s.symbol.name for s in found.at(START + 0x40)] == ["bond_open"]
    assert found.at(START + 0x60) == []
    assert symbols(size=0).at(START + 0x40) == []


def test_a_symbol_is_found_by_its_whole_name() -> None:
    found = symbols().named("bond_xmit")
    assert found is not None
    assert found.symbol.address == START + 0x100
    assert symbols().named("bond") is None
    assert symbols().named("bond_close") is None


def test_strings_without_an_end_are_left() -> None:
    host = FakeHost(
        layout("struct module", 64, kallsyms=(16, 8)),
        layout("struct mod_kallsyms", 24, symtab=(0, 8), num_symtab=(8, 4), strtab=(16, 8)),
    )
    host.put(MODULE, bytes(16) + word(KALLSYMS) + bytes(40))
    host.put(KALLSYMS, word(SYMBOLS, 1, STRINGS))
    host.put(SYMBOLS, struct.pack("<IBBHQQ", 0, GLOBAL, 0, 1, START, 0x20))
    host.put(STRINGS, b"x" * 0x1000)
    (found,) = module_symbols(host, MODULE, LOADED)
    assert len(found.symbol.name) <= 512


# Those of virtio_ring.ko, as GNU ld 2.40 has put them.
LINKED = [
    *(b"virtqueue_dma_mapping_error", b"virtqueue_enable_cb_prepare", b"vring_transport_features"),
    *(b"virtqueue_enable_cb", b"virtqueue_detach_unused_buf", b"virtqueue_is_broken"),
    *(b"virtqueue_poll", b"virtqueue_resize", b"virtqueue_get_avail_addr", b"__this_module"),
    *(b"vring_create_virtqueue", b"virtqueue_get_buf_ctx", b"vring_interrupt"),
]


def test_names_follow_one_another() -> None:
    names = [b"", b"one", b"three"]
    assert not strange_chain(np.array([0, 1, 5], np.uint32), names)
    assert strange_chain(np.array([0, 1, 6], np.uint32), names)
    assert strange_chain(np.array([0, 3, 7], np.uint32), names)
    # One that the kernel cut says where the next would have been.
    assert not strange_chain(np.array([0, 1, 400], np.uint32), [b"", b"x" * 127, b"y"])


def test_what_is_no_name() -> None:
    assert no_name([b"init_module", b".LC1", b"x.isra.0", b"$d", b".L14472\x021"]) == ""
    assert no_name([b"one", b"tw}o"]) == "tw}o"
    assert no_name([b"a\x021"]) == "a\x021"


def test_parts_are_not_there_without_their_wholes() -> None:
    assert without_its_own({"run", "__pfx_run", "run.cold", "run.cold.3"}) == ""
    assert without_its_own({"ruo", "__pfx_run"}) == "__pfx_run"
    assert without_its_own({"ruo", "run.cold"}) == "run.cold"


def test_a_function_that_types_have_is_there_or_a_bit_away() -> None:
    assert a_bit_from({"leak_pages", "parts"}, {"leak_pages"}) == ""
    assert a_bit_from({"deak_pages", "parts"}, {"leak_pages"}) == "deak_pages"
    assert a_bit_from({"leak_qages.isra.0"}, {"leak_pages"}) == "leak_qages.isra.0"
    assert a_bit_from({"other"}, {"freed_at_once"}) == ""  # an initialiser
    assert a_bit_from({"vp_del", "vp_dem"}, {"vp_dem", "vp_del", "vp_deo"}) == ""


def test_a_global_name_that_is_not_in_its_linkers_order_is_damaged() -> None:
    assert not out_of_order(LINKED)
    for at, other in ((1, b"virtqueue_enable_cb_prepara"), (6, b"virtqueue_polm")):
        assert out_of_order([*LINKED[:at], other, *LINKED[at + 1 :]])


def test_the_order_of_another_linker_is_none() -> None:
    assert not out_of_order(sorted(LINKED))
    assert not out_of_order(LINKED[::-1])
    assert not out_of_order(LINKED[3::-1])  # few are so by chance


def test_names_in_no_linkers_order_are_not_taken_for_one_out_of_it() -> None:
    """lld's: in runs that ascend as often as chance has it, and none of them is out of place."""
    names = [b"driver_%d" % i for i in range(2000)]
    assert not any(out_of_order(names[at : at + 11]) for at in range(0, len(names), 3))


def placed(
    *rows: tuple[int, int, int, bool], text: bytes = b"", named: tuple[bytes, ...] = ()
) -> Places:
    """Symbols of offset, size, section, and whether it is code."""
    entries = np.zeros(len(rows), [("value", "<u8"), ("size", "<u8"), ("section", "<u2")])
    for i, (at, size, section, _) in enumerate(rows):
        entries[i] = (START + at, size, section)
    code = np.array([is_code for *_, is_code in rows], np.bool_)
    names = named or [b"symbol_%d" % i for i in range(len(rows))]
    return Places(entries, names, code, [Piece(START, text)] if text else ())


def test_symbols_over_one_another_are_one_thing_or_damaged() -> None:
    whole = placed((0, 16, 1, True), (16, 16, 1, True), (16, 16, 1, True), (0x1000, 8, 2, False))
    assert (whole.overlap(), whole.astray()) == (None, None)
    assert placed((0, 16, 1, True), (8, 16, 1, True)).overlap() == 1
    assert placed((0, 64, 1, True), (16, 16, 1, True)).overlap() == 1
    assert placed((0, (1 << 64) - 8, 1, True)).overlap() == 0


def test_a_symbol_among_those_of_another_section_is_astray() -> None:
    rows = [(0, 16, 1, True), (16, 16, 1, True), (0x100, 8, 2, False), (0x108, 8, 2, False)]
    assert placed(*rows, (0x20, 8, 2, False), (0x30, 16, 1, True)).astray() == 4
    assert placed(*rows).outside([(START, START + 0x200)]) is None
    assert placed(*rows).outside([(START, START + 0x10C)]) == 3
    assert placed(*rows).outside([]) is not None


def test_tags_of_allocations_are_in_memory_of_their_own() -> None:
    rows = [(0, 16, 1, True), (0x90000, 40, 2, False), (0x90028, 40, 2, False)]
    areas = [(START, START + 0x200)]
    tags = (b"run", b"_alloc_tag.12", b"run._alloc_tag")  # GNU's name, and clang's
    assert placed(*rows, named=tags).outside(areas) is None
    assert placed(*rows, named=(b"run", b"_alloc_tag", b"tags")).outside(areas) == 2


TEXT = bytes.fromhex("554889e55dc3").ljust(16, b"\xcc") * 2 + b"\x90" * 16 + b"\x55" * 15 + b"\xc3"


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ([(0, 6, 1, True), (16, 6, 1, True), (48, 16, 1, True)], None),
        ([(0, 6, 1, True), (18, 6, 1, True), (48, 16, 1, True)], 1),  # two bytes too late
        ([(0, 6, 1, True), (0, 6, 1, True), (48, 16, 1, True)], 0),  # onto its neighbour
        ([(0, 6, 1, True), (16, 2, 1, True), (48, 16, 1, True)], 1),  # cut
        ([(0, 6, 1, True), (48, 16, 1, True)], None),  # one that has no symbol
    ],
)
def test_what_is_between_functions_is_padding(
    rows: list[tuple[int, int, int, bool]], wrong: int | None
) -> None:
    assert placed(*rows, text=TEXT).displaced(frozenset()) == wrong


def test_where_nothing_is_padding_few_places_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of garbage, or what another compiler puts there."""
    tried = []
    monkeypatch.setattr(modulesymbols_places, "_MOST_TRIED", 64 * 300 * 2)
    monkeypatch.setattr(Places, "_came_from", lambda *_: tried.append(_))
    rows = [(64 * i, 32, 1, True) for i in range(300)]
    assert placed(*rows, text=b"\xc3" * 64 * 300).displaced(frozenset()) is None
    assert len(tried) == 2


def test_of_two_variables_in_one_place_one_was_moved_there() -> None:
    words = word(0, 0, START + 0x10, 0)
    rows = [(0, 8, 1, False), (8, 8, 1, False), (24, 8, 1, False), (24, 8, 1, False)]
    words = word(0, START + 0x10, 0, 0)
    assert placed(*rows, text=words).displaced(frozenset()) == 2
    assert placed(*rows, text=words).displaced(frozenset({1})) is None
    assert placed(*rows, text=word(0, 0, 0, 0)).displaced(frozenset()) is None


@few
def leaking(name: str) -> tuple[BareHost, Callable[[int], None], int, int]:
    """A dump without debug info; what sets one byte of leaklab's table to another; the table, and
    how many entries it has.
    """
    program = drgn.Program()
    program.set_core_dump(str(lab_dump(name).vmcore))
    host = BareHost(program, "vmcore")
    host.prefer(CarriedTypes(host, alone=True))
    found, kallsyms = host.layout("struct module"), host.layout("struct mod_kallsyms")
    assert found is not None
    assert kallsyms is not None
    at = next(at for at, module in module_list(host) if module.name == "leaklab")
    table = int.from_bytes(host.read(at + found["kallsyms"].offset, 8), "little")
    row = host.read(table, kallsyms.size)
    symtab, strtab, typetab, count = (
        int.from_bytes(row[kallsyms[m].offset :][: kallsyms[m].size], "little")
        for m in ("symtab", "strtab", "typetab", "num_symtab")
    )
    assert strtab == symtab + 24 * count
    data = bytearray(host.read(symtab, typetab - symtab))

    def part(address: int, size: int, offset: int, physical: bool) -> bytes:
        return bytes(data[address - symtab :][:size])

    def flip(bit: int) -> None:
        data[bit // 8] ^= 1 << bit % 8

    program.add_memory_segment(symtab, len(data), part, False)
    return host, flip, symtab, count


FUNCTION = "leaklab_leak_pages"


@pytest.mark.parametrize("name", ["default", "default@bullseye", "default@sid"])
def test_a_flipped_bit_costs_a_modules_names_and_gives_no_wrong_one(name: str) -> None:
    """Of a function's name and place: it is found out, or what is shown stays the same. 5.10 has no
    types of modules: of a global name only its place in the linker's order tells there.
    """
    host, flip, symtab, count = leaking(name)
    at, module = next(found for found in module_list(host) if found[1].name == "leaklab")
    functions = CarriedTypes(host).module_functions("leaklab")

    def symbols() -> ModuleSymbols:
        return module_symbols(host, at, module, lambda: functions)

    whole = symbols()
    assert whole.damage == ""
    shown = whole.named(FUNCTION)
    assert shown is not None
    entries = np.frombuffer(host.read(symtab, 24 * count), "<u4").reshape(-1, 6)
    row = int(np.flatnonzero(entries[:, 2] == shown.symbol.address & 0xFFFFFFFF)[0])
    name_at = 24 * count + int(entries[row, 0])
    wrong = 0
    for first, size in ((24 * row, 16), (name_at, len(FUNCTION) + 1)):
        for bit in range(8 * first, 8 * (first + size), 3):
            flip(bit)
            found = symbols()
            flip(bit)
            told = [s.symbol.name for s in found.at(shown.symbol.address + 8)]
            wrong += not found.damage and told != [FUNCTION]
            assert not (found.damage and told)
    assert wrong <= (0 if functions else 5)


def test_the_line_says_which_module(monkeypatch: pytest.MonkeyPatch) -> None:
    host, flip, _, _ = leaking("default")
    monkeypatch.setattr(host, "_of_modules", LoadedSymbols(host._functions_of))
    at = next(found for found in module_list(host) if found[1].name == "leaklab")[1].ranges[0][0]
    assert host.symbol_at(at) is not None
    assert host.doubts() == []
    flip(8 * 24 * 5)
    monkeypatch.setattr(host, "_of_modules", LoadedSymbols(host._functions_of))
    assert host.symbol_at(at) is None
    flip(8 * 24 * 5)
    (line,) = host.doubts()
    assert line.startswith(
        "the symbols of leaklab in this kernel's memory are damaged (their names"
    )
