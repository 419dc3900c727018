"""Kernel stacks: whose they are, and which part of each is in use.

A sleeping task's stack is live from its saved stack pointer up; below are left-over words of calls
that returned long ago. Stacks of dead tasks wait in a cache for the next one.

Sources: include/linux/sched.h (task_struct.stack, thread.sp; arm64: thread.cpu_context.sp),
kernel/fork.c (alloc_thread_stack_node, cached_stacks; 4.19 to 6.12).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crashext.distinct import among, distinct
from crashext.hosts.base import Bytes, Host, Member, ReadFault
from crashext.kernel.access import Words, column, u64
from crashext.kernel.architecture import architecture
from crashext.kernel.byframe import spread
from crashext.kernel.pages.areas import Areas
from crashext.kernel.pages.pagetables import physical
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slots import SlotTable
from crashext.kernel.slab.view import KernelView

_MAX_STACK = 1 << 18
_COMM = 16
_AT_ONCE = 1 << 10
_IRQ_STACK = 16384  # IRQ_STACK_ORDER 2, arch/x86/include/asm/page_64_types.h
_KERNEL_HALF = 1 << 63


@dataclass(frozen=True)
class Stack:
    """One task's kernel stack."""

    start: int
    live: int
    """First address in use; `start` where that is not known, `end` where the task has exited."""
    end: int
    pid: int
    comm: str


@dataclass(frozen=True)
class Stacks:
    """All stacks, and the dead part of the page frames behind them."""

    stacks: tuple[Stack, ...]
    """By start."""
    dead_frame: NDArray[np.int64]
    """int64[n]: page frames with dead words, ascending."""
    dead_part: NDArray[np.int64]
    """int64[n, 2]: offsets in the page at which the dead words begin and end."""
    gone: frozenset[int]
    """Rows of `Areas` that are stacks of tasks that are gone."""
    rows: frozenset[int]
    """Rows of `Areas` that are stacks of any task."""
    ended: Words
    """uint64[n]: tasks that will never run again and have no stack any more."""
    page_shift: int

    def of_gone(self, area: int) -> bool:
        """Whether an area is the stack of a task that is gone."""
        return area in self.gone

    def dead(self, offsets: Words) -> NDArray[np.bool_]:
        """Which direct-map offsets lie in a dead part of a stack."""
        if not len(self.dead_frame):
            return np.zeros(len(offsets), np.bool_)
        frames = (offsets >> np.uint64(self.page_shift)).astype(np.int64)
        at = np.minimum(np.searchsorted(self.dead_frame, frames), len(self.dead_frame) - 1)
        inside = (offsets & np.uint64((1 << self.page_shift) - 1)).astype(np.int64)
        begin, end = self.dead_part[at, 0], self.dead_part[at, 1]
        return np.asarray((self.dead_frame[at] == frames) & (inside >= begin) & (inside < end))

    def at(self, address: int) -> Stack | None:
        """The stack that holds a virtual address."""
        at = bisect_right(self._starts, address)
        while at and address < self.stacks[at - 1].end:
            at -= 1  # of several the first
        found = self.stacks[at] if at < len(self.stacks) else None
        return found if found is not None and found.start <= address < found.end else None

    @cached_property
    def _starts(self) -> list[int]:
        return [stack.start for stack in self.stacks]


_NOTHING = (np.zeros(0, np.int64), np.zeros((0, 2), np.int64), frozenset[int]())
_NO_ROWS = frozenset[int]()


def read_stacks(view: KernelView, table: SlotTable, areas: Areas) -> Stacks:
    """Find the stack of every task_struct that is allocated, and of the boot CPU's idle task."""
    tasks = _tasks(view, table)
    if not len(tasks.stack):
        return Stacks((), *_NOTHING, _NO_ROWS, tasks.address, view.space.page_shift)
    length = _stack_size(view, areas, tasks.stack)
    running = np.sort(np.array(_running(view.host), np.uint64))
    # The lowest of the stack pointers that are in each stack.
    low, high = (np.searchsorted(running, tasks.stack + np.uint64(n)) for n in (0, length))
    stacks = []
    for i in np.argsort(tasks.stack, kind="stable").tolist():
        start, live = int(tasks.stack[i]), int(tasks.pointer[i])
        end = start + length
        if not start:
            continue
        here = low[i] < high[i]
        if not start <= live < end:
            live = start
        elif here:
            live = min(live, int(running[low[i]]))
        if not here and tasks.on_cpu[i]:
            live = start  # it runs, and its registers are not known
        elif not here and tasks.exited[i]:
            live = end
        name = bytes(tasks.comm[i]).split(b"\0", 1)[0].decode("ascii", "backslashreplace")
        stacks.append(Stack(start, live, end, int(tasks.pid[i]), name))
    ended = tasks.address[(tasks.exited != 0) & (tasks.stack == 0)]
    parts = _dead_parts(view, areas, stacks)
    return Stacks(tuple(stacks), *parts, ended, view.space.page_shift)


def owned_stacks(view: KernelView) -> Words | None:
    """Where the stacks of all tasks begin; None where only a sample of the slabs is known.

    A stack that is not among them waits for the next task, or for RCU to let it go.
    """
    cache, layout = view.caches.find("task_struct"), view.host.layout("struct task_struct")
    if cache is None or layout is None or "stack" not in layout:
        return None
    if not view.scanned or not view.index.complete:
        return None
    found = [np.zeros(0, np.uint64)]
    for batch in view.reader(cache).read(view.index, view.index.rows_of(view.caches.index(cache))):
        rows = batch.content[batch.state == State.ALLOCATED]
        found.append(column(rows, layout["stack"]))
    return distinct(np.concatenate(found))


@dataclass(frozen=True)
class _Tasks:
    """What is asked of every task_struct: an array element a task."""

    address: Words
    stack: Words
    pid: Words
    pointer: Words
    """The saved stack pointer; 0 where none is known."""
    comm: Bytes
    on_cpu: Words
    exited: Words
    """Whether the task will never run again: what is on its stack holds nothing.

    Since 68f24b08ee89 (4.9) such a stack is gone with the task's last run. Before, a leaked task
    keeps it, and the thread_info at its bottom points back at the task.
    """


def _tasks(view: KernelView, table: SlotTable) -> _Tasks:
    """init_task and those of the cache; none where it is not known where stacks are."""
    layout = view.host.layout("struct task_struct")
    found = [np.zeros((0, 6), np.uint64)]
    names = [np.zeros((0, _COMM), np.uint8)]
    if layout is not None and "stack" in layout:
        members = [layout.first_of(n) for n in ("stack", "pid", "on_cpu", "exit_state")]
        comm = layout["comm"].offset
        for addresses, rows in _task_rows(view, table, layout.size):
            columns = [
                np.zeros(len(rows), np.uint64) if member is None else column(rows, member)
                for member in (*members, _saved_pointer(view.host, rows.shape[1]))
            ]
            found.append(np.stack([addresses, *columns], axis=1))
            names.append(rows[:, comm : comm + _COMM].copy())
    address, stack, pid, on_cpu, exited, pointer = np.concatenate(found).T
    return _Tasks(address, stack, pid, pointer, np.concatenate(names), on_cpu, exited)


def _task_rows(view: KernelView, table: SlotTable, size: int) -> Iterator[tuple[Words, Bytes]]:
    """The task_structs, where and what, some at a time: a hundred thousand take a gigabyte."""
    cache = view.caches.find("task_struct")
    if cache is None:
        return
    # The cache's objects are shorter than sizeof: the FPU state at the end is sized at boot.
    size = min(size, cache.object_size)
    init = view.host.address_of("init_task")
    if init is not None:
        with suppress(ReadFault):
            row = np.frombuffer(view.host.read(init, size), np.uint8)
            yield np.array([init], np.uint64), row[None]
    of_cache = np.flatnonzero(table.index.cache == view.caches.index(cache))
    numbers = spread(table.first[of_cache], table.first[of_cache + 1])
    numbers = numbers[table.state[numbers] == State.ALLOCATED]
    for begin in range(0, len(numbers), _AT_ONCE):
        addresses = table.addresses(numbers[begin : begin + _AT_ONCE])
        rows, ok = view.host.read_many(addresses, size)
        yield addresses[ok], rows[ok]


def _running(host: Host) -> list[int]:
    """Stack pointers of the CPUs."""
    number = architecture(host).stack_pointer
    return [registers[number] for registers in host.registers() if number < len(registers)]


def _saved_pointer(host: Host, size: int) -> Member | None:
    """Where in so many bytes of a task_struct its stack pointer is kept."""
    at = 0
    for structure, member in architecture(host).saved_stack_pointer:
        layout = host.layout(structure)
        if layout is None or member not in layout:
            return None
        at += layout[member].offset
    return Member(at, 8) if at + 8 <= size else None


def _stack_size(view: KernelView, areas: Areas, starts: Words) -> int:
    """THREAD_SIZE: a stack's area without its guard page."""
    at = np.searchsorted(areas.start, starts)
    at = at[at < len(areas.start)]
    mine = at[among(areas.start[at], starts)]
    sizes = (areas.pages[mine] << np.uint64(view.space.page_shift)).astype(np.int64)
    sizes = sizes[(sizes > 0) & (sizes <= _MAX_STACK)]
    return int(np.median(sizes)) if len(sizes) else 4 * view.space.page_size  # THREAD_SIZE_ORDER 2


def _dead_parts(
    view: KernelView, areas: Areas, stacks: list[Stack]
) -> tuple[NDArray[np.int64], NDArray[np.int64], frozenset[int], frozenset[int]]:
    """The dead part of each page frame that belongs to a stack; and whose stacks areas are."""
    live = {stack.start: stack.live for stack in stacks}
    known = np.array(sorted(live), np.uint64)
    limits = np.zeros(len(areas.start), np.uint64)
    if len(known):
        at = np.minimum(np.searchsorted(known, areas.start), len(known) - 1)
        of_task = known[at] == areas.start
        values = np.array([live[int(k)] for k in known], np.uint64)
        limits[of_task] = values[at[of_task]]
    else:
        of_task = np.zeros(len(areas.start), np.bool_)
    # A dead task's stack is kept for the next: an area like the others', and nobody's.
    alike = among(areas.caller, areas.caller[of_task]) & (areas.caller != 0)
    alike &= among(areas.pages, areas.pages[of_task])
    gone = alike & ~of_task
    rows = frozenset(np.flatnonzero(gone | of_task).tolist())
    if view.host.info().live:
        return *_NOTHING, rows  # the saved stack pointers are those of a moment ago
    limits[gone] = areas.end[gone]
    # While it waits for a grace period, its first words are a link of RCU's list of callbacks:
    # e540bf3162e8 (5.18).
    header = view.host.layout("struct vm_stack")
    heads = np.zeros(len(areas.start), np.int64)
    heads[gone] = header.size if header is not None else 0
    addresses = areas.start[areas.frame_area] + (
        areas.frame_index.astype(np.uint64) << np.uint64(view.space.page_shift)
    )
    limit = limits[areas.frame_area]
    dead = limit > addresses
    end = np.minimum(limit[dead] - addresses[dead], np.uint64(view.space.page_size)).astype(
        np.int64
    )
    begin = np.where(areas.frame_index[dead] == 0, heads[areas.frame_area[dead]], 0)
    frames = [areas.frame[dead]]
    parts = [np.stack([begin, end], axis=1)]
    apart = ~np.isin(np.array([s.start for s in stacks], np.uint64), areas.start)
    for place, part in _elsewhere(view, [s for s, a in zip(stacks, apart, strict=True) if a]):
        frames.append(np.array([place], np.int64))
        parts.append(np.array([[0, part]], np.int64))
    for idle in _idle_irq_stacks(view, stacks):
        frames.append(np.array([idle], np.int64))
        parts.append(np.array([[0, view.space.page_size]], np.int64))
    frame = np.concatenate(frames)
    order = np.argsort(frame, kind="stable")
    of_gone = frozenset(np.flatnonzero(gone).tolist())
    return frame[order], np.concatenate(parts)[order], of_gone, rows


def _elsewhere(view: KernelView, stacks: list[Stack]) -> list[tuple[int, int]]:
    """(page frame, dead bytes at its start) of stacks that are not vmalloc'ed: init_task's, and
    all before VMAP_STACK."""
    found = []
    direct = view.space.direct
    for stack in stacks:
        pages = np.arange(stack.start, stack.live, view.space.page_size, dtype=np.uint64)
        if direct.start <= stack.start < direct.end:
            where, ok = pages - np.uint64(direct.start), np.ones(len(pages), np.bool_)
        else:
            where, ok = physical(view.host, view.space, pages)
        for page, at in zip(pages[ok].tolist(), where[ok].tolist(), strict=True):
            found.append(
                (at >> view.space.page_shift, min(stack.live - page, view.space.page_size))
            )
    return found


def _idle_irq_stacks(view: KernelView, stacks: list[Stack]) -> list[int]:
    """Page frames of the interrupt stacks of CPUs that are not in an interrupt.

    Sources: arch/x86/include/asm/processor.h (to 5.1, irq_stack_union, whose first words are no
    pointers), arch/x86/kernel/irq_64.c (5.2 to 6.12): per-CPU memory, since 5.2 mapped once more
    with a guard page, which hardirq_stack_ptr knows. All of it is dead while no stack pointer is
    in there. A CPU in an NMI or machine check is on a stack of those, and may have come from an
    interrupt: then nobody's is taken for dead.
    """
    host, space = view.host, view.space
    old, new, top = (
        host.address_of(n)
        for n in ("irq_stack_union", "irq_stack_backing_store", "hardirq_stack_ptr")
    )
    store = new if new is not None and top is not None else old
    pointers = _running(host)
    if store is None or len(pointers) != len(space.percpu_offsets):
        return []
    found: list[int] = []
    # Where the CPUs are: in user space, on a task's stack, or on one for interrupts.
    elsewhere = {sp for sp in pointers if sp >= _KERNEL_HALF}
    elsewhere -= {sp for sp in elsewhere if any(s.start <= sp <= s.end for s in stacks)}
    for offset in space.percpu_offsets:
        start = (store + offset) & (1 << 64) - 1
        ranges = [(start, start + _IRQ_STACK)]
        if store == new and top is not None:
            try:
                end = u64(host, top + offset & (1 << 64) - 1) + 8
            except ReadFault:
                continue
            ranges.append((end - _IRQ_STACK, end))
        here = {sp for sp in pointers if any(a <= sp <= b for a, b in ranges)}
        elsewhere -= here
        busy = bool(here)
        if not busy and space.direct.start <= start < space.direct.end:
            first = space.pfn(start)
            found += range(first, first + _IRQ_STACK // view.space.page_size)
    return [] if elsewhere else found
