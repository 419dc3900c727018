"""kmemleak's tree on synthetic memory: found, missing, damaged, and the two forms of stacks."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.kernel.origin.kmemleak import LeakRecords, read_records, watched
from tests.fake import FakeHost, layout, word

ROOT, NODES = 0xFFFFFFFF82000000, 0xFFFF888000500000
OBJECT = 0xFFFF888000900000
RB = layout("struct rb_node", 24, rb_right=(8, 8), rb_left=(16, 8))
# mm/kmemleak.c of 6.1, without lockdep
NEW = layout(
    "struct kmemleak_object",
    168,
    flags=(4, 4),
    rb_node=(40, 24),
    pointer=(88, 8),
    trace_handle=(136, 4),
    jiffies=(144, 8),
    pid=(152, 4),
    comm=(156, 16),
)
# The same up to 6.0 in what matters here: the stack is inline.
OLD = layout(
    "struct kmemleak_object",
    320,
    flags=(4, 4),
    rb_node=(40, 24),
    pointer=(88, 8),
    trace=(136, 128),
    trace_len=(264, 4),
    jiffies=(272, 8),
    pid=(280, 4),
    comm=(284, 16),
)


class Table:
    """A balanced tree of `count` objects, 64 bytes apart; object i is of pid 100 + i."""

    def __init__(self, count: int, record: object = NEW) -> None:
        assert record in (NEW, OLD)
        self.layout = NEW if record is NEW else OLD
        self.host = FakeHost(RB, self.layout, symbols={"object_tree_root": ROOT})
        self.host.put(ROOT, word(self._node(0, count)))

    def at(self, i: int) -> int:
        return NODES + 0x200 * i

    def _node(self, low: int, high: int) -> int:
        if low >= high:
            return 0
        middle = (low + high) // 2
        data = bytearray(self.layout.size + 8)

        def put(member: str, value: int, size: int) -> None:
            start = self.layout[member].offset
            data[start : start + size] = value.to_bytes(size, "little")

        put("flags", 1 | 2 * (middle % 2), 4)
        put("pointer", OBJECT + 64 * middle, 8)
        put("pid", 100 + middle, 4)
        put("jiffies", 1000 + middle, 8)
        start = self.layout["comm"].offset
        data[start : start + 5] = b"modpr"
        if "trace" in self.layout:
            put("trace_len", 2, 4)
            data[136:160] = word(0x11, 0x22, 0xBAD)
        else:
            put("trace_handle", 7000 + middle, 4)
        left, right = self._node(low, middle), self._node(middle + 1, high)
        data[40:64] = word(0, right, left)
        self.host.put(self.at(middle), bytes(data))
        return self.at(middle) + 40

    def read(self, *numbers: float) -> LeakRecords:
        wanted = [OBJECT + int(64 * n) for n in numbers]
        return read_records(self.host, np.array(wanted, np.uint64))


def test_every_object_is_found_wherever_it_is_in_the_tree() -> None:
    found = Table(100).read(*range(100))
    assert found.ok.all()
    assert found.handle.tolist() == list(range(7000, 7100))
    assert found.pid.tolist() == list(range(100, 200))
    assert found.jiffies.tolist() == list(range(1000, 1100))
    assert found.reported.tolist() == [i % 2 == 1 for i in range(100)]
    assert bytes(found.comm[0]).rstrip(b"\0") == b"modpr"


def test_no_object_is_found_inside_another_or_outside_all() -> None:
    found = Table(100).read(0.5, -1, 100, 99.75, 42)
    assert found.ok.tolist() == [False, False, False, False, True]
    assert found.handle.tolist()[:4] == [0, 0, 0, 0]


def test_stacks_up_to_6_0_are_inline_and_end_where_they_say() -> None:
    found = Table(3, OLD).read(1)
    assert found.inline.tolist()[0][:3] == [0x11, 0x22, 0]
    assert found.handle.tolist() == [0]


def test_a_node_that_is_not_in_the_dump_costs_what_hangs_below_it() -> None:
    table = Table(7)
    del table.host.extents[table.at(1)]  # the root's left child, of 0, 1 and 2
    assert table.read(*range(7)).ok.tolist() == [False, False, False, True, True, True, True]


def test_a_ring_ends() -> None:
    table = Table(1)
    node = table.at(0)
    table.host.put(node + 40, word(0, node + 40, node + 40))
    assert table.read(5).ok.tolist() == [False]


@pytest.mark.parametrize("what", ["no symbol", "no type", "empty"])
def test_a_kernel_without_kmemleak_knows_nothing(what: str) -> None:
    table = Table(3)
    if what == "no symbol":
        table.host.symbols.clear()
    elif what == "no type":
        del table.host.layouts["struct kmemleak_object"]
    else:
        table.host.put(ROOT, word(0))
    assert not watched(table.host)
    assert not table.read(0, 1, 2).ok.any()
