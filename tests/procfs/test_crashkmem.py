"""crash's `kmem -S` text: as crash 8.0.2 printed it on lab dumps, and every other known shape.

`data/*.txt` were captured with `crash -s vmlinux vmcore -i FILE` from the dumps "default" and
"nodes-debug"; of kmalloc-32 the free objects were cut out.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest

from crashext.procfs.crashkmem import MAX_ERRORS, CacheRow, KmemText, parse, parse_names

DATA = Path(__file__).parent / "data"
HEADER = "CACHE             OBJSIZE  ALLOCATED     TOTAL  SLABS  SSIZE  NAME\n"
ROW = "ffff888100042400       64        700       800     20     4k  kmalloc-64\n"
SLUB_SLAB = "  SLAB              MEMORY            NODE  TOTAL  ALLOCATED  FREE\n"
SLAB_SLAB = "SLAB              MEMORY            TOTAL  ALLOCATED  FREE\n"
BLOCK = "  FREE / [ALLOCATED]\n"
A, B, C = 0xFFFF888103100000, 0xFFFF888103100040, 0xFFFF888103100080


def captured(name: str) -> str:
    return (DATA / f"{name}.txt").read_text()


def slub(*lines: str) -> str:
    """A CPU slab with these object lines."""
    slab = "  ffffea0004c94e80  ffff888103100000     0     42         29    13\n"
    return HEADER + ROW + "CPU 0 SLAB:\n" + SLUB_SLAB + slab + BLOCK + "".join(lines)


def listed(found: KmemText) -> tuple[list[int], list[int]]:
    return found.allocated.tolist(), found.free.tolist()


REAL = ["kmalloc-128", "dentry", "leaklab_obj", "fscrypt_info", "pid-debug", "mm_struct-debug"]


@pytest.mark.parametrize("name", REAL)
def test_objects_of_real_text_add_up(name: str) -> None:
    """Per slab, crash prints how many objects are allocated and free beside listing them."""
    text = captured(name)
    found = parse(text)
    row = found.cache
    assert row is not None
    assert row.name == name.removesuffix("-debug")
    assert found.errors == ()
    with_objects = re.findall(r" (\d+) +(\d+) +(\d+)\n  FREE / \[ALLOCATED\]", text)
    assert found.slabs == len(with_objects)
    assert len(found.allocated) == sum(int(a) for _, a, _ in with_objects)
    assert len(found.free) == sum(int(f) for _, _, f in with_objects)
    # What is neither listed nor in a partial slab's row fills the rest of the slabs wholly.
    assert row.allocated is not None
    assert row.total is not None
    full = row.allocated - len(found.allocated) - found.row_only
    assert full % max(1, row.total // max(1, row.slabs or 0)) == 0


def test_the_row_of_real_text() -> None:
    assert parse(captured("kmalloc-128")).cache == CacheRow(
        0xFFFF8E1D41042700, "kmalloc-128", 128, 613, 672, 21, 4096
    )


def test_the_kmem_cache_cpu_address_is_no_object() -> None:
    text = captured("kmalloc-32-trimmed")
    found = parse(text)
    assert "KMEM_CACHE_CPU:\n  ffff8e1d4f837080\n" in text
    assert listed(found)[1] == [0xFFFF8E1D41BCAF40]  # the CPU partial slab's free object
    assert len(found.allocated) == 133
    assert found.row_only == 107 + 76
    assert (205628 - 133 - found.row_only) % 128 == 0


def test_full_slabs_are_tracked_only_with_debugging() -> None:
    assert not parse(captured("kmalloc-128")).full_tracked
    debug = parse(captured("pid-debug"))
    assert debug.full_tracked
    assert (debug.slabs, debug.row_only) == (0, 4 + 1 + 8 + 7)
    assert parse(captured("mm_struct-debug")).full_tracked  # its list is empty


def test_an_ignored_cache_is_known_by_name_only() -> None:
    found = parse(captured("ignored"))
    assert found.cache == CacheRow(0xFFFF8E1D41042700, "kmalloc-128", *[None] * 5)
    assert found.errors == ("kmalloc-128: [IGNORED]",)


def test_a_corrupted_cache_is_known_by_name_only() -> None:
    found = parse(HEADER + "ffff888100042400 [INVALID/CORRUPTED]    kmem cache: (x)\n")
    assert found.cache is not None
    assert (found.cache.name, found.cache.object_size) == ("kmem cache: (x)", None)


def test_names_of_a_real_list() -> None:
    names = parse_names(captured("list"))
    assert len(names) == 12
    assert names == sorted(names)
    assert "leaklab_obj" in names
    assert parse_names("kmem: something is wrong\nffff888100042400 a b:(c)\n") == ["a b:(c)"]


def test_kmem_s_has_a_row_and_no_objects() -> None:
    found = parse(HEADER + ROW)
    assert found.cache is not None
    assert found.cache.total == 800
    assert listed(found) == ([], [])
    assert found.full_tracked


@pytest.mark.parametrize(
    "name", ["dentry(1234:foo.service)", "a name with spaces", "ext4: (x) [1]", "12k"]
)
def test_a_name_is_the_rest_of_the_line(name: str) -> None:
    found = parse(HEADER + ROW.replace("kmalloc-64", name))
    assert found.cache is not None
    assert found.cache.name == name


def test_question_marks_are_unknown() -> None:
    text = (
        "kmem: kmalloc-512: cannot gather relevant slab data\n"
        f"{HEADER}ffff890c47c0ec00      512          ?         ?      ?    32k  kmalloc-512\n"
    )
    found = parse(text)
    assert found.cache == CacheRow(
        0xFFFF890C47C0EC00, "kmalloc-512", 512, None, None, None, 32 << 10
    )
    assert found.errors == ("kmem: kmalloc-512: cannot gather relevant slab data",)


def test_slub_objects() -> None:
    found = parse(slub(f"  [{A:x}]\n", f"   {B:x}  \n", f"   {C:x}  (cpu 1 cache)\n"))
    assert listed(found) == ([A], [B, C])
    assert (found.slabs, found.errors) == (1, ())


def test_slab_objects() -> None:
    """The SLAB allocator: rows without a node, nothing indented, shared caches."""
    slab = "ffff888103100000  ffff888103100000     32         30     2\n"
    found = parse(
        HEADER + ROW + SLAB_SLAB + slab + "FREE / [ALLOCATED]\n"
        f"  [{A:x}]\n   {B:x}\n   {C:x}  (cpu 3 cache)\n   {C + 64:x}  (shared cache)\n"
        + SLAB_SLAB
        + slab
        + "FREE / [ALLOCATED]\n"
        + f"  [{C + 128:x}]\n"
    )
    assert listed(found) == ([A, C + 128], [B, C, C + 64])
    assert (found.slabs, found.row_only, found.errors) == (2, 0, ())


@pytest.mark.parametrize(
    "what", ["kmem_bufctl_t", "slab", "slab_s", "unused part of slab", "on-slab freelist"]
)
def test_what_a_lookup_finds_beside_objects_is_none(what: str) -> None:
    found = parse(slub(f"   {A:x} ({what})\n"))
    assert listed(found) == ([], [])
    assert found.errors == ()


def test_brackets_mean_allocated_only_in_a_block() -> None:
    text = f"{HEADER}{ROW}  [{A:x}]\nCPU 0 SLAB:\n  [{B:x}]\n"
    found = parse(text + "NODE 0 PARTIAL:\n  (empty)\n")
    assert listed(found) == ([], [])
    assert len(found.errors) == 2
    after = slub(f"  [{A:x}]\n", "CPU 1 KMEM_CACHE_CPU:\n", f"  {B:x}\n", f"  [{C:x}]\n")
    assert listed(parse(after)) == ([A], [])


@pytest.mark.parametrize("order", [0, 1])
def test_an_object_listed_twice_counts_once_and_free_wins(order: int) -> None:
    lines = [f"  [{A:x}]\n", f"   {A:x}  \n"][:: 1 - 2 * order]
    found = parse(slub(*lines, f"  [{B:x}]\n", f"  [{B:x}]\n"))
    assert listed(found) == ([B], [A])
    assert found.errors == ("1 object listed as allocated and as free",)


def test_offline_cpus_empty_lists_and_nodes_are_no_errors() -> None:
    found = parse(
        HEADER + ROW + "CPU 0 [OFFLINE]\nCPU 1 KMEM_CACHE_CPU:\n  ffff8d461fa6f140\n"
        "CPU 1 SLAB:\n  (empty)\nCPU 1 PARTIAL:\n  (empty)\n"
        "KMEM_CACHE_NODE   NODE  SLABS  PARTIAL  PER-CPU\n"
        "ffff888100041000     0    784       12        8\n"
        "NODE 0 PARTIAL:\n"
        + SLUB_SLAB
        + "  ffffea0004c94e80  ffff888103100000     0     42         29    13\n"
        "NODE 0 FULL:\n  (empty)\n"
        "KMEM_CACHE_NODE   NODE  SLABS  PARTIAL  PER-CPU\n"
        "ffff888100041040     1      0        0        0\n"
        "NODE 1 PARTIAL:\n  (empty)\nNODE 1 FULL:\n  (not tracked)\n\n"
    )
    assert listed(found) == ([], [])
    assert (found.slabs, found.row_only, found.full_tracked, found.errors) == (0, 29, False, ())


def test_debug_level_8_shows_the_freelist_first() -> None:
    text = f"< SLUB: free list START: >\n   {B:x}\n< SLUB: free list END (1 found) >\n"
    found = parse(slub(text, f"  [{A:x}]\n", f"   {B:x}  \n"))
    assert listed(found) == ([A], [B])
    assert found.errors == ()


COMPLAINTS = [
    "kmalloc-64: slab: ffffea0004c94e80 invalid freepointer: dead000000000100",
    "kmalloc-64: slab: ffffea0004c94e80 duplicate freelist object: ffff888103100000",
    "kmalloc-64: slab: ffffea0004c94e80 invalid page.objects: -1",
    "kmalloc-64: slab: ffffea0004c94e80 oo objects: 64 slab objects: 0",
    "kmalloc-64: partial list slab: ffffea0004c94e80 invalid page.inuse: -1",
    "kmalloc-64: partial list slab: ffffea0004c94e80 invalid page.lru.next: 0",
    "kmalloc-64: partial list: duplicate slab entry: ffffea0004c94e80",
    "kmalloc-64: invalid partial list slab pointer: 10",
    "kmalloc-64: invalid full list slab pointer: 10",
    "kmalloc-64: invalid slab address: ffffea0004c94e80",
    "address is not allocated in slab subsystem: ffff888103100000",
    "ignoring pre-selected kmalloc-64 cache for address: ffff888103100000",
    'page excluded: kernel virtual address: ffff888103100000  type: "page.inuse"',
    'invalid kernel virtual address: 10  type: "get_freepointer"',
    '"size-64" cache: too many objects found in slab free list',
    '"size-64" cache: free object mismatch: expected: 3 found: 4',
    '"size-64" cache: object ffff888103100000 on both free and cpu 1 lists',
    '"size-64" cache: array_cache.avail 200 greater than limit 120',
    "size-64: partial list: page/slab: ffffea0004c94e80  bad next pointer: 0",
    "3 errors encountered",
]


@pytest.mark.parametrize("prefix", ["kmem: ", "NOTE: ", "WARNING: ", "kmem: NOTE: ", "", "   "])
@pytest.mark.parametrize("complaint", COMPLAINTS)
def test_complaints_are_kept_and_hide_nothing(complaint: str, prefix: str) -> None:
    line = prefix + complaint
    found = parse(slub(f"  [{A:x}]\n", f"\n{line}\n", f"   {B:x}  \n", f"  [{C:x}]\n"))
    assert listed(found) == ([A, C], [B])
    assert found.errors == (line.strip(),)


def test_a_slab_that_crash_gives_up_ends_with_the_next_one() -> None:
    found = parse(
        slub(f"  [{A:x}]\n", "kmem: kmalloc-64: slab: ffffea0004c94e80 invalid freepointer: 1\n")
        + "CPU 0 PARTIAL:\n"
        + SLUB_SLAB
        + "CPU 1 KMEM_CACHE_CPU:\n  ffff8d461fa6f140\n"
    )
    assert listed(found) == ([A], [])


def test_a_kernel_that_crash_cannot_walk() -> None:
    found = parse("kmem: -S not supported for this kernel\n")
    assert found.cache is None
    assert found.errors == ("kmem: -S not supported for this kernel",)
    found = parse(
        "kmem: option requires kmem_cache_node.nr_slabs member!\n"
        "(the kernel must be built with CONFIG_SLUB_DEBUG)\n"
    )
    assert len(found.errors) == 2
    found = parse(
        "\nkmem: invalid structure member offset: kmem_cache_cpu_slab\n"
        "      FILE: memory.c  LINE: 19715  FUNCTION: do_kmem_cache_slub()\n\n"
    )
    assert found.errors[1].startswith("FILE: memory.c")


def test_complaints_are_bounded() -> None:
    found = parse(slub(*["kmem: " + "x" * 5000 + "\n"] * 1000))
    assert len(found.errors) == MAX_ERRORS
    assert max(map(len, found.errors)) <= 200
    assert found.errors[-1] == f"{1000 - MAX_ERRORS + 1} more lines like these"


def test_a_second_cache_is_left_out() -> None:
    found = parse(slub(f"  [{A:x}]\n") + captured("leaklab_obj"))
    assert found.cache is not None
    assert found.cache.name == "kmalloc-64"
    assert listed(found) == ([A], [])
    assert len(found.errors) == 1


@pytest.mark.parametrize("name", ["kmalloc-128", "dentry"])
def test_text_cut_anywhere_shows_only_what_the_whole_shows(name: str) -> None:
    text = captured(name)
    whole = parse(text)
    for cut in range(len(text)):
        found = parse(text[:cut])
        assert np.isin(found.allocated, whole.allocated).all()
        assert np.isin(found.free, whole.free).all()


def test_stripped_text_loses_nothing_but_a_last_free_object() -> None:
    text = captured("kmalloc-128")
    assert listed(parse(text.strip())) == listed(parse(text))
    assert not parse(text.strip()).full_tracked
    assert listed(parse(slub(f"  [{A:x}]\n").strip())) == ([A], [])
    windows = parse(text.replace("\n", "\r\n"))
    assert (listed(windows), windows.errors) == (listed(parse(text)), ())


def test_no_text_raises() -> None:
    draw = random.Random(0)
    pieces = [captured(name) for name in (*REAL, "list", "ignored")]
    for _ in range(300):
        noise = draw.randbytes(draw.randrange(2000)).decode("latin-1")
        parse(noise)
        parse_names(noise)
        text = list(draw.choice(pieces))
        for _ in range(draw.randrange(200)):
            text[draw.randrange(len(text))] = draw.choice("0f9 []()?k\n\r-\0\u0660\u2028" + noise)
        lines = "".join(text).split("\n")
        draw.shuffle(lines)
        found = parse("\n".join(lines))
        assert len(found.errors) <= MAX_ERRORS
        assert not np.isin(found.allocated, found.free).any()
    huge = f"{'f' * 16} {'9' * 5000} {'9' * 5000} 1 1 4k x\n{'9' * 100_000}\n{' ' * 100_000}\n"
    assert parse(huge + slub(f"  [{A:x}]\n")).allocated.tolist() == [A]
