"""The list of modules, as load_module() leaves it."""

from __future__ import annotations

from crashext.hosts.base import Module
from crashext.hosts.modulelist import module_list
from tests.fake import FakeHost, layout, word

MODULE, KALLSYMS, SYMBOLS, STRINGS = (0xFFFFFFFFC0001000 + 0x1000 * i for i in range(4))
START = 0xFFFFFFFFC0000000


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
