"""What tools print of allocations, caches and holders: each is read, and answered in one line.

Made after what the tools and kernels print: mm/slub.c trace() (2.6.32, 4.4, 6.6), bcc's and
libbpf-tools' memleak (2016 to now), bpftrace's maps, crash's kmem -V and -v, procps' free, top and
vmstat -m, tools/mm/slabinfo.c, Volatility 2, drgn's tools, util-linux zramctl, Xen's balloon
(drivers/xen/xen-balloon.c, and /proc/xen/balloon of 2.6.18-xen), zswap's debugfs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from crashext.procfs.cleaning import clean
from crashext.procfs.free import free_output
from crashext.procfs.outstanding import parse_bpftrace, parse_memleak
from crashext.procfs.slabtables import parse_slabinfo_tool, parse_vmstat_m
from crashext.procfs.slubtrace import parse_slub_trace
from tests.conftest import run
from tests.end_to_end.test_pastes import first
from tests.end_to_end.test_siblings import SIBLINGS


def lines(name: str) -> list[str]:
    return [clean(line) for line in (SIBLINGS / f"{name}.txt").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "said", "also"),
    [
        (
            "slub-trace-2.6",
            ("foo_scan [foo] has 1 object of kmalloc-96 (96 bytes)", "not freed"),
            ("call stack: foo_scan [foo]",),
        ),
        ("slub-trace-4.4", ("leaky_init [leaky] has 2 objects of kmalloc-32 (64 bytes)",), ()),
        (
            "slub-trace-6.6",
            ("bar_submit [bar] has 1 object of bar_req (40 bytes)",),
            ("call stack: bar_submit [bar] <- bar_ioctl [bar]",),
        ),
        ("memleak-2016", ("foo_grow_ring [foo] has 1.0 MiB in 256 allocations",), ()),
        ("memleak-libbpf", ("bar_rx_refill [bar] has 320.0 KiB in 80 allocations",), ("98.8 %",)),
        ("memleak-allocs", ("foo_probe [foo] has 4.0 KiB in 2 allocations",), ()),
        ("bpftrace", ("foo_leak has 1,073,741,824", "1.0 GiB, if it counts bytes"), ("99.6 %",)),
        (
            "bpftrace-named",
            ("bar_submit has 1.0 MiB in bpftrace's map @allocs",),
            ("whether its script takes off what is freed",),
        ),
        ("bpftrace-flat", ("foo_get_buffer has 904,211 allocations",), ()),
        ("kmem-V", ("13.4 GiB of slab memory (83.5 % of memory)",), ("read: sys, kmem -V",)),
        ("kmem-areas", ("14.8 GiB", "4 vmalloc areas span 7.0 GiB (kmem -v)"), ()),
        ("zramctl", ("the zram holds 10.2 GiB (65.3 % of memory)", "normal"), ("zramctl: TOTAL",)),
        ("zram-by-command", ("the zram holds 11.5 GiB (73.7 % of memory)",), ("mm_stat",)),
        ("zswap-debugfs", ("the zswap pool holds 8.7 GiB (55.8 % of memory)",), ()),
        ("xen-sysfs", ("the Xen balloon holds 32.0 GiB: the host has taken",), ("xl mem-set",)),
        ("xen-proc", ("the Xen balloon holds 11.7 GiB (75.0 % of memory)", "no leak"), ()),
        ("volatility", ("kmalloc-512 has 11.5 GiB",), ("24,123,456 objects",)),
        ("drgn-table", ("kmalloc-512 has 11.5 GiB",), ("24,123,456 objects",)),
        ("slabinfo-tool", (":0000512 has 11.5 GiB",), ("24,120,000 objects",)),
        ("vmstat-m", ("kmalloc-512 has 11.5 GiB",), ("24,123,456 objects",)),
        ("cgroup-v1", ("in one memory cgroup anonymous memory is 37.0 MiB, 96.9 %",), ()),
        (
            "cgroup-v2",
            ("in one memory cgroup slab memory that cannot be reclaimed is 3.6 GiB, 98.8 %",),
            (),
        ),
        ("free-k", ("62.2 GiB (98.9 % of memory) is in use",), ()),
        ("free-m", ("59.9 GiB (95.4 % of memory) is in use",), ()),
        ("free-b", ("59.9 GiB (95.4 % of memory) is in use",), ()),
        ("top-2.6", ("62.2 GiB (98.9 % of memory) is in use", "(2) have 2.1 GiB"), ()),
    ],
)
def test_what_tools_print(name: str, said: tuple[str, ...], also: tuple[str, ...]) -> None:
    ran = run("leakscan", SIBLINGS / f"{name}.txt")
    assert (ran.status, ran.err) == (0, "")
    for words in said:
        assert words in first(ran.out)
    for words in also:
        assert words in " ".join(ran.out.split())
    assert "damaged" not in ran.out
    assert not ran.out.startswith(("healthy", "leak,"))


def test_objects_that_were_freed_are_not_outstanding() -> None:
    table = parse_slub_trace(lines("slub-trace-4.4"))
    assert [(s.cache, s.calls, s.bytes, s.origin) for s in table.stacks] == [
        ("kmalloc-32", 2, 64, ("leaky_init", "leaky"))
    ]
    # The object that was freed shows how large those of its cache are.
    (one,) = parse_slub_trace(lines("slub-trace-6.6")).stacks
    assert (one.cache, one.calls, one.bytes) == ("bar_req", 1, 40)


def test_a_map_of_frees_is_no_answer() -> None:
    table = parse_bpftrace(lines("bpftrace-named"))
    assert table is not None
    assert (table.by, table.counts) == ("bpftrace's map @allocs", "bytes")
    assert [(s.bytes, s.calls, s.origin) for s in table.stacks] == [
        (1048576, 2048, ("bar_submit", "")),
        (1536, 3, ("tty_open", "")),
    ]


def test_modules_of_every_form_of_memleak() -> None:
    for name in ("memleak-2016", "memleak-libbpf", "memleak-allocs"):
        table = parse_memleak(lines(name))
        assert table is not None
        assert table.stacks[0].origin[1] in ("foo", "bar")
        assert table.damaged <= 3  # "Attaching ..." and the like stand before the table


def test_slabs_on_cpus_count() -> None:
    found = {c.name: c for c in parse_slabinfo_tool(lines("slabinfo-tool")[:4]).caches}
    assert found[":0000512"].num_slabs == 753050
    assert found[":0000512"].pages == 753050 * 4
    (first_row, *_) = parse_vmstat_m(lines("vmstat-m")[:2], 4096).caches
    assert (first_row.num_slabs, first_row.pagesperslab) == (756250, 4)


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("Mem: 65963076 65632112 330964 0 12212 398112", 65963076 << 10),
        ("Mem: 515837 500000 15837 0 122 3981", 515837 << 20),
        ("Mem: 515836 500000 15836 0 120 3980", 515836 << 10),
        ("Mem: 996 900 96 0 12 80", 996 << 20),
        ("Mem: 62 58 1 0 3 3", 62 << 30),
        ("Mem: 67397218304 64312287232 1175453696 421785600 1909477376 2086666240", 67397218304),
        ("Mem: 62Gi 58Gi 1.0Gi 200Mi 3.0Gi 3.1Gi", 62 << 30),
        ("Mem: 62.5G 58G 1,0G 200M 3.0G 3.1G", round(62.5 * (1 << 30))),
    ],
)
def test_the_unit_of_free(text: str, total: int) -> None:
    old = len(text.split()) == 7 and total < 1 << 30
    columns = "buffers cached" if old else "buff/cache available"
    found = free_output([f"total used free shared {columns}", text])
    assert found.get("MemTotal") == total


def test_single_number_files_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "host"
    (folder / "proc").mkdir(parents=True)
    (folder / "proc/meminfo").write_text((SIBLINGS / "meminfo-riddle.txt").read_text())
    info = folder / "sys/devices/system/xen_memory/xen_memory0/info"
    info.mkdir(parents=True)
    for name, size in (("low_kb", 10240000), ("high_kb", 2048000), ("current_kb", 4096000)):
        (info / name).write_text(f"{size}\n")
    assert "the Xen balloon holds 11.7 GiB (75.0 %" in first(run("leakscan", folder).out)
