"""What holds an object and what does not, in a made-up kernel where the answer is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from crashext.analysis.reach import reachability, sampling
from crashext.analysis.reach.reachability import Class
from crashext.kernel.roots.stacks import owned_stacks
from tests.fake import layout
from tests.kernel.whole import (
    CALLER,
    DIRECT,
    PAGE,
    RESERVED,
    TEXT,
    THREAD_SIZE,
    VMEMMAP,
    Kernel,
    class_of,
)

HELD, ORPHAN, STRUCTURE, NOT_JUDGED = Class.HELD, Class.ORPHAN, Class.STRUCTURE, Class.NOT_JUDGED
POISON = 0xDEAD000000000122


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_nothing_of_an_innocent_kernel_is_unreachable(kernel: Kernel) -> None:
    kernel.task(7, "sleeper", used=64)
    kernel.variable("holder", kernel.area(2))
    marked = kernel.marked()
    assert not len(marked.unreachable())
    assert (marked.references.coverage.missing, marked.table.broken) == (0, 0)


def test_variables_of_a_module_that_no_list_names_hold_areas(kernel: Kernel) -> None:
    """It is unformed, on its way in or out, or the list was read while it changed: its memory is
    where modules are."""
    held, lost = kernel.area(4), kernel.area(4)
    bss = kernel.area(2, CALLER, 0xFFFFFFFFC0501000) + PAGE
    kernel.write(bss + 0x5D8, held)
    assert kernel.view().host.modules() == ()
    marked = kernel.marked()
    reached = dict(zip(marked.areas.start.tolist(), marked.areas_reached().tolist(), strict=True))
    assert (reached[held], reached[lost], reached[bss - PAGE]) == (True, False, True)


def test_areas_are_found_in_whatever_order_their_tree_is_walked(kernel: Kernel) -> None:
    areas = [kernel.area(1) for _ in range(40)]
    behind = kernel.area(1, CALLER, min(areas) - 8 * PAGE)
    kernel.variable("holders", *areas, behind)
    marked = kernel.marked()
    assert marked.areas.start.tolist() == sorted([behind, *areas])
    assert marked.areas_reached().all()


def test_a_chain_is_held_by_the_variable_at_its_start(kernel: Kernel) -> None:
    last = kernel.object("kmalloc-96")
    middle = kernel.object("kmalloc-64", last)
    first = kernel.object("kmalloc-64", middle)
    kernel.variable("head", first)
    marked = kernel.marked()
    assert class_of(marked, first, middle, last) == [HELD] * 3
    slots = marked.table.at(np.array([first, middle, last], np.uint64))
    assert marked.marks.via[slots].tolist() == [-1, *slots[:2]]


def test_what_hangs_below_an_orphan_is_of_its_structure(kernel: Kernel) -> None:
    below = kernel.object()
    head = kernel.object("kmalloc-64", 0, below)
    alone = kernel.object("kmalloc-64", POISON)
    assert class_of(kernel.marked(), head, below, alone) == [ORPHAN, STRUCTURE, ORPHAN]


def test_a_ring_that_nothing_else_points_at_is_unreachable(kernel: Kernel) -> None:
    ring = [kernel.object() for _ in range(3)]
    for at, following in zip(ring, [*ring[1:], ring[0]], strict=True):
        kernel.write(at, following)
    itself = kernel.object()
    kernel.write(itself, itself)
    assert class_of(kernel.marked(), *ring, itself) == [STRUCTURE] * 3 + [ORPHAN]


@pytest.mark.parametrize(("offset", "held"), [(0, True), (8, True), (63, True), (64, False)])
def test_a_pointer_into_an_object_counts_and_one_past_it_does_not(
    kernel: Kernel, offset: int, held: bool
) -> None:
    target = kernel.object()
    kernel.variable("pointer", target + offset)
    assert class_of(kernel.marked(), target) == [HELD if held else ORPHAN]


def test_words_in_pages_count_where_the_page_is_the_kernels_and_is_reached(kernel: Kernel) -> None:
    pages = {
        "kernel": (kernel.page(), HELD),
        "vmalloc": (kernel.area(1), HELD),
        "lost": (kernel.page(), STRUCTURE),
        "lost area": (kernel.area(2), STRUCTURE),
        "user": (kernel.user_page(), ORPHAN),
        "free": (kernel.free_page(), ORPHAN),
    }
    targets = {name: kernel.object() for name in pages}
    for name, (page, _) in pages.items():
        kernel.write(page + 24, targets[name])
    kernel.variable("holder", pages["kernel"][0], pages["vmalloc"][0])
    found = class_of(kernel.marked(), *targets.values())
    assert dict(zip(pages, found, strict=True)) == {n: c for n, (_, c) in pages.items()}


def test_free_slots_hold_nothing_and_are_not_judged(kernel: Kernel) -> None:
    target = kernel.object()
    holder = kernel.object("kmalloc-96", 0, target)
    kernel.variable("stale", holder)
    assert class_of(kernel.marked(), target, holder) == [HELD, HELD]
    kernel.free("kmalloc-96", holder)
    assert class_of(kernel.marked(), target, holder) == [ORPHAN, NOT_JUDGED]


def test_of_a_stack_only_the_part_in_use_holds(kernel: Kernel) -> None:
    live, dead, edge = (kernel.object() for _ in range(3))
    _, stack = kernel.task(7, "sleeper", used=2 * PAGE + 16)
    kernel.write(stack + 2 * PAGE - 16, edge)
    kernel.write(stack + 2 * PAGE - 24, dead)
    kernel.write(stack + THREAD_SIZE - 8, live)
    marked = kernel.marked()
    assert class_of(marked, live, edge, dead) == [HELD, HELD, ORPHAN]
    named = marked.table.addresses(marked.references.dead_target.astype(np.int64))
    assert named.tolist() == [dead]


def test_of_a_stack_of_pages_only_the_part_in_use_holds(kernel: Kernel) -> None:
    """As all are before VMAP_STACK. What its task no longer holds, its dead words do not, either:
    on 3.10 seven of 200 leaked tasks were held by what was left on another's stack."""
    live, dead, stale = (kernel.object() for _ in range(3))
    stack, exited = kernel.block(4), kernel.block(4)
    kernel.task(7, "sleeper", 2 * PAGE, stack)
    kernel.write(stack + 2 * PAGE - 8, dead)
    kernel.write(stack + 2 * PAGE + 8, live)
    task, _ = kernel.task(8, "zombie", 2 * PAGE, exited)
    kernel.write(exited + 3 * PAGE, stale)
    assert class_of(kernel.marked(), live, dead, stale) == [HELD, ORPHAN, HELD]
    kernel.write(task + 72, 16)
    assert class_of(kernel.marked(), task, live, dead, stale) == [HELD, HELD, ORPHAN, ORPHAN]


def test_the_interrupt_stack_of_an_idle_cpu_holds_nothing(kernel: Kernel) -> None:
    """Per-CPU memory until 5.1: irq_stack_union."""
    stack = kernel.page(flags=RESERVED)
    for _ in range(3):
        kernel.page(flags=RESERVED)
    _, sleeping = kernel.task(7, "sleeper", used=64)
    target = kernel.object()
    kernel.write(stack + 3 * PAGE + 8, target)
    registers = [0] * 27
    kernel.host.running = [tuple(registers)]
    assert class_of(kernel.marked(), target) == [HELD]  # for all that is known it is a variable
    kernel.host.symbols["irq_stack_union"] = stack
    assert class_of(kernel.marked(), target) == [ORPHAN]
    # Between, on a task's stack, in user space, and in an NMI, which may have come from there.
    for pointer, is_held in (
        (stack + 2 * PAGE, HELD),
        (sleeping + THREAD_SIZE - 64, ORPHAN),
        (0x7FFD_0000_1000, ORPHAN),
        (0xFFFF_FE00_0000_9000, HELD),
    ):
        registers[19] = pointer
        kernel.host.running = [tuple(registers)]
        assert class_of(kernel.marked(), target) == [is_held], hex(pointer)


def test_the_stack_of_a_task_that_is_gone_holds_nothing(kernel: Kernel) -> None:
    task, stack = kernel.task(7, "gone", used=THREAD_SIZE)
    kernel.task(8, "stays", used=64)
    target = kernel.object()
    kernel.write(stack + 512, target)
    assert class_of(kernel.marked(), target) == [HELD]
    kernel.free("task_struct", task)
    assert class_of(kernel.marked(), target) == [ORPHAN]


def test_a_task_that_has_exited_is_not_held_by_its_own_stack(kernel: Kernel) -> None:
    """Before 4.9 a leaked task keeps its stack, whose thread_info points back at it."""
    task, stack = kernel.task(7, "leaked", used=512)
    kernel.write(stack, task)
    kernel.write(stack + THREAD_SIZE - 256, task)
    kernel.write(kernel.init_task, kernel.init_task, kernel.init_task)  # off the task list
    assert class_of(kernel.marked(), task) == [HELD]  # for all that is known it may still run
    kernel.write(task + 72, 16)
    assert class_of(kernel.marked(), task) == [ORPHAN]


def test_a_register_holds_and_its_stack_pointer_bounds_the_stack(kernel: Kernel) -> None:
    by_register, by_stack, dead = (kernel.object() for _ in range(3))
    _, stack = kernel.task(7, "running", used=8)
    kernel.write(stack + THREAD_SIZE - 64, by_stack)
    kernel.write(stack + THREAD_SIZE - 256, dead)
    registers = [0] * 27
    registers[3], registers[19] = by_register + 4, stack + THREAD_SIZE - 128
    kernel.host.running = [tuple(registers)]
    assert class_of(kernel.marked(), by_register, by_stack, dead) == [HELD, HELD, ORPHAN]


def test_kmemleaks_records_hold_nothing_but_rcus_list(kernel: Kernel) -> None:
    """They point at every object; RCU's list of callbacks runs through those about to be freed."""
    recorded, waiting = kernel.object(), kernel.object()
    record = kernel.object("kmemleak_object")
    kernel.write(record, recorded, 0, waiting)
    kernel.variable("object_tree_root", record)
    assert class_of(kernel.marked(), record, recorded, waiting) == [HELD, ORPHAN, HELD]
    unlinked = kernel.object("kmemleak_object", recorded)
    assert class_of(kernel.marked(), unlinked, recorded) == [HELD, ORPHAN]


def test_the_last_task_that_was_woken_is_not_held_by_who_woke_it(kernel: Kernel) -> None:
    waker, _ = kernel.task(7, "waker", used=64)
    lost = kernel.object("task_struct")
    kernel.write(waker + 64, lost)
    assert class_of(kernel.marked(), lost) == [ORPHAN]
    kernel.write(waker + 72, lost)
    assert class_of(kernel.marked(), lost) == [HELD]


def test_the_last_reader_of_a_semaphore_is_not_held_by_it(kernel: Kernel) -> None:
    """rwsem.owner keeps an address with flags in the low bits when the reader is long gone."""
    lost, other = kernel.object("task_struct"), kernel.object()
    kernel.variable("owner", lost | 1, other | 1)
    assert class_of(kernel.marked(), lost, other) == [ORPHAN, HELD]
    kernel.variable("task", lost)
    assert class_of(kernel.marked(), lost) == [HELD]


def test_words_that_what_stands_beside_them_gives_away_hold_nothing(kernel: Kernel) -> None:
    unlinked, read, waited_for = (kernel.object() for _ in range(3))
    node = kernel.object("kmalloc-96", unlinked, POISON)  # list_del_rcu() leaves `next`
    semaphore = kernel.object("kmalloc-96", 0, read | 1, 0)
    busy = kernel.object("kmalloc-96", 0, waited_for | 1, 0, node, node)
    kernel.write(semaphore + 24, semaphore + 24, semaphore + 24)
    kernel.variable("holders", node, semaphore, busy)
    found = class_of(kernel.marked(), unlinked, read, waited_for, node)
    assert found == [ORPHAN, ORPHAN, HELD, HELD]
    kernel.variable("users", unlinked, 0, read)
    assert class_of(kernel.marked(), unlinked, read) == [HELD, HELD]


def test_what_stands_before_a_timer_that_ran_out_holds(kernel: Kernel) -> None:
    """detach_timer() poisons `next`, the first word of a timer: inet6_dev.stats.icmpv6msgdev stands
    before rs_timer, and every network card's had been an orphan."""
    device, unlinked, other, failed = (kernel.object() for _ in range(4))
    timer = (POISON, 0, 4_294_957_353, TEXT + 0x40, 0x29400000)
    holder = kernel.object("kmalloc-96", device, *timer)
    node = kernel.object("kmalloc-96", unlinked, POISON, 0, 7, other)
    einval = (1 << 64) - 22
    with_error = kernel.object("kmalloc-96", failed, POISON, 0, 7, einval)
    kernel.variable("holders", holder, node, with_error)
    found = class_of(kernel.marked(), device, unlinked, other, failed)
    assert found == [HELD, ORPHAN, HELD, ORPHAN]


def test_a_tagged_pointer_is_held_whatever_its_neighbour_begins_with(kernel: Kernel) -> None:
    """The xarray's head of an irq_domain of 6.12, the last words of its object: a list_head that is
    empty, and first in the next one, had been taken for those who wait at a semaphore."""
    node, entry, counted, spun_for = (kernel.object() for _ in range(4))
    tree = kernel.object("kmalloc-96", 0xCC0 << 32, node | 2, 0)
    other = kernel.object("kmalloc-96", 0, entry | 2, 0)
    flags = kernel.object("kmalloc-96", 1 << 40, counted | 1, 0)
    locked = kernel.object("kmalloc-96", 0, spun_for | 1, 1)
    for holder in (tree, other, flags, locked):
        kernel.write(holder + 24, holder + 24, holder + 24)
    kernel.variable("holders", tree, other, flags, locked)
    assert class_of(kernel.marked(), node, entry, counted, spun_for) == [HELD] * 4


def test_pages_that_kfree_rcu_keeps_for_later_hold_nothing_but_the_next(kernel: Kernel) -> None:
    freed, kept = kernel.object(), [kernel.page() for _ in range(3)]
    for page, following in pairwise(kept):
        kernel.write(page, following)
    kernel.write(kept[1] + 24, freed)
    kernel.host.layouts["struct kfree_rcu_cpu"] = layout(
        "struct kfree_rcu_cpu", 32, bkvcache=(16, 8)
    )
    kernel.variable("krc", 0, 0, kept[0])
    marked = kernel.marked()
    assert class_of(marked, freed) == [ORPHAN]
    pages = marked.nodes.pointed_at(np.array(kept, np.uint64))
    assert marked.marks.reached[pages].all()
    kernel.variable("krc", 0, 0, 0)
    kernel.variable("pages", kept[1])
    assert class_of(kernel.marked(), freed) == [HELD]


def test_a_broken_freelist_costs_its_slab_and_accuses_nobody(kernel: Kernel) -> None:
    target = kernel.object()
    holder = kernel.object("kmalloc-96", 0, target)
    first = kernel.object("kmalloc-96")
    kernel.break_freelist(holder)
    marked = kernel.marked()
    assert marked.table.broken == 1
    # What may be free and may be not is not judged, and speaks for what it points at.
    assert class_of(marked, target, holder, first) == [HELD, NOT_JUDGED, NOT_JUDGED]


@pytest.mark.parametrize("tells", [True, False])
def test_missing_pages_are_counted_and_hold_nothing(kernel: Kernel, tells: bool) -> None:
    target, other = kernel.object(), kernel.object()
    holder = kernel.object("kmalloc-96", target)
    kernel.variable("root", holder)
    page = kernel.page()
    kernel.variable("page", page)
    kernel.write(page, other)
    kernel.host.tells = tells
    marked = kernel.marked()
    assert (marked.references.coverage.missing, len(marked.unreachable())) == (0, 0)
    kernel.lose(holder & -PAGE)
    kernel.lose(page)
    marked = kernel.marked()
    coverage = marked.references.coverage
    assert (coverage.missing, coverage.missing_slab) == (2, 1)
    assert class_of(marked, target, other) == [ORPHAN, ORPHAN]
    # Its slab is not full, so it was looked at, and its slots are known to be missing.
    assert class_of(marked, holder) == [NOT_JUDGED]


def many(kernel: Kernel) -> list[int]:
    """16 full slabs of one cache, which is large for this machine; nothing points at them yet."""
    return [kernel.object("kmalloc-32", POISON) for _ in range(16 * 128)]


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for 1,024 slots, and no disk; of larger caches two slabs are enough."""
    monkeypatch.setattr(reachability, "free", lambda folder: 0)
    monkeypatch.setattr(sampling, "_TARGETS", 200)
    monkeypatch.setattr(sampling, "_BASE_BYTES", 0)
    monkeypatch.setattr(sampling, "_SLOT_BYTES", 1 << 10)


@pytest.mark.usefixtures("small_budget")
def test_of_a_cache_beyond_the_budget_some_slabs_are_judged_and_scaled(kernel: Kernel) -> None:
    nodes = many(kernel)
    marked = kernel.marked(1 << 20)
    (number,) = marked.giants
    assert marked.view.caches.all[number].name == "kmalloc-32"
    assert len(marked.table.index.rows_of(number)) == 2
    assert [marked.scale(i) for i in (number, number + 1)] == [8.0, 1.0]
    lost = marked.unreachable()
    assert set(marked.table.addresses(lost).tolist()) <= set(nodes)
    assert len(lost) == 2 * 128


@pytest.mark.usefixtures("small_budget")
def test_what_only_objects_outside_the_sample_hold_is_unsure(kernel: Kernel) -> None:
    """A ring of nodes through all slabs: followed upwards a few times, and then not further."""
    nodes = many(kernel)
    for i, at in enumerate(nodes):
        kernel.write(at, nodes[(i - 128) % len(nodes)])
    marked = kernel.marked(1 << 20)
    chosen = marked.table.at(np.array(nodes, np.uint64))
    chosen = chosen[chosen >= 0]
    assert 2 * 128 < len(chosen) < len(nodes)  # upwards, slab by slab
    assert marked.unsure[chosen].all()
    assert not len(marked.unreachable())
    # With a variable that holds the sampled slabs directly, nothing is unsure about them.
    kernel.variable("table", *nodes)
    assert not kernel.marked(1 << 20).unsure.any()


@pytest.mark.usefixtures("small_budget")
def test_what_only_slots_outside_the_sample_that_may_be_free_hold_is_doubtful(
    kernel: Kernel,
) -> None:
    nodes = many(kernel)
    for i, at in enumerate(nodes):
        kernel.write(at + 8, nodes[(i - 128) % len(nodes)])
    assert not kernel.marked(1 << 20).doubtful.any()
    for at in nodes[1::128]:
        kernel.free("kmalloc-32", at)
    marked = kernel.marked(1 << 20)
    assert marked.doubtful.any()
    assert not (marked.doubtful & ~marked.unsure).any()


def test_stacks_that_no_task_has_are_told_from_those_that_tasks_have(kernel: Kernel) -> None:
    tasks = [kernel.task(pid, "some", used=64) for pid in (1, 2, 3)]
    kernel.free("task_struct", tasks[1][0])
    view = kernel.view()
    assert owned_stacks(view) is None  # not all slabs are known
    view.scan({}, seed=0)
    owned = owned_stacks(view)
    assert owned is not None
    assert owned.tolist() == [tasks[0][1], tasks[2][1]]


def test_a_struct_page_holds_no_object_of_its_own_slab(kernel: Kernel) -> None:
    """SLAB's s_mem leads to the first slot of the slab, whoever has that."""
    own, other = kernel.object("kmalloc-64"), kernel.object("kmalloc-128")
    unused = 56  # of a struct page in this kernel
    for owner, target in ((own, own), (own, other)):
        page = VMEMMAP + 64 * ((owner - DIRECT) // PAGE)
        kernel.write(page + unused, target)
        expected = HELD if target == other else ORPHAN
        assert class_of(kernel.marked(), target) == [expected]


def test_the_vector_of_a_slab_may_be_an_object_of_the_slab(kernel: Kernel) -> None:
    """page->obj_cgroups of kmalloc's caches from 5.9 to 5.13, which are as long as it: nothing else
    points at it, and the slab stays as long as it does."""
    own = kernel.object("kmalloc-64")
    unused = 56  # of a struct page in this kernel
    kernel.write(VMEMMAP + 64 * ((own - DIRECT) // PAGE) + unused, own | 1)
    assert class_of(kernel.marked(), own) == [ORPHAN]
    page = kernel.host.layouts["struct page"]
    more = layout("struct page", 64, obj_cgroups=(unused, 8))
    members = {**page.members, **more.members}
    kernel.host.layouts["struct page"] = replace(page, members=members)
    assert class_of(kernel.marked(), own) == [HELD]
