"""Symbols of modules from the dump alone: a symbol table as load_module() leaves it."""

from __future__ import annotations

import struct

import pytest

from crashext.hosts.base import Module
from crashext.hosts.modulelist import ModuleSymbols, module_list, module_symbols
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


def listed(*rows: tuple[str, int, int, int]) -> list[Module]:
    """What is read of a list of modules: name, index of the next, base and size of each."""
    one = layout("struct module_layout", 16, base=(0, 8), size=(8, 4))
    form = {"state": (0, 4), "list": (8, 16), "name": (24, 56), "core_layout": (80, 16)}
    host = FakeHost(one, layout("struct module", 96, **form), symbols={"modules": KALLSYMS})
    at = [SYMBOLS + 0x100 * i for i in range(len(rows))]
    host.put(KALLSYMS, word(at[0] + 8, 0))
    for here, (name, following, base, size) in zip(at, rows, strict=True):
        link = KALLSYMS if following < 0 else at[following] + 8
        name_bytes = name.encode().ljust(56, b"\0")
        host.put(here, word(0, link, 0) + name_bytes + word(base, size))
    return [module for _, module in module_list(host)]


def test_a_module_of_impossible_size_has_no_area() -> None:
    huge, far = 0xFFFFFFFF, (1 << 64) - 0x1000
    rows = (("bond", 1, START, 0x1000), ("huge", 2, START, huge), ("far", 3, far, 0x2000))
    found = listed(*rows, ("low", 4, 0x1000, 0x1000), ("vlan", -1, START + 0x5000, 0x1000))
    assert [m.name for m in found] == ["bond", "vlan"]


def test_a_list_that_goes_in_a_circle_ends() -> None:
    found = listed(("bond", 1, START, 0x1000), ("vlan", 1, START + 0x5000, 0x1000))
    assert [m.name for m in found] == ["bond", "vlan"]


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
