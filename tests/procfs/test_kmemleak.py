"""kmemleak's file, in the shapes of 2.6.31 to 6.18.

GUEST is what the lab's kmemleak kernel (6.1) wrote. The others are written as mm/kmemleak.c of
their time prints them.
"""

from __future__ import annotations

import re

from crashext.procfs.kmemleak import parse_kmemleak
from crashext.procfs.stacks import module_of, origin, parse_frame, parse_frames

GUEST = """\
unreferenced object 0xffff9f97c02a93e0 (size 32):
  comm "leaklab", pid 38, jiffies 4294893141
  hex dump (first 32 bytes):
    00 20 d2 c0 97 9f ff ff 00 01 00 00 00 00 ad de  . ..............
    22 01 00 00 00 00 ad de 00 00 00 00 00 00 00 00  "...............
  backtrace:
    [<(____ptrval____)>] kmalloc_trace+0x11/0x20
    [<(____ptrval____)>] leaklab_leak_nodes+0x57/0x110 [leaklab]
    [<(____ptrval____)>] make_everything+0xb/0xc0 [leaklab]
    [<(____ptrval____)>] leaklab_thread+0x1e/0x40 [leaklab]
    [<(____ptrval____)>] kthread+0xb1/0xd0
    [<(____ptrval____)>] ret_from_fork+0x1f/0x30
unreferenced object 0xffff9f97c02a99c0 (size 32):
  comm "leaklab", pid 38, jiffies 4294893141
  hex dump (first 32 bytes):
    00 20 d2 c0 97 9f ff ff 00 01 00 00 00 00 ad de  . ..............
    22 01 00 00 00 00 ad de 01 00 00 00 00 00 00 00  "...............
  backtrace:
    [<(____ptrval____)>] kmalloc_trace+0x11/0x20
    [<(____ptrval____)>] leaklab_leak_nodes+0x57/0x110 [leaklab]
    [<(____ptrval____)>] make_everything+0xb/0xc0 [leaklab]
    [<(____ptrval____)>] leaklab_thread+0x1e/0x40 [leaklab]
    [<(____ptrval____)>] kthread+0xb1/0xd0
    [<(____ptrval____)>] ret_from_fork+0x1f/0x30
"""
# 3.10: the age, real addresses, the end marker, short hex dump.
OLD = """\
unreferenced object 0xffff880069ab2e18 (size 8):
  comm "poc (x)", pid 14081, jiffies 4294976277 (age 10.671s)
  hex dump (first 8 bytes):
    02 00 00 00 00 00 00 00                          ........
  backtrace:
    [<ffffffff81189293>] kmemleak_alloc+0x21/0x50
    [<ffffffff8117e4e3>] kmem_cache_alloc_trace+0xd3/0x110
    [<ffffffffa01b9217>] 0xffffffffa01b9216
    [<ffffffffa01d93d1>] my_ioctl+0x5d/0x100 [my_driver]
    [<ffffffff818d8cd8>] tracesys+0xe1/0xe6
    [<ffffffffffffffff>] 0xffffffffffffffff
unreferenced object 0xffff880069ab2e20 (size 24):
  comm "poc (x)", pid 14081, jiffies 4294976300 (age 8.100s)
  backtrace:
    [<ffffffff81189293>] kmemleak_alloc+0x21/0x50
    [<ffffffff8117e4e3>] kmem_cache_alloc_trace+0xd3/0x110
    [<ffffffffa01b9217>] 0xffffffffa01b9216
    [<ffffffffa01d93d1>] my_ioctl+0x5d/0x100 [my_driver]
    [<ffffffff818d8cd8>] tracesys+0xe1/0xe6
    [<ffffffffffffffff>] 0xffffffffffffffff
"""
# 6.10: a checksum, no age, no addresses; 6.13: per-CPU objects.
NEW = """\
unreferenced object 0xffff96a848d6ea80 (size 192):
  comm "dhcp", pid 541, jiffies 4294684345
  hex dump (first 32 bytes):
    04 00 00 00 05 00 00 00 98 ea d6 48 a8 96 ff ff  ...........H....
    00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00  ................
  backtrace (crc b1564374):
    kmemleak_alloc+0x2d/0x40
    __kmalloc_noprof+0x2fa/0x730
    my_evaluate.constprop.0+0x29a/0x2f0
    0xffffffffa000b089
unreferenced object (percpu) 0x607ee1e0b1d8 (size 8):
  comm "swapper/0", pid 0, jiffies 4294667296
  hex dump (first 8 bytes on cpu 2):
  backtrace (crc 0):
    pcpu_alloc_noprof+0x6a4/0xa40
    fib_nh_common_init+0x30/0xd0
"""
LOG = """\
[  123.456789] kmemleak: unreferenced object 0xffff888101ad8900 (size 184):
[  123.456790] kmemleak:   comm "syz", pid 5986, jiffies 4294942797
[  123.456791][ T5986] kmemleak:   backtrace (crc 45b79b1):
[  123.456792] kmemleak:     kmem_cache_alloc_noprof+0x397/0x5a0
[  123.456793] kmemleak:     prepare_creds+0x22/0x4f0
"""
FIRST = """\
kmemleak: unreferenced object 0xf6c1c0e0 (size 48):
  comm "modprobe", pid 1212, jiffies 4294677296
  backtrace:
    [<c01a5e11>] kmemleak_alloc+0x95/0x1e0
    [<f8a0b0c1>] thing_init+0x31/0x90 [thing]
"""


def test_what_the_labs_kernel_reported() -> None:
    found = parse_kmemleak(GUEST.splitlines())
    (group,) = found.groups
    assert (found.objects, found.size, found.damaged, found.ungrouped) == (2, 64, 0, 0)
    assert (group.count, group.size, group.smallest, group.largest) == (2, 64, 32, 32)
    assert group.example == 0xFFFF9F97C02A93E0
    assert group.content.hex() == (
        "0020d2c0979fffff000100000000adde220100000000adde0000000000000000"
    )
    assert (group.comm, group.pid, group.age) == ("leaklab", 38, None)
    assert group.jiffies == (4294893141, 4294893141)
    assert str(group.origin) == "leaklab_leak_nodes+0x57/0x110 [leaklab]"
    assert group.module == "leaklab"
    assert len(group.frames) == 6


def test_one_stack_with_several_sizes_is_one_group() -> None:
    (group,) = parse_kmemleak(OLD.splitlines()).groups
    assert (group.count, group.size, group.smallest, group.largest) == (2, 32, 8, 24)
    assert group.age == (8.1, 10.671)
    assert group.comm == "poc (x)"
    assert group.content == b"\x02" + bytes(7)
    assert group.origin is not None
    assert group.origin.symbol == "0xffffffffa01b9216"  # the kernel had no name for it
    assert group.module == "my_driver"


def test_newer_shapes() -> None:
    found = parse_kmemleak(NEW.splitlines())
    slab, percpu = found.groups
    assert str(slab.origin) == "my_evaluate.constprop.0+0x29a/0x2f0"
    assert slab.frames[-1].symbol == "0xffffffffa000b089"
    assert (slab.percpu, percpu.percpu, percpu.example) == (False, True, 0x607EE1E0B1D8)
    assert found.damaged == 0


def test_the_kernel_log_and_the_first_kernels() -> None:
    (logged,) = parse_kmemleak(LOG.splitlines()).groups
    assert (logged.pid, logged.size) == (5986, 184)
    assert str(logged.origin) == "prepare_creds+0x22/0x4f0"
    (first,) = parse_kmemleak(FIRST.splitlines()).groups
    assert (first.example, first.module) == (0xF6C1C0E0, "thing")
    assert (
        parse_kmemleak(LOG.splitlines()).damaged == parse_kmemleak(FIRST.splitlines()).damaged == 0
    )


def test_largest_group_comes_first() -> None:
    found = parse_kmemleak((GUEST + OLD + NEW).splitlines())
    assert [g.size for g in found.groups] == [192, 64, 32, 8]
    assert sum(g.count for g in found.groups) == found.objects == 6


def test_a_cut_report_keeps_its_objects() -> None:
    """Cut anywhere: every object whose first line is whole counts, and nothing else does."""
    text = GUEST + OLD + NEW
    for end in range(0, len(text), 7):
        cut = text[:end]
        found = parse_kmemleak(cut.splitlines())
        heads = len(re.findall(r"unreferenced object .*\(size \d+\):", cut))
        assert found.objects == heads
        assert found.damaged <= 1


def test_damaged_lines_are_counted() -> None:
    damaged = GUEST.replace("pid 38", "pid ?", 1).replace("make_everything+0xb", "make \x1b", 1)
    found = parse_kmemleak(("before\n" + damaged).splitlines())
    assert found.damaged == 3
    assert sorted(g.count for g in found.groups) == [1, 1]  # their stacks differ now
    assert [g.pid for g in found.groups if len(g.frames) == 5] == [None]


def test_frames() -> None:
    inline = " slab_alloc_node mm/slub.c:5280 [inline]"
    placed = " prepare_creds+0x22/0x4f0 kernel/cred.c:212"
    frames = parse_frames(["kmem_cache_alloc+0x1/0x2", inline, placed, "not a frame at all"])
    assert [f.symbol for f in frames] == ["kmem_cache_alloc", "slab_alloc_node", "prepare_creds"]
    assert origin(frames) == frames[2]
    assert module_of(frames) == ""
    ppc = parse_frame("[<c0000000001a2b3c>] .alloc_fair_sched_group+0xec/0x1e0")
    assert ppc is not None
    assert ppc.symbol == "alloc_fair_sched_group"
    with_build_id = parse_frame(" foo+0x1/0x2 [bar 1a2b3c4d5e6f]")
    assert with_build_id is not None
    assert with_build_id.module == "bar"
    for line in ("", "foo", "hello world", "Page has been migrated", "[<zz>] x+0x1/0x2", "a+0x1"):
        assert parse_frame(line) is None


def test_allocators_are_no_origin() -> None:
    passing = (
        "kmem_cache_alloc_noprof __kmalloc_node_track_caller kmalloc_trace krealloc kvmalloc_node "
        "__vmalloc_node_range vzalloc kmemdup kstrdup_const kasprintf __alloc_pages_nodemask "
        "get_page_from_freelist post_alloc_hook ___slab_alloc allocate_slab new_slab.isra.0 "
        "__get_free_pages get_zeroed_page prep_new_page kmemleak_alloc kvrealloc_noprof "
        "__kvmalloc_node_noprof alloc_pages_mpol kcalloc kzalloc __alloc_skb mempool_alloc vmap"
    )
    own = "copy_process sk_prot_alloc kobject_init kthread alloc_inode slab_out kmod_x"
    for name in passing.split():
        assert origin(parse_frames([f"{name}+0x1/0x2"])) is None, name
    for name in own.split():
        assert origin(parse_frames([f"{name}+0x1/0x2"])) is not None, name
