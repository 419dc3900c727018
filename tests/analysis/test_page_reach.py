"""Stacks that are raw pages, as before CONFIG_VMAP_STACK: they are lost with their task."""

from __future__ import annotations

from crashext.analysis.page_reach import unreachable_memory
from crashext.analysis.results.evidence import UnreachableMemory
from tests.kernel.whole import PAGE, THREAD_SIZE, Kernel


def stack(kernel: Kernel, *words: int) -> int:
    """Four pages from the page allocator."""
    kernel.align(THREAD_SIZE // PAGE)
    at = kernel.block(THREAD_SIZE // PAGE)
    kernel.write(at, *words)
    return at


def memory(kernel: Kernel) -> dict[str, UnreachableMemory]:
    """Unreachable blocks of pages, by the cache that they belong to."""
    found = unreachable_memory(kernel.marked(), [])
    return {m.part_of: m for m in found if m.kind == "pages"}


def test_the_stack_of_a_lost_task_belongs_to_it() -> None:
    kernel = Kernel()
    at = stack(kernel)
    task = kernel.object("task_struct", 0, 0, at, 77)
    kernel.write(at, task)  # thread_info.task, until 4.9
    found = memory(kernel)
    assert set(found) == {"task_struct"}
    assert found["task_struct"].examples == (at,)
    assert found["task_struct"].bytes == THREAD_SIZE
    assert found["task_struct"].orders == ((2, 1),)


def test_pages_like_a_stack_that_no_task_has_are_lost_by_themselves() -> None:
    kernel = Kernel()
    kernel.object("task_struct", 0, 0, stack(kernel), 77)
    other = stack(kernel)
    found = memory(kernel)
    assert set(found) == {"task_struct", ""}
    assert found[""].examples == (other,)


def test_the_stack_of_a_task_that_is_known_is_not_lost() -> None:
    kernel = Kernel()
    at = stack(kernel)
    kernel.variable("somebody", kernel.object("task_struct", 0, 0, at, 77))
    assert not memory(kernel)
