"""Names of places: a word known by its symbol must get that name back from its physical address."""

from __future__ import annotations

import pytest
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.mm import follow_phys
from drgn.helpers.linux.percpu import per_cpu_ptr

from crashext.hosts.base import Symbol
from crashext.kernel.roots.places import PlaceKind, symbolic
from tests.conftest import lab_dump
from tests.end_to_end.test_orphans import marked
from tests.kernel.oracle import drgn_program


def physical(name: str, address: int) -> int:
    prog = drgn_program(name)
    found: int = follow_phys(prog["init_mm"].address_of_(), address).value_()
    return found


@pytest.mark.parametrize("symbol", ["init_task", "slab_caches", "init_net", "init_mm", "modules"])
@pytest.mark.parametrize("offset", [0, 8])
def test_a_variable_of_the_kernel_has_its_name(symbol: str, offset: int) -> None:
    prog, places = drgn_program("default"), marked("default").places
    address = prog.symbol(symbol).address + offset
    place = places.name(physical("default", address))
    assert place.kind is PlaceKind.VARIABLE
    theirs = {s.name for s in prog.symbols(address)}
    name, _, inside = place.name.partition("+")
    assert name in theirs
    assert place.owner == name
    assert int(inside or "0", 16) == address - prog.symbol(name).address


def test_init_memory_is_no_variable_any_more() -> None:
    """It was freed after boot: what is in it now has nothing to do with the symbols there."""
    prog, places = drgn_program("default"), marked("default").places
    text, start, end = (prog.symbol(n).address for n in ("_text", "__init_begin", "__init_end"))
    image = physical("default", text) - text
    assert end - start > 1 << 20
    for address in range(start, end, 4096):
        place = places.name(image + address + 8)
        assert place.kind is not PlaceKind.VARIABLE, place.name


@pytest.mark.parametrize("pointer", ["head"])
def test_a_modules_variable_has_its_name_and_module(pointer: str) -> None:
    part = lab_dump("messages").truth()["parts"]["messages"]["pointers"]
    place = marked("messages").places.name(physical("messages", int(part[pointer], 16)))
    assert place.kind is PlaceKind.MODULE
    assert (place.name, place.module) == ("leaklab_ipmi_waiting [leaklab]", "leaklab")
    inside = marked("messages").places.name(physical("messages", int(part[pointer], 16) + 8))
    assert (inside.name, inside.owner) == ("leaklab_ipmi_waiting+0x8 [leaklab]", place.owner)


@pytest.mark.parametrize("symbol", ["runqueues", "cpu_number", "current_task"])
def test_a_per_cpu_variable_has_its_name_and_cpu(symbol: str) -> None:
    prog, found = drgn_program("default"), marked("default")
    cpus = list(for_each_online_cpu(prog))
    assert len(cpus) == 2
    for cpu in cpus:
        address = per_cpu_ptr(prog[symbol].address_of_(), cpu).value_()
        place = found.places.name(address - found.view.space.direct.start)
        assert place.kind is PlaceKind.PERCPU
        assert place.name.endswith(f"of CPU {cpu}")
        assert place.name.startswith(symbol)


def test_a_stack_has_its_tasks_name_and_its_dead_part_is_called_so() -> None:
    found = marked("default")
    named = 0
    for stack in found.stacks.stacks:
        if stack.live - stack.start < 4096 or stack.pid == 0:
            continue
        live = found.places.name(physical("default", stack.live))
        dead = found.places.name(physical("default", stack.start + 256))
        assert (live.kind, dead.kind) == (PlaceKind.STACK, PlaceKind.DEAD_STACK)
        assert live.name == f"stack of {stack.comm} (pid {stack.pid})"
        assert dead.name == f"dead words of the {live.name}"
        named += 1
    assert named > 20


def test_memory_of_vmalloc_is_named_by_who_asked_for_it() -> None:
    found = marked("vmalloc")
    leaked = int(lab_dump("vmalloc").truth()["parts"]["vmalloc"]["first"], 16)
    place = found.places.name(physical("vmalloc", leaked + 0x1238))
    assert place.kind is PlaceKind.VMALLOC
    assert place.name.startswith("vmalloc area of leaklab_")
    assert place.name.endswith("+0x1238")
    assert place.module == "leaklab"


def test_the_memory_map_is_named() -> None:
    found = marked("default")
    page = int(found.view.memory.block_maps[0]) + 64 * 100
    assert found.places.name(physical("default", page)).kind is PlaceKind.STRUCT_PAGE


def test_addresses_nobody_knows_get_a_name_too() -> None:
    places = marked("default").places
    for offset in (0, 1 << 40, (1 << 64) - 8):
        assert places.name(offset).name


def test_symbols_are_written_with_offset_and_module() -> None:
    symbol = Symbol("leak", 0x1000, 64, "bad")
    assert symbolic(symbol, 0x1000) == "leak [bad]"
    assert symbolic(symbol, 0x1010) == "leak+0x10 [bad]"
    assert symbolic(None, 0x1010) == "0x1010"
