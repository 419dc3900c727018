"""Words that a dead task's stack left in another's memory hold no task; pointers to it do."""

from __future__ import annotations

import pytest

from crashext.analysis.reach.reachability import Class
from tests.kernel.whole import PAGE, TEXT, VMALLOC, Kernel, class_of

HELD, ORPHAN = Class.HELD, Class.ORPHAN
FUNCTION = TEXT + 0x400
EXITED = 16
GONE = VMALLOC + 0x100 * PAGE
"""Where a stack was."""


@pytest.fixture
def kernel() -> Kernel:
    made = Kernel()
    made.host.symbols["a_function"] = FUNCTION
    return made


def dead_task(kernel: Kernel, state: int = EXITED) -> int:
    """A task on no list, without a stack."""
    return kernel.object("task_struct", 0, 0, 0, 7, 0, 0, 0, 0, 0, state)


def frame(holder: int, task: int, returns: int = FUNCTION + 24, stack: int = GONE) -> list[int]:
    """What a call leaves in the middle of an object of 128 bytes."""
    at = holder + 8 * 12
    return [returns, 0, task, 0, stack + (at + 8 * 6) % PAGE]


def put(kernel: Kernel, task: int, **otherwise: int) -> int:
    """An object that a variable holds, with such a frame."""
    holder = kernel.object("kmalloc-128")
    kernel.variable(f"holder {holder:x}", holder)
    kernel.write(holder + 8 * 8, *frame(holder, task, **otherwise))
    return holder


def test_a_frame_of_the_tasks_own_stack_holds_no_dead_task(kernel: Kernel) -> None:
    task = dead_task(kernel)
    holder = put(kernel, task)
    assert class_of(kernel.marked(), holder, task) == [HELD, ORPHAN]


def test_a_pointer_beside_the_frame_holds_it(kernel: Kernel) -> None:
    """The object knows the task, whatever else its slot has."""
    task, member = dead_task(kernel), dead_task(kernel)
    kernel.write(put(kernel, task), task)
    put(kernel, member)
    kernel.variable("another", kernel.object("kmalloc-64", 0, member + 8))
    assert class_of(kernel.marked(), task, member) == [HELD, HELD]


def test_a_task_that_still_runs_is_held_by_whatever_names_it(kernel: Kernel) -> None:
    task = dead_task(kernel, state=0)
    put(kernel, task)
    assert class_of(kernel.marked(), task) == [HELD]


def test_one_sign_alone_makes_no_frame(kernel: Kernel) -> None:
    """A pointer to a function, a stack that is there, one that was elsewhere in its page."""
    tasks = [dead_task(kernel) for _ in range(4)]
    put(kernel, tasks[0], returns=FUNCTION)
    put(kernel, tasks[1], returns=0)
    put(kernel, tasks[2], stack=kernel.area(1))
    put(kernel, tasks[3], stack=GONE + PAGE // 2)
    assert class_of(kernel.marked(), *tasks) == [HELD] * 4


def test_what_is_far_from_the_task_is_not_of_its_frame(kernel: Kernel) -> None:
    task, holder = dead_task(kernel), kernel.object("kmalloc-192")
    kernel.variable("holder", holder)
    kernel.write(holder, FUNCTION + 24, task)
    kernel.write(holder + 8 * 20, GONE + (holder + 8 * 23) % PAGE)
    assert class_of(kernel.marked(), task) == [HELD]
