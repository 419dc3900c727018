"""Members of tasks that link them to other tasks for the scheduler alone."""

from __future__ import annotations

import numpy as np

from crashext.hosts.base import Host

_SCHEDULING = (
    ("last_wakee", "", ""),
    ("wake_entry", "", ""),
    ("se", "struct sched_entity", "run_node"),
    ("se", "struct sched_entity", "group_node"),
    ("rt", "struct sched_rt_entity", "run_list"),
    ("pushable_tasks", "", ""),
    ("pushable_dl_tasks", "", ""),
)
"""Members of a task_struct, of members' own, that link it to other tasks while it waits for a CPU.

They keep the address when it does not any more, and no task is known by them alone: those that
live are on the list of tasks. Source: include/linux/sched.h, kernel/sched/ (4.19 to 6.12).
"""


def links_of_tasks(host: Host) -> list[tuple[np.uint64, np.uint64]]:
    """[start, end) of those members, on this kernel."""
    task = host.layout("struct task_struct")
    found = []
    for member, kind, inner in _SCHEDULING:
        if task is None or member not in task:
            continue
        start, size = task[member].offset, task[member].size
        if kind:
            layout = host.layout(kind)
            if layout is None or inner not in layout:
                continue
            start, size = start + layout[inner].offset, layout[inner].size
        found.append((np.uint64(start), np.uint64(start + size)))
    return found
