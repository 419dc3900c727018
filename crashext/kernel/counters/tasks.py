"""Processes and their memory, from the task list.

Sources: include/linux/sched.h, mm_types.h, mm.h get_mm_counter() (3.10 to 6.12). Of what
threads of a kernel before 6.2 count for themselves (up to 64 pages each) the first one's is added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from crashext.hosts.base import Host, Layout, ReadFault
from crashext.kernel.access import require, string
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.lacking import Lacking
from crashext.kernel.lists import entries
from crashext.kernel.pages.percpu import percpu_sum
from crashext.procfs.processes import Process

_MAX_TASKS = 1 << 18
_COMM = 16
_MOST_PARTS = 1 << 17
"""Parts of counters that are read from CPUs: 512 CPUs times 100,000 processes have 200 million."""


@dataclass(frozen=True)
class Unread:
    """Processes whose counters were not read from all CPUs: there are too many of both."""

    processes: int
    """They have least by what their CPUs have added to the sum."""
    each: int | None
    """Bytes that each may have more at most; None where that cannot be told."""


def read_processes(host: Host, space: AddressSpace) -> tuple[Process, ...]:
    """Processes that have memory of their own, the largest first; not kernel threads.

    Processes that share one mm (vfork) come once, under the first of them.
    """
    return processes_of(host, space, Lacking())[0]


def processes_of(
    host: Host, space: AddressSpace, lacking: Lacking, most: int = _MOST_PARTS
) -> tuple[tuple[Process, ...], Unread | None]:
    """The same, and whose counters stand for more than was read.

    Where counters have a part on each CPU (6.2), at most `most` parts are read, those of the
    processes that are largest without.
    """
    first = host.address_of("init_task")
    if first is not None:
        with lacking.leaves_out("processes and their memory are not known"):
            return _processes(host, space, first, most)
    return (), None


def _processes(
    host: Host, space: AddressSpace, first: int, most: int
) -> tuple[tuple[Process, ...], Unread | None]:
    """Raises `UnknownLayout`."""
    task, mm = require(host, "struct task_struct"), require(host, "struct mm_struct")
    node, pointer = task["tasks"].offset, task["mm"].offset
    found: list[tuple[Process, int]] = []
    seen: set[int] = set()
    for at in entries(host, first + node, node, _MAX_TASKS):
        try:
            address = int.from_bytes(host.read(at + pointer, 8), "little")
            if not address or address in seen:
                continue
            seen.add(address)
            pid = int.from_bytes(host.read(at + task["tgid"].offset, 4), "little")
            comm = string(host, at + task["comm"].offset, _COMM)
            memory = _Memory(address, host.read(address, mm.size), _unfolded(host, task, at))
            found.append((_process(host, space, mm, memory, pid, comm, False), address))
        except ReadFault:
            continue
    found.sort(key=lambda f: _size(f[0]))
    parts = len(space.percpu_offsets) * _parts(host, mm)
    exact = len(found) if not parts else max(1, most // parts)
    result = [p for p, _ in found]
    for i, (p, address) in enumerate(found[:exact] if parts else []):
        memory = _Memory(address, host.read(address, mm.size), ())
        result[i] = _process(host, space, mm, memory, p.pid, p.comm, True)
    result.sort(key=_size)
    left = len(found) - exact
    return tuple(result), None if left <= 0 else Unread(left, _most_unfolded(host, space))


def _size(process: Process) -> tuple[int, int]:
    return -process.rss - (process.page_tables or 0), process.pid


def _most_unfolded(host: Host, space: AddressSpace) -> int | None:
    """Bytes of three counters that no CPU need have added to the sum: each keeps less than a batch.

    Source: lib/percpu_counter.c (6.2 to 6.18), compute_batch_value().
    """
    at = host.address_of("percpu_counter_batch")
    try:
        batch = None if at is None else int.from_bytes(host.read(at, 4), "little", signed=True)
    except ReadFault:
        return None
    cpus = len(space.percpu_offsets)
    return None if batch is None or batch <= 0 else 3 * cpus * batch * space.page_size


@dataclass(frozen=True, slots=True)
class _Memory:
    """An mm_struct."""

    address: int
    row: bytes
    unfolded: tuple[int, ...]


def _parts(host: Host, mm: Layout) -> int:
    """Counters of an mm that have a part on each CPU; 0 where they are plain."""
    count, percpu = host.enumerator("NR_MM_COUNTERS"), host.layout("struct percpu_counter")
    if "rss_stat" not in mm or not count or percpu is None or percpu.size <= 8:
        return 0
    # f1a7941243c1 (6.2) made an array of percpu_counters of what was one of atomics.
    return count if mm["rss_stat"].size == count * percpu.size else 0


def _process(
    host: Host,
    space: AddressSpace,
    mm: Layout,
    memory: _Memory,
    pid: int,
    comm: str,
    everywhere: bool,
) -> Process:
    """`everywhere`: with what CPUs have not added to the counters."""
    row = memory.row

    def number(name: str, scale: int) -> int | None:
        if name not in mm:
            return None
        at = mm[name].offset
        return max(0, int.from_bytes(row[at : at + 8], "little", signed=True)) * scale

    counter = _counters(host, space, mm, memory, everywhere)
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
    memory: _Memory,
    everywhere: bool,
) -> Callable[[str], int | None]:
    """Bytes of one of mm's counters."""
    count, percpu = host.enumerator("NR_MM_COUNTERS"), host.layout("struct percpu_counter")
    if "rss_stat" not in mm or not count:
        return lambda name: None
    member, row, unfolded = mm["rss_stat"], memory.row, memory.unfolded
    spread = _parts(host, mm) > 0

    def value(name: str) -> int | None:
        item = host.enumerator(name)
        if item is None or not 0 <= item < count:
            return None
        if spread and percpu is not None:
            at = member.offset + item * percpu.size
            total: int | None
            if everywhere:
                total = percpu_sum(host, space, memory.address + at)
            else:
                at += percpu["count"].offset
                total = int.from_bytes(row[at : at + 8], "little", signed=True)
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
