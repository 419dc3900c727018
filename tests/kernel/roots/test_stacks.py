"""Kernel stacks: whose they are and how much of each is in use, against drgn's tasks."""

from __future__ import annotations

import numpy as np
import pytest
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.sched import idle_task

from crashext.analysis.reach.reachability import Reach
from crashext.kernel.roots.stacks import Stacks
from tests.conftest import lab_host
from tests.end_to_end.test_orphans import marked
from tests.kernel.oracle import drgn_program


def stacks(name: str) -> tuple[Reach, Stacks]:
    return marked(name), marked(name).stacks


@pytest.mark.parametrize("name", ["default", "healthy", "nodes-debug"])
def test_every_task_of_drgn_has_its_stack(name: str) -> None:
    prog = drgn_program(name)
    _, found = stacks(name)
    by_start = {s.start: s for s in found.stacks}
    tasks = [*for_each_task(prog), *(idle_task(prog, cpu) for cpu in for_each_online_cpu(prog))]
    assert len(tasks) > 40
    for task in tasks:
        stack = by_start[task.stack.value_()]
        assert (stack.pid, stack.comm) == (task.pid.value_(), task.comm.string_().decode())
        assert stack.end - stack.start == 16384
        if not task.on_cpu.value_():
            assert stack.live == task.thread.sp.value_()
        assert stack.start <= stack.live < stack.end


def test_a_running_task_is_live_from_its_registers() -> None:
    """What runs has no saved stack pointer of any use: the registers in the dump's notes do."""
    prog = drgn_program("default")
    _, found = stacks("default")
    pointers = [registers[19] for registers in lab_host("default").registers()]
    running = [idle_task(prog, cpu) for cpu in for_each_online_cpu(prog)]
    running += list(for_each_task(prog))
    for task in running:
        if not task.on_cpu.value_():
            continue
        stack = next(s for s in found.stacks if s.start == task.stack.value_())
        mine = [sp for sp in pointers if stack.start <= sp < stack.end]
        assert stack.live <= min(mine, default=stack.end)


def test_dead_words_are_below_the_stack_pointer_and_of_nobody_elses() -> None:
    marks, found = stacks("default")
    view = marks.view
    assert len(found.dead_frame) > 50
    assert (np.diff(found.dead_frame) >= 0).all()
    assert (found.dead_part[:, 0] <= found.dead_part[:, 1]).all()
    assert (found.dead_part >= 0).all()
    assert (found.dead_part <= 4096).all()
    owners, addresses = marks.areas.at(found.dead_frame)
    by_start = {s.start: s for s in found.stacks}
    for row, address, (begin, end) in zip(
        owners.tolist(), addresses.tolist(), found.dead_part.tolist(), strict=True
    ):
        if row < 0:
            continue  # an idle CPU's interrupt stack, in per-CPU memory
        stack = by_start.get(int(marks.areas.start[row]))
        if stack is None:
            assert found.of_gone(row)
            continue
        assert stack.start <= address + begin
        assert address + end <= max(stack.live, stack.start)
    inside = (found.dead_frame.astype(np.uint64) << np.uint64(12)) + found.dead_part[:, 0].astype(
        np.uint64
    )
    some = found.dead_part[:, 0] < found.dead_part[:, 1]
    assert found.dead(inside[some]).all()
    live = [physical for s in found.stacks[:50] if (physical := _direct(marks, s.live)) is not None]
    assert len(live) > 20
    assert not found.dead(np.array(live, np.uint64)).any()
    assert view.space.direct.start


def _direct(marks: Reach, address: int) -> int | None:
    """Physical address of a word of a vmalloc'ed stack."""
    areas = marks.areas
    row = int(np.searchsorted(areas.start, np.uint64(address), side="right")) - 1
    number = (address - int(areas.start[row])) >> 12
    at = np.flatnonzero((areas.frame_area == row) & (areas.frame_index == number))
    return None if not len(at) else (int(areas.frame[at[0]]) << 12) + address % 4096


def test_stacks_of_tasks_that_are_gone_belong_to_no_task() -> None:
    marks, found = stacks("tasks")
    mine = {s.start for s in found.stacks}
    assert found.gone
    for row in found.gone:
        assert int(marks.areas.start[row]) not in mine
        assert not found.at(int(marks.areas.start[row]))


def test_an_address_is_in_the_stack_that_holds_it() -> None:
    _, found = stacks("healthy")
    stack = found.stacks[3]
    assert found.at(stack.start) == found.at(stack.end - 1) == stack
    assert found.at(0) is None
