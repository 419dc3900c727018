"""Where MemTotal went: it adds up, to the byte, and a leak is where it was made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from crashext.analysis.memory.memsplit import MemorySplit, memory_split
from crashext.analysis.proc import ProcReport, read_snapshot, report
from crashext.procfs.counters import parse_meminfo
from crashext.procfs.folder import ProcFolder
from crashext.procfs.vmallocinfo import parse_vmallocinfo
from tests.conftest import lab_dump

MIB = 1 << 20
DUMPS = ["default", "nodes", "vmalloc", "pages", "healthy", "nodes-debug", "huge"]


def overview(*names: str) -> ProcReport:
    folders = [lab_dump(name).folder / "proc" for name in names]
    return report([read_snapshot(ProcFolder(f)) for f in folders])


def split_of(name: str) -> MemorySplit:
    split = overview(name).split
    assert split is not None
    return split


def adds_up(split: MemorySplit) -> bool:
    return sum(p.bytes for p in split.parts) + split.unaccounted == split.total


@pytest.mark.parametrize("name", DUMPS)
def test_it_adds_up(name: str) -> None:
    split = split_of(name)
    text = (lab_dump(name).folder / "proc" / "meminfo").read_text()
    assert split.total == parse_meminfo(text.splitlines()).sizes["MemTotal"]
    assert adds_up(split)
    assert sum(split.sum(g) for g in ("free", "user", "kernel")) + split.unaccounted == split.total


def test_this_machine_adds_up() -> None:
    found = report([read_snapshot(ProcFolder(Path("/proc")))])
    assert found.split is not None
    assert adds_up(found.split)
    assert 0 < found.split.get("free") < found.split.total


def test_leaked_pages_are_in_no_counter() -> None:
    """60 MiB of alloc_pages() are unaccounted; a healthy guest has little that is."""
    truth = lab_dump("pages").truth()
    pages = sum(truth["parts"][f"pages{order}"]["count"] << order for order in range(4))
    healthy = split_of("healthy").unaccounted
    assert split_of("pages").unaccounted - healthy == pytest.approx(pages * 4096, abs=2 * MIB)
    for other in ("nodes", "vmalloc", "default"):
        leaked = 15 * 64 * 4096 if other == "default" else 0
        assert split_of(other).unaccounted - healthy == pytest.approx(leaked, abs=2 * MIB)


def test_leaked_areas_and_objects_are_where_they_belong() -> None:
    vmalloc = lab_dump("vmalloc").truth()["parts"]["vmalloc"]
    size = vmalloc["count"] * vmalloc["size"]
    healthy, areas, nodes = split_of("healthy"), split_of("vmalloc"), split_of("nodes")
    assert areas.get("vmalloc") - healthy.get("vmalloc") == pytest.approx(size, abs=MIB)
    objects = lab_dump("nodes").truth()["parts"]["nodes"]["count"] * 32
    name = "slab, unreclaimable"
    assert nodes.get(name) - healthy.get(name) == pytest.approx(objects, abs=MIB)


def split(lines: Iterable[str], areas: Iterable[str] | None = None) -> MemorySplit:
    vmalloc = None if areas is None else parse_vmallocinfo(areas)
    found = memory_split(parse_meminfo(lines), vmalloc, 4096)
    assert found is not None
    assert adds_up(found)
    return found


BASE = ["MemTotal: 100000 kB", "MemFree: 10000 kB"]
STACK = "0x1000-0x6000 20480 copy_process+0x1/0x2 pages=4 vmalloc N0=4"
AREA = "0x7000-0x9000 8192 thing+0x1/0x2 [mod] pages=1 vmalloc N0=1"


def test_without_memtotal_nothing_is_said() -> None:
    assert memory_split(None, None, 4096) is None
    assert memory_split(parse_meminfo(["MemFree: 1 kB"]), None, 4096) is None


def test_stacks_are_counted_once() -> None:
    """With VMAP_STACK they are areas and KernelStack; without, KernelStack only."""
    mapped = split([*BASE, "KernelStack: 12 kB"], [STACK, AREA])
    assert (mapped.get("kernel stacks"), mapped.get("vmalloc")) == (16384, 4096)
    apart = split([*BASE, "KernelStack: 12 kB"], [AREA])
    assert (apart.get("kernel stacks"), apart.get("vmalloc")) == (12288, 4096)


def test_vmalloc_used_is_pages_only_since_5_3() -> None:
    used = [*BASE, "VmallocUsed: 200 kB", "KernelStack: 12 kB"]
    assert split(used).get("vmalloc") == 0  # address space, ioremap included
    assert split([*used, "KReclaimable: 0 kB"]).get("vmalloc") == 188 << 10
    assert split([*used, "KReclaimable: 0 kB"], [AREA]).get("vmalloc") == 4096


def test_shmem_is_no_file_cache() -> None:
    found = split([*BASE, "Cached: 500 kB", "Shmem: 300 kB"])
    assert (found.get("file cache"), found.get("shmem and tmpfs")) == (200 << 10, 300 << 10)
    assert split([*BASE, "Cached: 500 kB"]).get("file cache") == 500 << 10


def test_mapped_pages_of_the_swap_cache_are_counted_once() -> None:
    lines = [*BASE, "AnonPages: 400 kB", "SwapCached: 100 kB", "Inactive: 30 kB"]
    assert split([*lines, "Active: 370 kB"]).get("swap cache") == 0  # all of them mapped
    assert split([*lines, "Active: 430 kB"]).get("swap cache") == 60 << 10
    assert split([*lines, "Active: 9000 kB"]).get("swap cache") == 100 << 10


def test_hugetlb_of_all_sizes_or_of_one() -> None:
    pool = ["HugePages_Total:      3", "Hugepagesize:       2048 kB"]
    assert split([*BASE, *pool]).get("hugetlb") == 6 << 20
    assert split([*BASE, *pool, "Hugetlb:  1054720 kB"]).get("hugetlb") == 1054720 << 10


def test_counters_that_overlap_give_a_negative_rest() -> None:
    found = split([*BASE, "AnonPages: 200000 kB"])
    assert found.unaccounted == -110000 << 10


def test_slab_of_kernels_that_do_not_split_it() -> None:
    assert split([*BASE, "Slab: 70 kB"]).get("slab") == 70 << 10
    both = split([*BASE, "Slab: 70 kB", "SReclaimable: 30 kB", "SUnreclaim: 40 kB"])
    assert (both.get("slab"), both.sum("kernel")) == (0, 70 << 10)
