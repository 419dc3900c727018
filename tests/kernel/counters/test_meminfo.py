"""The kernel's counters in a dump against the guest's own /proc, and against drgn."""

from __future__ import annotations

import pytest
from drgn.helpers.linux.mm import totalram_pages
from drgn.helpers.linux.percpu import percpu_counter_sum
from drgn.helpers.linux.pid import for_each_task

from crashext.kernel.addresses import AddressSpace, Range
from crashext.kernel.counters.meminfo import KernelCounters
from crashext.kernel.counters.tasks import Unread, processes_of, read_processes
from crashext.kernel.counters.vmstat import read_cpu_free, read_vmstat
from crashext.kernel.lacking import Lacking
from crashext.kernel.lists import entries
from crashext.kernel.pages.filesystems import read_tmpfs
from crashext.kernel.pages.percpu import percpu_sum
from crashext.procfs.counters import MemInfo, parse_meminfo, parse_zoneinfo
from tests.conftest import lab_dump, lab_host, lab_view
from tests.fake import FakeHost, layout, word
from tests.lab import SCENARIOS

GALLERY = (
    "process",
    "tmpfs",
    "pagetables",
    "pagecache",
    "dentries",
    "rcu",
    "fragmentation",
    "hugetlb",
    "kmem_test",
    "two",
    "healthy4g",
    "kmemleak",
)
DUMPS = ["default", "healthy", "huge", "pages", "vmalloc", "twin", "nodes-debug"]
DUMPS += [name for name in GALLERY if name in SCENARIOS]
CONSTANT = ("NFS_Unstable", "VmallocChunk")
"""Lines of 6.1 that print 0 whatever happens; nothing in memory says so."""

SPACE = AddressSpace(
    direct=Range(0xFFFF888000000000, 0xFFFF888010000000),
    vmalloc=Range(0xFFFFC90000000000, 0xFFFFE90000000000),
    vmemmap=Range(0xFFFFEA0000000000, 0xFFFFEA0000400000),
    text=Range(0, 0),
    image=Range(0, 0),
    modules=Range(0xFFFFFFFF80000000, (1 << 64) - 1),
    percpu_offsets=(0x1000, 0x2000),
    percpu_first_chunk=Range(0, 0),
)


def counters(name: str) -> KernelCounters:
    view = lab_view(name)
    return KernelCounters(view.host, view.space)


def proc(name: str) -> MemInfo:
    return parse_meminfo((lab_dump(name).proc / "meminfo").read_text().splitlines())


# The kmemleak guest writes megabytes of reports into its tmpfs after it has read meminfo.
@pytest.mark.parametrize("name", [n for n in DUMPS if n != "kmemleak"])
def test_every_line_of_meminfo(name: str) -> None:
    ours, theirs = counters(name).meminfo(), proc(name)
    assert len(theirs.sizes) > 35
    for line, size in theirs.sizes.items():
        if line in CONSTANT:
            assert size == 0
            continue
        assert abs(ours.sizes[line] - size) <= max(size // 100, 256 << 10), line
    assert ours.counts == theirs.counts


@pytest.mark.parametrize("name", ["default", "huge"])
def test_what_cannot_change_is_exact(name: str) -> None:
    ours, theirs = counters(name).meminfo(), proc(name)
    for line in ("MemTotal", "Percpu", "DirectMap4k", "DirectMap2M", "VmallocTotal", "CommitLimit"):
        if line in theirs.sizes:
            assert ours.sizes[line] == theirs.sizes[line], line


@pytest.mark.parametrize("name", ["default", "huge"])
def test_zones_are_those_of_zoneinfo(name: str) -> None:
    zones = counters(name).zones
    text = (lab_dump(name).proc / "zoneinfo").read_text()
    theirs = parse_zoneinfo(text.splitlines()).zones
    assert zones is not None
    for ours, field in (
        (zones.managed, "managed"),
        (zones.present, "present"),
        (zones.spanned, "spanned"),
        (zones.low, "low"),
    ):
        assert ours == sum(z.values.get(field, 0) for z in theirs), field


def test_totals_are_drgns() -> None:
    program = lab_host("default")._program
    assert counters("default").total == int(totalram_pages(program))
    view = lab_view("default")
    address = int(program["vm_committed_as"].address_of_())
    assert percpu_sum(view.host, view.space, address) == int(
        percpu_counter_sum(program["vm_committed_as"].address_of_())
    )


@pytest.mark.parametrize("name", ["default", *(n for n in ("process", "hugetlb") if n in DUMPS)])
def test_processes_are_drgns(name: str) -> None:
    view = lab_view(name)
    program = lab_host(name)._program
    kinds = ("MM_ANONPAGES", "MM_FILEPAGES", "MM_SHMEMPAGES")
    theirs = {
        int(task.pid): (
            task.comm.string_().decode(),
            [
                int(task.mm.rss_stat.count[program.constant(k)].counter)
                + int(task.rss_stat.count[program.constant(k)])
                for k in kinds
            ],
            int(task.mm.pgtables_bytes.counter),
        )
        for task in for_each_task(program)
        if task.mm and task.tgid == task.pid
    }
    ours = {
        p.pid: (
            p.comm,
            [(n or 0) // 4096 for n in (p.rss_anon, p.rss_file, p.rss_shmem)],
            p.page_tables,
        )
        for p in read_processes(view.host, view.space)
    }
    assert 1 in ours
    assert ours == theirs


@pytest.mark.parametrize("name", ["default", "pages", *(n for n in ("tmpfs",) if n in DUMPS)])
def test_files_in_memory_are_the_shmem_pages(name: str) -> None:
    view = lab_view(name)
    mounts = read_tmpfs(view.host, view.space, Lacking())
    assert all(t.complete for t in mounts)
    assert sum(t.bytes for t in mounts) == counters(name).meminfo().sizes["Shmem"]
    # Nothing was swapped out: where tmpfs counts for itself it must say the same.
    assert all(t.used in (None, t.bytes) for t in mounts)
    root = next(t for t in mounts if t.mounted == "/" and t.kind == "rootfs")
    assert root.files > 100
    assert "/bin/busybox" in [f.name for f in root.largest]


@pytest.mark.parametrize("name", DUMPS)
def test_free_pages_of_cpus(name: str) -> None:
    view = lab_view(name)
    free = read_cpu_free(view.host, view.space)
    assert free is not None
    assert 0 < free < 16384


def _vmstat(*names: str, **items: int) -> FakeHost:
    """A kernel whose zone counters are 100, 101, ... and whose node counters 200, 201, ..."""
    host = FakeHost(
        symbols={"vm_zone_stat": 0x1000, "vm_node_stat": 0x2000},
        enumerators={"NR_VM_ZONE_STAT_ITEMS": 12, "NR_VM_NODE_STAT_ITEMS": 40, **items},
    )
    host.put(0x1000, word(*range(100, 112)))
    host.put(0x2000, word(*range(200, 240)))
    return host


def test_counters_that_moved_are_found_where_they_are() -> None:
    # 4.12: slab, page tables and stacks are the zone's, behind NR_MLOCK.
    old = read_vmstat(
        _vmstat(NR_MLOCK=3, NR_SLAB_RECLAIMABLE=4, NR_PAGETABLE=6, NR_FILE_PAGES=10), SPACE
    )
    assert old is not None
    assert old.get("NR_SLAB_RECLAIMABLE") == 104
    assert old.get("NR_PAGETABLE") == 106
    assert old.get("NR_FILE_PAGES") == 210
    # 6.1: the node's, slab near the front and page tables near the end.
    new = read_vmstat(
        _vmstat(NR_MLOCK=7, NR_SLAB_RECLAIMABLE_B=5, NR_SLAB_RECLAIMABLE=5, NR_PAGETABLE=38), SPACE
    )
    assert new is not None
    assert new.get("NR_SLAB_RECLAIMABLE") == 205
    assert new.get("NR_PAGETABLE") == 238
    assert new.get("NR_MLOCK") == 107
    assert new.get("NR_NO_SUCH", "NR_MLOCK") == 107
    assert new.get("NR_NO_SUCH") is None


def test_before_4_8_zones_count_everything() -> None:
    host = FakeHost(
        symbols={"vm_stat": 0x1000},
        enumerators={"NR_VM_ZONE_STAT_ITEMS": 12, "NR_FILE_PAGES": 9, "NR_FREE_PAGES": 0},
    )
    host.put(0x1000, word(*range(100, 112)))
    stat = read_vmstat(host, SPACE)
    assert stat is not None
    assert stat.get("NR_FILE_PAGES") == 109


def test_counters_below_zero_read_as_zero() -> None:
    host = _vmstat(NR_FREE_PAGES=0)
    host.put(0x1000, word(-3))
    stat = read_vmstat(host, SPACE)
    assert stat is not None
    assert stat.get("NR_FREE_PAGES") == 0


def test_no_counters_no_lines() -> None:
    host = FakeHost()
    assert read_vmstat(host, SPACE) is None
    known = KernelCounters(host, SPACE).meminfo()
    assert "MemTotal" not in known.sizes
    assert "MemFree" not in known.sizes
    assert known.counts == {}


def test_a_list_that_bites_its_tail_ends() -> None:
    host = FakeHost()
    host.put(0x1000, word(0x2000))
    host.put(0x2000, word(0x3000))
    host.put(0x3000, word(0x2000))
    assert list(entries(host, 0x1000, 8, 100)) == [0x1FF8, 0x2FF8]
    host.put(0x3000, word(0x9000))  # and one that leads out of the dump
    assert list(entries(host, 0x1000, 0, 100)) == [0x2000, 0x3000, 0x9000]
    assert list(entries(host, 0x1000, 0, 2)) == [0x2000, 0x3000]


def _process(rss_stat: tuple[int, int], *more: str) -> FakeHost:
    percpu = layout("struct percpu_counter", 40, count=(8, 8), counters=(32, 8))
    host = FakeHost(
        layout("struct task_struct", 0x100, tasks=(0, 16), mm=(16, 8), tgid=(24, 4), comm=(32, 16)),
        layout("struct mm_struct", 0x200, pgtables_bytes=(0, 8), rss_stat=rss_stat),
        percpu,
        symbols={"init_task": 0x10000, **dict.fromkeys(more, 0x600000)},
        enumerators={
            "MM_FILEPAGES": 0,
            "MM_ANONPAGES": 1,
            "MM_SWAPENTS": 2,
            "MM_SHMEMPAGES": 3,
            "NR_MM_COUNTERS": 4,
        },
    )
    host.put(0x10000, word(0x20000, 0x20000, 0).ljust(0x100, b"\0"))
    task = word(0x10000, 0x10000, 0x30000, 42) + b"eater\x1b[2J\0"
    host.put(0x20000, task.ljust(0x100, b"\0"))
    return host


def test_rss_of_atomics() -> None:
    host = _process((16, 32))
    host.put(0x30000, (word(8192, 0) + word(1, 20, 3, 4)).ljust(0x200, b"\0"))
    (process,) = read_processes(host, SPACE)
    assert (process.pid, process.rss_anon, process.rss) == (42, 20 * 4096, 25 * 4096)
    assert (process.swap, process.page_tables) == (3 * 4096, 8192)


def test_rss_of_percpu_counters() -> None:
    """f1a7941243c1 (6.2); a CPU's part may be negative."""
    host = _process((16, 160))
    counters = b"".join(word(0, n, 0, 0, 0x500000 + 16 * i) for i, n in enumerate((1, 20, 3, 4)))
    host.put(0x30000, (word(8192, 0) + counters).ljust(0x200, b"\0"))
    for cpu, part in ((0x1000, 7), (0x2000, -2)):
        host.put(0x500000 + cpu, part.to_bytes(4, "little", signed=True) * 16)
    (process,) = read_processes(host, SPACE)
    assert process.rss_anon == 25 * 4096
    assert process.rss_file == 6 * 4096
    assert process.comm.startswith("eater")


def test_a_process_whose_mm_is_missing_costs_that_process() -> None:
    assert read_processes(_process((16, 32)), SPACE) == ()


def test_of_too_many_processes_the_largest_are_read_on_all_cpus() -> None:
    """100,000 of them on 512 CPUs have 200 million parts of counters."""
    host = _process((16, 160), "percpu_counter_batch")
    host.put(0x600000, (32).to_bytes(4, "little"))
    for number in range(3):
        at, mm = 0x20000 + 0x1000 * number, 0x30000 + 0x1000 * number
        following = at + 0x1000 if number < 2 else 0x10000
        host.put(at, (word(following, 0, mm, number) + b"eater\0").ljust(0x100, b"\0"))
        counters = b"".join(
            word(0, 10 * number + 1, 0, 0, 0x500000 + 0x10000 * number) for _ in range(4)
        )
        host.put(mm, (word(8192, 0) + counters).ljust(0x200, b"\0"))
        for cpu in (0x1000, 0x2000):
            host.put(0x500000 + 0x10000 * number + cpu, (5).to_bytes(4, "little") * 16)
    processes, unread = processes_of(host, SPACE, Lacking(), most=2 * 4 * len(SPACE.percpu_offsets))
    assert [(p.pid, p.rss_anon) for p in processes] == [
        (2, 31 * 4096),
        (1, 21 * 4096),
        (0, 1 * 4096),
    ]
    assert unread == Unread(1, 3 * 2 * 32 * 4096)
    assert processes_of(host, SPACE, Lacking())[1] is None
