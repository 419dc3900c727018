"""Whether the mark is to be believed: objects that every kernel can reach must have been reached.

Wherever the tool misreads a kernel (roots in memory it takes for user pages, per-CPU memory it
does not find, a direct map it places wrongly), objects look lost by the thousand, and everybody is
accused. Checks that know nothing of the cause: objects that a walk along the kernel's own lists
gets to must be marked, and a leak cannot be in a large share of all caches. And a CPU that is
emulated may count wrongly: what is looked up by address must be in order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.reachability import Reach
from crashext.kernel.lists import entries
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.view import KernelView

MISSED = 0.05
"""Share of the witnesses of one kind from which the mark is not believed. Some may be missed: a
task on its way out, a list that leads astray."""
CACHES = 1 / 3
"""Share of all caches from which it is no leak. A leak of tasks with all they own is in one in
seven of a small kernel's."""
_COUNTED_LEAST = 8  # objects that a cache needs to be counted ...
_CACHES_LEAST = 12  # ... and such caches that there must be
_MOST_WITNESSES = 4096
_SORTED = 111
"""Addresses that a CPU must be able to sort."""


def misgivings(marked: Reach) -> tuple[str, ...]:
    """Why the mark is not to be believed, in sentences; empty where nothing speaks against it."""
    found = []
    for kind, addresses in (
        ("cache descriptors", [c.address for c in marked.view.caches.all]),
        ("tasks of the task list", _tasks(marked.view)),
    ):
        total, missed = _missed(marked, addresses)
        if missed and missed >= MISSED * total:
            found.append(f"{missed:,} of {total:,} {kind} look unreachable, which are in use")
    if not sorts():
        found.append("this CPU sorts addresses wrongly, as QEMU's without KVM may with AVX2")
    return (*found, *_everywhere(marked))


def sorts() -> bool:
    """Whether numpy sorts addresses on this CPU, which it does with the vectors that it has."""
    addresses = np.uint64(0xFFFFC90000000000) + np.arange(_SORTED, dtype=np.uint64)
    shuffled = addresses[np.arange(_SORTED) * 64 % _SORTED]
    return bool((shuffled[np.argsort(shuffled)] == addresses).all())


def _tasks(view: KernelView) -> list[int]:
    task, first = view.host.layout("struct task_struct"), view.host.address_of("init_task")
    if task is None or first is None or "tasks" not in task:
        return []
    offset = task["tasks"].offset
    return list(entries(view.host, first + offset, offset, _MOST_WITNESSES))


def _missed(marked: Reach, addresses: list[int]) -> tuple[int, int]:
    """How many of the objects at `addresses` are allocated for sure, and not marked of those."""
    slots = marked.table.at(np.array(addresses, np.uint64))
    slots = slots[slots >= 0]
    slots = slots[marked.table.state[slots] == State.ALLOCATED]
    return len(slots), int((~marked.marks.reached[slots]).sum())


def _everywhere(marked: Reach) -> tuple[str, ...]:
    """Most objects of very many caches are lost."""
    allocated = marked.table.in_state(State.ALLOCATED, len(marked.view.caches.all))
    lost = _by_cache(marked, marked.unreachable())
    counted = allocated >= _COUNTED_LEAST
    total, bad = int(counted.sum()), int((counted & (2 * lost > allocated)).sum())
    if total < _CACHES_LEAST or bad <= CACHES * total:
        return ()
    return (f"most objects of {bad} of {total} caches look unreachable",)


def _by_cache(marked: Reach, slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the slots are in each cache."""
    sums = np.zeros(len(marked.view.caches.all), np.int64)
    for begin in range(0, len(slots), 1 << 20):
        caches = marked.table.caches(slots[begin : begin + (1 << 20)])
        sums += np.bincount(caches, minlength=len(sums))
    return sums
