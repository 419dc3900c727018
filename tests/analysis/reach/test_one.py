"""Who holds one thing, and who points at it: on memory made for the test."""

from __future__ import annotations

import numpy as np

from crashext.analysis.reach.holders import Holders
from crashext.analysis.reach.one import node_at, standing
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.reach.weak import weakly_held
from crashext.analysis.results.standing import Standing
from crashext.progress import silent
from crashext.report.objsim_text import standing_lines
from tests.kernel.whole import DIRECT, PAGE, Kernel, struct_page

LIST_POISON2 = 0xDEAD000000000122


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


def test_what_is_weakly_held_says_in_which_words() -> None:
    """A block: in an object of a driver's, and in an area. An object: in another by its struct
    page. Those who hold these name the word, too."""
    kernel = Kernel()
    buffer, below = kernel.page(), kernel.object("kmalloc-64")
    kernel.free_page()
    kernel.write(buffer, below)
    ring = kernel.object("kmalloc-128", 0, buffer - DIRECT)
    kernel.variable("rings", ring)
    marked = kernel.marked()
    found = _of(marked, buffer)
    assert (found.state, found.chain, found.words) == ("weak", None, 1)
    assert [(p.place, p.reached) for p in found.pointing] == [
        (f"kmalloc-128 object {ring:x}+0x8", True)
    ]
    assert "\n".join(standing_lines(found)) == (
        "no pointer leads to it; its physical address or a struct page pointer is in "
        f"kmalloc-128 object {ring:x}+0x8"
    )
    held = _of(marked, below)
    assert held.chain is not None
    assert held.chain.steps[0] == f"a physical address in kmalloc-128 object {ring:x}+0x8"
    area = kernel.area(1)
    kernel.write(area + 16, buffer - DIRECT)
    kernel.variable("shadow", area)
    assert _of(kernel.marked(), buffer).pointing[1].place == "vmalloc area of start_kernel +0x10"

    frag = kernel.object("kmalloc-512")
    user = kernel.object("kmalloc-64", 0, 0, struct_page(frag & -PAGE))
    kernel.variable("queue", user)
    marked = kernel.marked()
    slots = marked.table.at(np.array([frag], np.uint64))
    words = weakly_held(marked, slots, silent).words_of(frag)
    found = standing(marked, Holders(marked), node_at(marked, frag), words)
    assert found.state == "weak"
    assert [p.place for p in found.pointing] == [f"kmalloc-64 object {user:x}+0x10"]


def test_what_may_be_the_rest_of_an_allocation_says_of_which() -> None:
    kernel = Kernel()
    kernel.align(16)
    first, *rest = (kernel.page() for _ in range(4))
    for page in (first, *rest):
        kernel.write(struct_page(page) + 8, 0, LIST_POISON2)
    kernel.variable("buffer", first)
    found = _of(kernel.marked(), rest[-1])
    assert (found.state, found.pointing) == ("weak", ())
    assert found.chain is not None
    assert found.chain.steps[0] == "buffer"
    assert standing_lines(found)[0].startswith(
        "no pointer leads to it; it may be the rest of the pages before it, held by "
        "the variable buffer"
    )


def test_what_is_no_node_is_none() -> None:
    kernel = Kernel()
    kernel.object()
    assert node_at(kernel.marked(), DIRECT) == -1
