"""vmalloc areas and the pages behind them, against drgn's walk and /proc/vmallocinfo."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
from drgn.helpers.linux.mm import for_each_vmap_area, vmalloc_to_pfn

from crashext.kernel.pages.areas import Areas, read_areas
from crashext.kernel.pages.vmalloc import area_at
from tests.conftest import lab_dump, lab_host, lab_view
from tests.fake import FakeHost, layout, word
from tests.kernel.machine import DIRECT, VMEMMAP, Machine
from tests.kernel.oracle import drgn_program
from tests.lab import read_addresses


@cache
def areas(name: str) -> Areas:
    return read_areas(lab_host(name), lab_view(name).memory)


@pytest.mark.parametrize("name", ["default", "vmalloc"])
def test_every_area_is_drgns(name: str) -> None:
    found = areas(name)
    expected = []
    for area in for_each_vmap_area(drgn_program(name)):
        vm = area.vm
        known = bool(vm) and vm.addr.value_() == area.va_start.value_()
        caller, flags, pages = (
            (vm.caller.value_(), vm.flags.value_(), vm.nr_pages.value_()) if known else (0, 0, 0)
        )
        expected.append((area.va_start.value_(), area.va_end.value_(), caller, flags, pages))
    columns = (found.start, found.end, found.caller, found.flags, found.pages)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == sorted(expected)
    assert found.faults == 0
    assert len(expected) > 100


@pytest.mark.parametrize("name", ["default", "vmalloc"])
def test_callers_and_pages_are_those_of_vmallocinfo(name: str) -> None:
    found, host = areas(name), lab_host(name)
    theirs: Counter[tuple[int, str, int]] = Counter()
    for line in (lab_dump(name).proc / "vmallocinfo").read_text().splitlines():
        # The addresses in it are hashed.
        match = re.match(r"0x[0-9a-f]+-0x[0-9a-f]+\s+(\d+) (\S+?)\+0x", line)
        if match:
            pages = re.search(r" pages=(\d+)", line)
            theirs[int(match[1]), match[2], int(pages[1]) if pages else 0] += 1
    ours: Counter[tuple[int, str, int]] = Counter()
    for row in np.flatnonzero(found.caller).tolist():
        symbol = host.symbol_at(int(found.caller[row]))
        size = int(found.end[row] - found.start[row])
        ours[size, symbol.name if symbol else "", int(found.pages[row])] += 1
    # The file was read a moment before the dump: some stacks have come and gone.
    assert theirs.total() > 100
    assert (theirs - ours).total() + (ours - theirs).total() <= 0.03 * theirs.total()


def test_pages_are_where_the_page_tables_put_them() -> None:
    found = areas("vmalloc")
    at = np.linspace(0, len(found.frame) - 1, 400).astype(int)
    for i in at.tolist():
        address = int(found.start[found.frame_area[i]]) + (int(found.frame_index[i]) << 12)
        assert vmalloc_to_pfn(drgn_program("vmalloc"), address).value_() == found.frame[i]
    assert (np.diff(found.frame) >= 0).all()


def test_leaked_areas_are_the_modules() -> None:
    found, host = areas("vmalloc"), lab_host("vmalloc")
    leaked = np.array(read_addresses(lab_dump("vmalloc").addresses("vmalloc")), np.uint64)
    rows = np.searchsorted(found.start, leaked)
    assert (found.start[rows] == leaked).all()
    assert (found.pages[rows] == 16).all()
    callers = {host.symbol_at(int(c)) for c in found.caller[rows]}
    assert {s.module for s in callers if s} == {"leaklab"}
    area, address = found.at(found.frame)
    assert (area >= 0).all()
    assert (address - found.start[area] < found.end[area] - found.start[area]).all()
    assert found.at(np.array([10**9], np.int64))[0].tolist() == [-1]


AREA = layout("struct vmap_area", 64, va_start=(0, 8), va_end=(8, 8), rb_node=(16, 24), vm=(56, 8))
VM = layout(
    "struct vm_struct",
    64,
    addr=(8, 8),
    flags=(24, 8),
    pages=(32, 8),
    nr_pages=(40, 4),
    caller=(56, 8),
)
RB = layout("struct rb_node", 24, rb_right=(8, 8), rb_left=(16, 8))
ROOT, HEAP, VMALLOC = 0xFFFFFFFF82000000, DIRECT + 0x10000, 0xFFFFC90000000000


def fake() -> tuple[Machine, FakeHost]:
    made = Machine(64)
    made.host.layouts.update({known.name: known for known in (AREA, VM, RB)})
    made.host.symbols["vmap_area_root"] = ROOT
    made.host.put(ROOT, word(HEAP + 16))
    return made, made.host


def put_area(
    host: FakeHost, at: int, start: int, pages: int, array: int, left: int = 0, right: int = 0
) -> None:
    vm = at + 0x80
    host.put(at, word(start, start + 0x3000, 0, right, left, 0, 0, vm))
    host.put(vm, word(0, start, 0, 2, array, pages, 0, 0xFFFFFFFF81000010))


def test_a_looping_tree_ends() -> None:
    made, host = fake()
    put_area(host, HEAP, VMALLOC, 0, 0, left=HEAP + 16, right=HEAP + 0x116)
    put_area(host, HEAP + 0x100, VMALLOC + 0x4000, 0, 0, left=HEAP + 16, right=HEAP + 0x116)
    host.put(HEAP + 24, word(HEAP + 0x110))
    found = read_areas(host, made.memory)
    assert found.start.tolist() == [VMALLOC, VMALLOC + 0x4000]


def test_a_missing_child_and_a_missing_array_are_faults() -> None:
    made, host = fake()
    put_area(host, HEAP, VMALLOC, 2, DIRECT + 0x900000, left=DIRECT + 0x800000)
    found = read_areas(host, made.memory)
    assert found.start.tolist() == [VMALLOC]
    assert found.faults >= 2
    assert len(found.frame) == 0


def test_an_absurd_count_of_pages_is_not_believed() -> None:
    made, host = fake()
    put_area(host, HEAP, VMALLOC, 0xFFFFFFFF, HEAP + 0x1000)
    host.put(HEAP + 0x1000, word(VMEMMAP + 64 * 5))
    found = read_areas(host, made.memory)
    assert len(found.frame) == 0


def test_page_pointers_that_are_none_are_left_out() -> None:
    made, host = fake()
    put_area(host, HEAP, VMALLOC, 3, HEAP + 0x1000)
    host.put(HEAP + 0x1000, word(VMEMMAP + 64 * 5, 0xDEAD, VMEMMAP + 64 * 4))
    found = read_areas(host, made.memory)
    assert found.frame.tolist() == [4, 5]
    assert found.frame_index.tolist() == [2, 0]
    assert found.at(np.array([4, 5, 6]))[1].tolist() == [VMALLOC + 0x2000, VMALLOC, 0]


def test_a_vm_struct_of_another_area_is_not_believed() -> None:
    """`vm` shares its place with subtree_max_size while an area is free."""
    made, host = fake()
    put_area(host, HEAP, VMALLOC, 2, HEAP + 0x1000)
    host.put(HEAP + 0x88, word(VMALLOC + 0x9000))
    found = read_areas(host, made.memory)
    assert (found.caller.tolist(), found.pages.tolist()) == ([0], [0])


@pytest.mark.parametrize("member", ["vm", "private"])
def test_who_asked_is_in_the_vm_struct_under_either_name(member: str) -> None:
    """`private` until db1aecafef58 (3.3)."""
    made, host = fake()
    area = {"va_start": (0, 8), "va_end": (8, 8), "rb_node": (16, 24), member: (56, 8)}
    host.layouts["struct vmap_area"] = layout("struct vmap_area", 64, **area)
    put_area(host, HEAP, VMALLOC, 2, HEAP + 0x1000)
    host.put(HEAP + 0x1000, word(VMEMMAP + 64 * 5, VMEMMAP + 64 * 4))
    found = read_areas(host, made.memory)
    assert (found.caller.tolist(), found.pages.tolist()) == ([0xFFFFFFFF81000010], [2])
    one = area_at(host, VMALLOC + 0x1000)
    assert one is not None
    assert one.caller == 0xFFFFFFFF81000010


def test_a_kernel_without_the_types_has_no_areas() -> None:
    made, host = fake()
    del host.layouts["struct vmap_area"]
    assert len(read_areas(host, made.memory).start) == 0
