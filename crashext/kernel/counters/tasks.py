"""Processes and their memory, from the task list.

Sources: include/linux/sched.h, mm_types.h, mm.h get_mm_counter() (3.10 to 6.12). Of what
threads of a kernel before 6.2 count for themselves (up to 64 pages each) the first one's is added.
"""

from __future__ import annotations

from collections.abc import Callable

from crashext.hosts.base import Host, Layout, ReadFault, UnknownLayout
from crashext.kernel.access import string
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.lists import entries
from crashext.kernel.pages.percpu import percpu_sum
from crashext.procfs.processes import Process

_MAX_TASKS = 1 << 18
_COMM = 16


def read_processes(host: Host, space: AddressSpace) -> tuple[Process, ...]:
    """Processes that have memory of their own, the largest first; not kernel threads.

    Processes that share one mm (vfork) come once, under the first of them.
    """
    task, first = host.layout("struct task_struct"), host.address_of("init_task")
    mm = host.layout("struct mm_struct")
    if task is None or mm is None or first is None or "tasks" not in task:
        return ()
    node, pointer = task["tasks"].offset, task["mm"].offset
    found: list[Process] = []
    seen: set[int] = set()
    for at in entries(host, first + node, node, _MAX_TASKS):
        try:
            address = int.from_bytes(host.read(at + pointer, 8), "little")
            if not address or address in seen:
                continue
            seen.add(address)
            pid = int.from_bytes(host.read(at + task["tgid"].offset, 4), "little")
            comm = string(host, at + task["comm"].offset, _COMM)
            found.append(_process(host, space, mm, address, pid, comm, _unfolded(host, task, at)))
        except (ReadFault, UnknownLayout):
            continue
    return tuple(sorted(found, key=lambda p: (-p.rss - (p.page_tables or 0), p.pid)))


def _process(
    host: Host,
    space: AddressSpace,
    mm: Layout,
    address: int,
    pid: int,
    comm: str,
    unfolded: tuple[int, ...],
) -> Process:
    row = host.read(address, mm.size)

    def number(name: str, scale: int) -> int | None:
        if name not in mm:
            return None
        at = mm[name].offset
        return max(0, int.from_bytes(row[at : at + 8], "little", signed=True)) * scale

    counter = _counters(host, space, mm, address, row, unfolded)
    file, anon = counter("MM_FILEPAGES"), counter("MM_ANONPAGES")
    shmem = counter("MM_SHMEMPAGES")  # eca56ff906bd (4.5); before, a part of file
    tables = number("pgtables_bytes", 1)  # af5b0f6a09e4 (4.15)
    if tables is None:
        levels = [number(name, space.page_size) for name in ("nr_ptes", "nr_pmds", "nr_puds")]
        tables = sum(n for n in levels if n is not None)
    return Process(
        pid=pid,
        comm=comm,
        rss=(file or 0) + (anon or 0) + (shmem or 0),
        rss_anon=anon,
        rss_file=file,
        rss_shmem=shmem,
        swap=counter("MM_SWAPENTS"),
        locked=number("locked_vm", space.page_size),
        page_tables=tables,
        hugetlb=number("hugetlb_usage", space.page_size),
    )


def _counters(
    host: Host,
    space: AddressSpace,
    mm: Layout,
    address: int,
    row: bytes,
    unfolded: tuple[int, ...],
) -> Callable[[str], int | None]:
    """Bytes of one of mm's counters."""
    count, percpu = host.enumerator("NR_MM_COUNTERS"), host.layout("struct percpu_counter")
    if "rss_stat" not in mm or not count:
        return lambda name: None
    member = mm["rss_stat"]
    # f1a7941243c1 (6.2) made an array of percpu_counters of what was one of atomics.
    spread = percpu is not None and member.size == count * percpu.size and percpu.size > 8

    def value(name: str) -> int | None:
        item = host.enumerator(name)
        if item is None or not 0 <= item < count:
            return None
        if spread and percpu is not None:
            total = percpu_sum(host, space, address + member.offset + item * percpu.size)
            return None if total is None else max(0, total) * space.page_size
        at = member.offset + 8 * item
        own = unfolded[item] if item < len(unfolded) else 0
        return (
            max(0, int.from_bytes(row[at : at + 8], "little", signed=True) + own) * space.page_size
        )

    return value


def _unfolded(host: Host, task: Layout, address: int) -> tuple[int, ...]:
    """Pages that a thread has not added to its mm yet, by counter; until 6.2."""
    layout = host.layout("struct task_rss_stat")
    if layout is None or "rss_stat" not in task or "count" not in layout:
        return ()
    member = layout["count"]
    data = host.read(address + task["rss_stat"].offset + member.offset, member.size)
    return tuple(
        int.from_bytes(data[i : i + 4], "little", signed=True) for i in range(0, member.size, 4)
    )
