"""The stack depot in the forms that no lab kernel has, and in damaged ones."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.hosts.base import Layout
from crashext.kernel.origin.stackdepot import StackDepot
from tests.fake import FakeHost, layout, word

POOLS, TABLE, POOL = 0xFFFFFFFF82000000, 0xFFFF888000800000, 0xFFFF888000900000
FRAMES = [0xFFFFFFFF81000100, 0xFFFFFFFF81000200, 0xFFFFFFFFC0000300]

# symbol, bits of the index, name of the index, what is added to it, table behind a pointer
GENERATIONS = {
    "4.19": ("stack_slabs", 21, "slabindex", 0, False),
    "6.1": ("stack_slabs", 16, "slabindex", 0, False),
    "6.6": ("stack_pools", 16, "pool_index", 0, False),
    "6.12": ("stack_pools", 17, "pool_index_plus_1", 1, False),
    "newest": ("stack_pools", 17, "pool_index_plus_1", 1, True),
}


def union(bits: int, name: str) -> Layout:
    fields = {name: (0, 4, 0, bits), "offset": (bits // 8, 4, bits % 8, 10)}
    return layout("union handle_parts", 4, handle=(0, 4), **fields)


class Depot:
    """A depot with one record, in the fourth pool at offset 0x120."""

    def __init__(self, generation: str, typed: bool = True) -> None:
        symbol, bits, name, bias, indirect = GENERATIONS[generation]
        header = 40 if bits == 17 else 24
        at = {"hash": 16, "size": 20, "handle": 24} if bits == 17 else {}
        at = at or {"hash": 8, "size": 12, "handle": 16}
        members = {k: (v, 4) for k, v in at.items()}
        record = layout("struct stack_record", header, entries=(header, 0), **members)
        known = (record, union(bits, name)) if typed else (record,)
        self.host = FakeHost(*known, symbols={symbol: POOLS})
        table = TABLE if indirect else POOLS
        if indirect:
            self.host.put(POOLS, word(TABLE))
        self.host.put(table, word(0, 0, 0, POOL, 0))
        self.handle = 3 + bias | 0x12 << bits
        if bits + 10 < 27:
            self.handle |= 1 << bits + 10  # valid
        self.handle |= (1 << 31) if bits == 21 else 0
        data = bytearray(header)
        data[at["size"] : at["size"] + 4] = len(FRAMES).to_bytes(4, "little")
        data[at["handle"] : at["handle"] + 4] = self.handle.to_bytes(4, "little")
        self.size_at = POOL + 0x120 + at["size"]
        self.host.put(POOL + 0x120, bytes(data) + word(*FRAMES))


def stacks(host: FakeHost, *handles: int) -> dict[int, tuple[int, ...]]:
    return StackDepot(host).stacks(np.array(handles, np.uint64))


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("typed", [True, False], ids=["union known", "union unknown"])
def test_every_generation_is_read(generation: str, typed: bool) -> None:
    depot = Depot(generation, typed)
    assert stacks(depot.host, depot.handle) == {depot.handle: tuple(FRAMES)}


def test_the_callers_own_bits_do_not_matter() -> None:
    """STACK_DEPOT_EXTRA_BITS: in the handle that is kept, not in the record."""
    depot = Depot("6.1")
    marked = depot.handle | 0b101 << 27
    assert stacks(depot.host, marked) == {marked: tuple(FRAMES)}


def test_a_record_that_answers_to_another_handle_is_none() -> None:
    depot = Depot("6.1")
    assert stacks(depot.host, depot.handle + (1 << 16)) == {}


@pytest.mark.parametrize("size", [0, 65, 1 << 31])
def test_a_record_of_no_or_too_many_frames_is_none(size: int) -> None:
    depot = Depot("6.12")
    depot.host.put(depot.size_at, size.to_bytes(4, "little"))
    assert stacks(depot.host, depot.handle) == {}


def test_nonsense_handles_do_not_hide_the_sound_one() -> None:
    depot = Depot("6.12")
    nonsense = [0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 5]
    assert stacks(depot.host, *nonsense, depot.handle) == {depot.handle: tuple(FRAMES)}


def test_missing_frames_cost_their_stack_alone() -> None:
    depot = Depot("6.1")
    at = next(a for a in depot.host.extents if a == POOL + 0x120)
    del depot.host.extents[at][32:]
    assert stacks(depot.host, depot.handle) == {}


def test_a_kernel_without_a_depot_has_no_stacks() -> None:
    host = FakeHost()
    assert not StackDepot(host).present
    assert stacks(host, 1, 2) == {}
