"""Who holds one thing, and who points at it: on memory made for the test."""

from __future__ import annotations

from crashext.analysis.reach.holders import Holders
from crashext.analysis.reach.one import node_at, standing
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.results.standing import Standing
from tests.kernel.whole import DIRECT, Kernel


def _of(marked: Reach, address: int) -> Standing:
    return standing(marked, Holders(marked), node_at(marked, address))


def test_a_held_object_has_the_chain_from_its_root() -> None:
    kernel = Kernel()
    below = kernel.object("kmalloc-64", 7)
    above = kernel.object("kmalloc-128", 0, 0, below)
    kernel.variable("registry", above)
    found = _of(kernel.marked(), below)
    assert found.state == "held"
    assert found.chain is not None
    assert found.chain.steps == ("registry", "kmalloc-128", "kmalloc-64+0x0")
    (pointer,) = found.pointing
    assert pointer.place == f"kmalloc-128 object {above:x}+0x10"
    assert pointer.reached


def test_a_leaked_structure_is_lost_with_its_head() -> None:
    kernel = Kernel()
    last = kernel.object("kmalloc-64")
    middle = kernel.object("kmalloc-64", 0, last + 8)
    head = kernel.object("kmalloc-128", middle)
    kernel.variable("nobody", 0)
    marked = kernel.marked()
    assert _of(marked, head) == Standing("orphan")
    found = _of(marked, last)
    assert found.state == "structure"
    assert found.chain is not None
    assert found.chain.steps == (f"kmalloc-128 {head:x}", "kmalloc-64+0x0", "kmalloc-64+0x8")
    assert [(p.place, p.reached) for p in found.pointing] == [
        (f"kmalloc-64 object {middle:x}+0x8", False)
    ]


def test_a_ring_ends_where_it_began() -> None:
    kernel = Kernel()
    one = kernel.object("kmalloc-64")
    other = kernel.object("kmalloc-64", one)
    kernel.write(one, other)
    found = _of(kernel.marked(), one)
    assert found.state == "structure"
    assert found.chain is not None
    assert found.chain.steps == (f"kmalloc-64 {other:x}", "kmalloc-64+0x0")


def test_areas_and_blocks_are_held_or_not_as_objects_are() -> None:
    kernel = Kernel()
    area, block, lost = kernel.area(2), kernel.block(4), kernel.block(2)
    kernel.variable("table", area + 8, block + 4096)
    marked = kernel.marked()
    assert _of(marked, area).state == "held"
    assert _of(marked, block).chain is not None
    assert [p.place for p in _of(marked, block).pointing] == ["table+0x8"]
    assert _of(marked, lost).state == "orphan"


def test_what_is_no_node_is_none() -> None:
    kernel = Kernel()
    kernel.object()
    assert node_at(kernel.marked(), DIRECT) == -1
