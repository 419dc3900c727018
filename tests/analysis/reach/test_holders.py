"""Who holds an object, by name, and what names memory that is no slab object."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from crashext.analysis.reach import selfcheck
from crashext.analysis.reach.group_reach import held, reachability_of
from crashext.analysis.reach.holders import Holders
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.reach.selfcheck import misgivings
from crashext.analysis.reach.weak import weakly_held
from crashext.analysis.results.evidence import Head
from crashext.hosts.base import U64
from crashext.progress import silent
from tests.kernel.whole import DIRECT, PAGE, THREAD_SIZE, Kernel, struct_page


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def slot(marked: Reach, address: int) -> int:
    return int(marked.table.at(np.array([address], np.uint64))[0])


def steps(marked: Reach, address: int) -> tuple[str, ...]:
    return Holders(marked).chain(slot(marked, address)).steps


def test_a_chain_names_the_variable_and_where_each_pointer_leads(kernel: Kernel) -> None:
    last = kernel.object("kmalloc-96")
    first = kernel.object("kmalloc-64", 0, last + 16)
    kernel.variable("table", 0, 0, first)
    assert steps(kernel.marked(), last) == ("table+0x10", "kmalloc-64", "kmalloc-96+0x10")


def test_a_long_chain_is_cut_in_the_middle(kernel: Kernel) -> None:
    nodes = [kernel.object() for _ in range(200)]
    for at, following in pairwise(nodes):
        kernel.write(at + 8, following)
    kernel.variable("list", nodes[0])
    chain = steps(kernel.marked(), nodes[-1])
    assert chain[0] == "list"
    assert "... 192 more ..." in chain
    assert chain.count("kmalloc-64+0x0") + chain.count("kmalloc-64") == 8


def test_the_most_telling_of_several_roots_is_named(kernel: Kernel) -> None:
    target = kernel.object()
    _, stack = kernel.task(7, "user", used=PAGE)
    kernel.write(stack + THREAD_SIZE - 8, target)
    assert steps(kernel.marked(), target)[0] == "stack of user (pid 7)"
    kernel.variable("table", target)
    assert steps(kernel.marked(), target)[0] == "table"


def test_a_register_is_named_where_no_word_of_memory_holds(kernel: Kernel) -> None:
    target = kernel.object()
    kernel.host.running = [(target, *[0] * 26)]
    assert steps(kernel.marked(), target)[0] == "a CPU's register"


def test_a_chain_leads_through_areas_and_pages(kernel: Kernel) -> None:
    target, in_area = kernel.object(), kernel.object()
    page, above, area = kernel.page(), kernel.page(), kernel.area(2)
    kernel.write(page + 8, target)
    kernel.write(above, page)
    kernel.write(area + PAGE + 16, in_area)
    kernel.variable("pool", kernel.object("kmalloc-96", above, area))
    marked = kernel.marked()
    chain = ("pool", "kmalloc-96", "1 page", "1 page", "kmalloc-64+0x0")
    assert steps(marked, target) == chain
    area_step = "vmalloc area of start_kernel"
    assert steps(marked, in_area) == ("pool", "kmalloc-96", area_step, "kmalloc-64+0x0")


def test_roots_are_tallied_by_variable(kernel: Kernel) -> None:
    some, others = ([kernel.object() for _ in range(n)] for n in (5, 2))
    kernel.variable("table", *some)
    kernel.variable("list", *others)
    marked = kernel.marked()
    slots = marked.table.at(np.array([*some, *others], np.uint64))
    most, chains = Holders(marked).tally(slots)
    assert most == (("table", 5), ("list", 2))
    assert [c.target for c in chains] == [some[0], others[0]]


def listed(kernel: Kernel, count: int, before: int = 0) -> list[int]:
    """Objects that each point at the next, the first at `before` where there is one."""
    objects = [kernel.object() for _ in range(count)]
    for at, following in pairwise([before, *objects] if before else objects):
        kernel.write(at + 8, following)
    return objects


def hang_at(kernel: Kernel, objects: list[int]) -> Head | None:
    marked = kernel.marked()
    return Holders(marked).head(marked.table.at(np.array(objects, np.uint64)))


def test_objects_hang_at_the_head_of_their_list_or_at_their_table(kernel: Kernel) -> None:
    some, table = listed(kernel, 40), [kernel.object("kmalloc-96") for _ in range(10)]
    at = kernel.variable("waiting", 0, some[0])
    assert hang_at(kernel, some) == Head("waiting", "", U64(at))
    assert hang_at(kernel, some[-1:]) == Head("waiting", "", U64(at))
    at = kernel.variable("table", 0, 0, *table)
    assert hang_at(kernel, table) == Head("table", "", U64(at))


def test_where_another_object_comes_between_they_hang_at_no_variable(kernel: Kernel) -> None:
    owner, first, below = kernel.object("kmalloc-96"), kernel.object(), kernel.object("kmalloc-128")
    some = listed(kernel, 40, owner)
    kernel.variable("owners", owner)
    assert hang_at(kernel, some) is None
    kernel.write(first, below)
    kernel.variable("another", first)
    assert hang_at(kernel, listed(kernel, 40, below)) is None


def test_of_each_by_an_object_of_its_own_the_variable_is_none_of_theirs(kernel: Kernel) -> None:
    some = [kernel.object() for _ in range(40)]
    kernel.variable("sessions", some[0], *(kernel.object("kmalloc-96", o) for o in some[1:]))
    assert hang_at(kernel, some) is None


@pytest.mark.parametrize(("elsewhere", "told"), [(1, True), (20, False)])
def test_nearly_all_have_to_hang_there(kernel: Kernel, elsewhere: int, told: bool) -> None:
    some, others = listed(kernel, 40), listed(kernel, elsewhere)
    kernel.variable("waiting", some[0])
    kernel.variable("done", others[0])
    assert (hang_at(kernel, [*some, *others]) is not None) == told
    assert hang_at(kernel, []) is None


def test_a_list_that_a_stack_holds_in_the_middle_has_its_head(kernel: Kernel) -> None:
    some, (_, stack) = listed(kernel, 40), kernel.task(7, "user", used=PAGE)
    kernel.variable("waiting", some[0])
    kernel.write(stack + THREAD_SIZE - 8, kernel.object("kmalloc-96", some[10]))
    head = hang_at(kernel, some)
    assert head is not None
    assert head.name == "waiting"
    assert hang_at(kernel, some[:11]) is not None
    assert hang_at(kernel, some[11:]) is None  # all of them by the stack


def test_a_stack_is_no_head(kernel: Kernel) -> None:
    some, (_, stack) = listed(kernel, 4), kernel.task(7, "user", used=PAGE)
    kernel.write(stack + THREAD_SIZE - 8, some[0])
    assert hang_at(kernel, some) is None


def test_struct_pages_and_physical_addresses_hold_weakly(kernel: Kernel) -> None:
    def weak(*addresses: int) -> list[bool]:
        marked = kernel.marked()
        slots = marked.table.at(np.array(addresses, np.uint64))
        assert not marked.marks.reached[slots].any()
        found = weakly_held(marked, slots, silent).addresses.tolist()
        return [address in found for address in addresses]

    frag, other = kernel.object("kmalloc-512"), kernel.object("kmalloc-96")
    buffers = [kernel.object("kmalloc-1024") for _ in range(8)]
    assert weak(frag, other) == [False, False]
    user = kernel.object("kmalloc-64", struct_page(frag & -PAGE))
    kernel.variable("queue", user)
    assert weak(frag, other) == [True, False]
    # One small number may be chance; eight, and none beside them, are not.
    ring = kernel.object("kmalloc-128", buffers[0] - DIRECT)
    kernel.variable("ring", ring)
    assert weak(*buffers) == [False] * 8
    kernel.write(ring, *(b - DIRECT for b in buffers))
    assert weak(*buffers) == [True] * 8
    kernel.write(ring + 64, *(b - DIRECT + 8 for b in buffers))
    assert weak(*buffers) == [False] * 8
    # Nor is a number that is everywhere, as flags are.
    kernel.write(ring + 64, *[0] * 8)
    more = [kernel.object("kmalloc-1024") for _ in range(6)]
    kernel.variable("more", *more)
    for place in more:
        kernel.write(place, *[buffers[0] - DIRECT] * 128)
    assert weak(*buffers) == [False] + [True] * 7
    assert not len(weakly_held(kernel.marked(), np.zeros(0, np.int64), silent).addresses)


def test_a_group_is_judged_in_shares_with_who_holds_it(kernel: Kernel) -> None:
    objects = [kernel.object() for _ in range(40)]
    kernel.variable("table", *objects[:10])
    for i in range(10, 20):
        kernel.write(objects[i], objects[i + 10])
    marked = kernel.marked()
    found = held(
        marked,
        Holders(marked),
        np.array([*objects, DIRECT], np.uint64),
        np.zeros(41, np.int64),
        0,
        np.array(objects[36:], np.uint64),
    )
    assert found.examined == 40
    shares = found.held, found.structure, found.weak, found.orphan
    assert [round(40 * s.value) for s in shares] == [10, 10, 4, 16]
    assert found.holders == (("table", 10),)
    assert found.chains[0].steps == ("table", "kmalloc-64")
    assert found.head is not None
    assert found.head.name == "table"
    # One of 41 could not be judged: it may be anything.
    assert all(s.low < s.value < s.high for s in shares)


def test_a_mark_that_misses_what_is_in_use_is_not_believed(kernel: Kernel) -> None:
    for pid in range(20):
        kernel.task(pid + 1, "busy", used=64)
    assert misgivings(kernel.marked()) == ()
    assert reachability_of(kernel.marked()).misgivings == ()
    # The kernel's variables in pages that pass for a process's: nothing is rooted any more.
    for page in kernel.host.mapped.values():
        if page < DIRECT + 64 * PAGE:
            kernel.host.put(struct_page(page), (1 << 5).to_bytes(8, "little"))
            kernel.host.put(struct_page(page) + 24, (DIRECT | 1).to_bytes(8, "little"))
    doubts = misgivings(kernel.marked())
    assert any("cache descriptors look unreachable" in d for d in doubts)
    assert any("20 of 20 tasks of the task list" in d for d in doubts)
    seen = reachability_of(kernel.marked())
    assert seen.misgivings == doubts
    assert seen.notes[0].startswith("do not believe it: ")


def test_what_a_cpu_that_cannot_sort_says_is_not_believed(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert selfcheck.sorts()
    marked, right = kernel.marked(), np.argsort

    def wrong(values: Any, **how: Any) -> Any:
        order = right(values, **how)
        return order if how or len(order) < 50 else np.roll(order, 1)

    monkeypatch.setattr(np, "argsort", wrong)
    (doubt,) = misgivings(marked)
    assert doubt.startswith("this CPU sorts addresses wrongly")


def test_a_leak_in_a_large_share_of_all_caches_is_none(kernel: Kernel) -> None:
    for size in range(16, 16 + 40 * 16, 16):
        lost = [kernel.object(f"kmalloc-{size}") for _ in range(8)]
        if size < 400:
            continue
        kernel.variable(f"users_of_{size}", *lost)
    (doubt,) = misgivings(kernel.marked())
    assert doubt.startswith("most objects of ")


def test_what_limits_the_answer_is_said(kernel: Kernel) -> None:
    holder, broken = kernel.object(), kernel.object("kmalloc-96")
    kernel.break_freelist(broken)
    (note,) = reachability_of(kernel.marked()).notes
    assert note.startswith("the freelist of 1 slab is broken")
    kernel.lose(holder & -PAGE)
    seen = reachability_of(kernel.marked())
    assert (seen.pages_missing, seen.sampled) == (1, False)
    assert "(1 page) is not in this dump" in seen.notes[0]
    assert seen.notes[1].startswith("1 of the missing pages are slab pages")


def test_a_page_that_booting_gave_back_is_no_variable_any_more(kernel: Kernel) -> None:
    """`__init_begin` to `__init_end` are the page allocator's after boot: another's memory now."""
    held_object = kernel.object("kmalloc-96")
    table = kernel.variable("only_at_boot", held_object)
    frame = kernel.host.mapped[table & -PAGE]
    assert steps(kernel.marked(), held_object)[0].startswith("only_at_boot")
    kernel._page((frame - DIRECT) // PAGE, references=1)
    assert "only_at_boot" not in steps(kernel.marked(), held_object)[0]
