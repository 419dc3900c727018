"""vmallocinfo: the lab guests' own, checked against meminfo and the truth, and other kernels'."""

from __future__ import annotations

import pytest

from crashext.procfs.counters import parse_meminfo
from crashext.procfs.vmallocinfo import VmallocInfo, by_caller, parse_vmallocinfo
from tests.conftest import lab_dump

GIGABYTE = (
    "0xffffc9008a003000-0xffffc900ca004000 1073745920 kmem_alloc+0x13/0x30 [kmem_test] "
    "pages=262144 vmalloc vpages N0=262144"
)


def real(name: str) -> VmallocInfo:
    text = (lab_dump(name).folder / "proc" / "vmallocinfo").read_text()
    found = parse_vmallocinfo(text.splitlines())
    assert found.damaged == 0
    assert len(found.areas) == len(text.splitlines())
    return found


def test_one_gigabyte_of_one_module() -> None:
    (area,) = parse_vmallocinfo([GIGABYTE]).areas
    assert (area.start, area.end) == (0xFFFFC9008A003000, 0xFFFFC900CA004000)
    assert area.size == area.end - area.start == 1073745920
    assert (area.caller, area.function) == ("kmem_alloc+0x13/0x30", "kmem_alloc")
    assert (area.module, area.pages) == ("kmem_test", 262144)
    assert area.flags == ("vmalloc", "vpages")
    assert area.phys is None
    assert area.is_memory
    assert not area.is_stack


@pytest.mark.parametrize("name", ["vmalloc", "default"])
def test_leaked_areas_are_summed_under_their_caller(name: str) -> None:
    truth = lab_dump(name).truth()
    part = truth["parts"]["vmalloc"]
    caller = next(c for c in by_caller(real(name)) if c.module == truth["module"]["name"])
    assert caller.function == "leaklab_leak_vmallocs"
    assert caller.areas == part["count"]
    assert caller.pages == part["count"] * part["size"] // 4096
    assert caller == by_caller(real(name))[0]


@pytest.mark.parametrize("name", ["vmalloc", "default", "healthy", "huge"])
def test_pages_are_those_of_vmalloc_used(name: str) -> None:
    """Since 5.3 the kernel counts them itself, and its stacks; 256 KiB for the moment between."""
    text = (lab_dump(name).folder / "proc" / "meminfo").read_text()
    meminfo = parse_meminfo(text.splitlines())
    found = real(name)
    assert found.pages * 4096 == pytest.approx(meminfo.sizes["VmallocUsed"], abs=256 << 10)
    stacks = meminfo.sizes["KernelStack"]
    assert stacks <= found.stack_pages * 4096 < stacks + (256 << 10)  # some are kept for later


def test_areas_that_are_nobodys_memory() -> None:
    found = parse_vmallocinfo(
        [
            "0xffffc90000000000-0xffffc90000005000   20480 acpi_os_map_iomem+0x17c/0x1b0 "
            "phys=0x000000004ea4b000 ioremap",
            "0xffffc900100c0000-0xffffc900100e1000  135168 e1000_probe+0x21b/0xa0b [e1000e] "
            "phys=fbf00000 ioremap",  # before 3.11
            "0xffffc90000010000-0xffffc90000012000    8192 unpurged vm_area",
            "0xffffc90000020000-0xffffc90000030000   65536 vm_map_ram",
            "0xffffc90000040000-0xffffc90000045000   20480 irq_init_percpu_irqstack+0xf0/0x120 "
            "vmap",
            "0xffffc90000050000-0xffffc90000052000    8192",
            "0x(____ptrval____)-0x(____ptrval____)   12288 some_driver+0x1/0x2 pages=2 vmalloc "
            "user N0=1 N1=1",
            "0xf0099000-0xf00aa000   69632 dma_thing+0x1/0x2 pages=16 dma-coherent",
        ]
    )
    assert found.damaged == 0
    assert [a.phys for a in found.areas[:2]] == [0x4EA4B000, 0xFBF00000]
    assert found.areas[1].module == "e1000e"
    assert [a.flags for a in found.areas[2:5]] == [
        ("unpurged vm_area",),
        ("vm_map_ram",),
        ("vmap",),
    ]
    assert found.areas[6].flags == ("vmalloc", "user")
    assert found.pages == 2
    assert [c.function for c in by_caller(found)] == ["some_driver"]


def test_a_module_that_clones_tasks_is_no_stack() -> None:
    line = "0x1000-0x6000 20480 kernel_clone+0x1/0x2{} pages=4 vmalloc N0=4"
    assert parse_vmallocinfo([line.format("")]).stack_pages == 4
    assert parse_vmallocinfo([line.format(" [evil]")]).stack_pages == 0
