"""meminfo, vmstat, buddyinfo, zoneinfo, slabinfo, status: the lab's own, and other kernels'.

Lines of other kernels are written as their source prints them, with the columns' widths.
"""

from __future__ import annotations

import re

import pytest

from crashext.procfs.counters import (
    page_size,
    parse_buddyinfo,
    parse_meminfo,
    parse_vmstat,
    parse_zoneinfo,
)
from crashext.procfs.processes import parse_ps, parse_status
from crashext.procfs.slabinfo import parse_slabinfo
from tests.conftest import lab_dump

DUMPS = ["default", "vmalloc", "nodes-debug"]


def lines(dump: str, name: str) -> list[str]:
    return (lab_dump(dump).folder / "proc" / name).read_text().splitlines()


@pytest.mark.parametrize("dump", DUMPS)
def test_every_line_of_a_real_kernel_is_understood(dump: str) -> None:
    meminfo = parse_meminfo(lines(dump, "meminfo"))
    vmstat = parse_vmstat(lines(dump, "vmstat"))
    zones = parse_zoneinfo(lines(dump, "zoneinfo"))
    buddy = parse_buddyinfo(lines(dump, "buddyinfo"))
    slabs = parse_slabinfo(lines(dump, "slabinfo"))
    assert [f.damaged for f in (meminfo, vmstat, zones, buddy, slabs)] == [0] * 5
    assert len(meminfo.sizes) + len(meminfo.counts) == len(lines(dump, "meminfo"))
    assert len(vmstat.values) == len(lines(dump, "vmstat"))
    assert len(slabs.caches) == len(lines(dump, "slabinfo")) - 2
    assert page_size(meminfo, vmstat) == 4096


@pytest.mark.parametrize("dump", DUMPS)
def test_files_of_one_moment_agree(dump: str) -> None:
    """Free pages by order, by zone, and in kB; pages of slabs, and Slab. 1 MiB for the moment."""
    near = 1 << 20
    meminfo = parse_meminfo(lines(dump, "meminfo"))
    free = meminfo.sizes["MemFree"]
    by_order = sum(z.pages for z in parse_buddyinfo(lines(dump, "buddyinfo")).zones) * 4096
    by_zone = sum(z.values["free"] for z in parse_zoneinfo(lines(dump, "zoneinfo")).zones) * 4096
    assert by_order == pytest.approx(free, abs=near)
    assert by_zone == pytest.approx(free, abs=near)
    # Pages on per-CPU lists are in no zone's buddy list; Slab has large kmalloc()s besides.
    slabs = parse_slabinfo(lines(dump, "slabinfo")).pages * 4096
    assert 0 <= meminfo.sizes["Slab"] - slabs < 2 * near


def test_zones_tell_their_marks_and_pages() -> None:
    zones = parse_zoneinfo(lines("default", "zoneinfo")).zones
    assert [z.zone for z in zones] == ["DMA", "DMA32", "Normal", "Movable", "Device"]
    dma32 = zones[1].values
    assert 0 < dma32["min"] < dma32["low"] < dma32["high"] < dma32["managed"] <= dma32["present"]
    assert "count" not in dma32  # of a CPU's list, not of the zone


def test_meminfo_keeps_lines_it_has_never_heard_of() -> None:
    text = [
        "MemTotal:  1000 kB",
        "FutureThing(new):   12 kB",
        "HugePages_Total:       3",
        "Slab: 4",
    ]
    meminfo = parse_meminfo([*text, "MemTotal: 7 kB", "Slab: x kB", "", "garbage"])
    assert meminfo.sizes == {"MemTotal": 1024000, "FutureThing(new)": 12288}
    assert meminfo.counts == {"HugePages_Total": 3, "Slab": 4}
    assert meminfo.get("Slab") is None  # cut off before its unit
    assert meminfo.damaged == 3


@pytest.mark.parametrize("size", [4096, 16384, 65536])
def test_page_size_is_told_by_two_files(size: int) -> None:
    pages = {"nr_mapped": 5000, "nr_anon_pages": 40000, "nr_free_pages": 90000}
    meminfo = parse_meminfo(
        [
            f"Mapped: {5000 * size // 1024 + 40} kB",
            f"AnonPages: {40000 * size // 1024 - 300} kB",
            f"MemFree: {90000 * size // 256} kB",  # as a hypervisor would have it
        ]
    )
    vmstat = parse_vmstat(f"{name} {n}" for name, n in pages.items())
    assert page_size(meminfo, vmstat) == size
    assert page_size(meminfo, None) is None
    assert page_size(parse_meminfo([]), vmstat) is None


SLABINFO = {
    # mm/slab_common.c of 3.10 and RHEL 7, SLUB: tunables are zeros.
    "2.1": [
        "slabinfo - version: 2.1",
        "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> "
        ": tunables <limit> <batchcount> <sharedfactor> "
        ": slabdata <active_slabs> <num_slabs> <sharedavail>",
        "kmalloc-64        1470553 2241728     64   64    1 : tunables    0    0    0 "
        ": slabdata  35027  35027      0",
        "kmalloc-64(8143:a group with spaces)    128    192     64   64    1 "
        ": tunables    0    0    0 : slabdata      3      3      0",
    ],
    # mm/slab.c with CONFIG_DEBUG_SLAB: the row goes on, and tabs are in it.
    "2.1 (statistics)": [
        "slabinfo - version: 2.1 (statistics)",
        "size-256(DMA)      56168  56168    280   14    1 : tunables   32   16    8 "
        ": slabdata   4012   4012      0 : globalstat   59110  56168  4015    3 \t\t\t\t   "
        "0    0   46    0    0 : cpustat 3853259   4494 3801362    240",
    ],
    # 2.6: batchcount before limit, and one statistics column less.
    "2.0": [
        "slabinfo - version: 2.0",
        "size-40             7246  55022     64   61    1 : tunables   32   16    8 "
        ": slabdata    902    902      0",
    ],
    # 2.4: the slabs before their pages, no objects per slab.
    "1.1": [
        "slabinfo - version: 1.1 (SMP)",
        "inode_cache         5714   5992    512  856  856    1 :  124   62",
        "dnotify cache          0    170     20    0    1    1 :  252  126",
    ],
}


def test_slabinfo_of_older_kernels() -> None:
    found = {version: parse_slabinfo(text) for version, text in SLABINFO.items()}
    assert all(not slabs.damaged for slabs in found.values())
    assert {v: s.version for v, s in found.items()} == {v: v.split(" ")[0] for v in found}
    rows = [
        (c.name, c.active_objs, c.num_objs, c.objperslab, c.num_slabs, c.pages)
        for slabs in found.values()
        for c in slabs.caches
    ]
    assert rows == [
        ("kmalloc-64", 1470553, 2241728, 64, 35027, 35027),
        ("kmalloc-64(8143:a group with spaces)", 128, 192, 64, 3, 3),
        ("size-256(DMA)", 56168, 56168, 14, 4012, 4012),
        ("size-40", 7246, 55022, 61, 902, 902),
        ("inode_cache", 5714, 5992, 7, 856, 856),
        ("dnotify cache", 0, 170, 170, 1, 1),
    ]


def test_rows_of_an_old_version_need_its_heading() -> None:
    row = SLABINFO["1.1"][1]
    assert parse_slabinfo([row]).damaged == 1


def test_status_of_a_process_of_this_machine() -> None:
    with open("/proc/self/status") as file:
        text = file.read()
    process, damaged = parse_status(text.splitlines())
    assert process is not None
    assert damaged == 0
    match = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert match is not None
    assert process.rss == int(match[1]) * 1024
    parts = (process.rss_anon, process.rss_file, process.rss_shmem)
    assert sum(p or 0 for p in parts) == process.rss


def test_kernel_threads_and_old_kernels() -> None:
    thread, _ = parse_status(["Name:\tkthreadd", "Pid:\t2", "Threads:\t1"])
    assert thread is not None
    assert (thread.comm, thread.rss, thread.swap) == ("kthreadd", 0, None)
    old, _ = parse_status(["Name:\tjava", "Pid:\t77", "VmLck:\t      4 kB", "VmRSS:\t  2048 kB"])
    assert old is not None
    assert (old.rss, old.rss_anon, old.locked) == (2 << 20, None, 4096)
    assert parse_status(["Name:\tx", "Pid:\t\u00b2", "???"]) == (None, 1)


def test_ps_by_its_heading() -> None:
    found = parse_ps(
        [
            "USER         PID %CPU %MEM    VSZ   RSS TTY      STAT START   TIME COMMAND",
            "root           1  0.0  0.1 191000  4096 ?        Ss   Nov01   1:02 /sbin/init splash",
            "root           -  0.0    -      -     - -        Ss   Nov01   1:02 -",
            "root           2  0.0  0.0      0     0 ?        S    Nov01   0:00 [kthreadd]",
            "root        cut of",
        ]
    )
    assert [(p.pid, p.rss, p.comm) for p in found.processes] == [
        (1, 4 << 20, "/sbin/init splash"),
        (2, 0, "[kthreadd]"),
    ]
    assert found.damaged == 1
