"""The compiled loops find what numpy finds, word for word; nothing needs them."""

from __future__ import annotations

import ctypes
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crashext.analysis.reach import blocks
from crashext.analysis.reach.blocks import PhysicalAddresses
from crashext.analysis.reach.by_arrays import ByArrays
from crashext.analysis.reach.compiled_pass import CompiledPass
from crashext.analysis.reach.reachability import Reach, reach
from crashext.analysis.reach.references import find_references
from crashext.analysis.reach.scan import present_frames
from crashext.analysis.reach.silent import Silent
from crashext.analysis.reach.sources import Found, sources
from crashext.kernel import byframe, compiled
from crashext.kernel.access import Words
from crashext.kernel.memmap import Block
from crashext.kernel.pages import kinds
from crashext.kernel.pages.classify import FrameUse, PageFields, by_arrays
from crashext.kernel.pages.kinds import BUDDY, HEAD, TAIL
from crashext.kernel.slab import descriptors, slots
from crashext.kernel.slab.objects import State
from crashext.progress import silent
from tests.conftest import lab_view
from tests.kernel.whole import DIRECT, PAGE, TEXT, VMALLOC, VMEMMAP, Kernel

POISON = 0xDEAD000000000122


def use(library: ctypes.CDLL | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (slots, blocks, kinds, descriptors):
        monkeypatch.setattr(module, "library", lambda: library)


def busy_kernel() -> tuple[Reach, list[int]]:
    """Objects of several sizes, free ones, areas, blocks, tasks; and addresses of all of them."""
    kernel = Kernel()
    sizes = ("kmalloc-32", "kmalloc-96", "kmalloc-192", "task_struct")
    objects = [kernel.object(size, 1, 2) for size in sizes for _ in range(60)]
    for i in range(3, 40, 7):
        kernel.free("kmalloc-32", objects[i])
    area, block = kernel.area(3), kernel.block(4)
    kernel.task(3, "sleeper", used=64)
    kernel.task(4, "of pages", 1024, kernel.block(4))
    kernel.variable("objects", *objects[::2])
    kernel.break_freelist(kernel.object("kmalloc-256"))
    map_entry = VMEMMAP + 64 * ((block - DIRECT) // PAGE)
    return kernel.marked(), [*objects, *30 * [area, block, map_entry], kernel.user_page()]


def words_like_pointers(known: list[int], count: int, seed: int) -> Words:
    """Most near something, in runs, with flags; and what stands beside words that hold nothing."""
    rng = np.random.default_rng(seed)
    near = rng.choice(np.array(known, np.uint64), count)
    near += rng.integers(0, 300, count).astype(np.uint64)
    other = rng.choice([0, POISON, DIRECT - 8, DIRECT + (1 << 40), VMALLOC, VMEMMAP], count)
    found = np.where(rng.random(count) < 0.7, near, other.astype(np.uint64))
    found = np.repeat(found, rng.integers(1, 5, count))[:count]
    own = np.uint64(DIRECT + 16 * PAGE) + np.arange(count, dtype=np.uint64) * np.uint64(8)
    found = np.where(rng.random(count) < 0.1, own, found)
    timers = np.flatnonzero(found == POISON)
    timers = timers[(timers < count - 3) & (rng.random(len(timers)) < 0.3)]
    found[timers + 1], found[timers + 3] = 0, TEXT
    return found


def columns(found: Found) -> dict[str, list[tuple[int, ...]]]:
    """What was found, comparable: edges by source as they came, roots and dead words by place."""
    result: dict[str, list[tuple[int, ...]]] = {"edges": [], "pages": [], "roots": [], "dead": []}
    for by_page, source, target in found.edges:
        name = "pages" if by_page else "edges"
        result[name] += zip(source.tolist(), target.tolist(), strict=True)
    for by_page, where, target in found.rooted:
        pairs = zip(where.tolist(), target.tolist(), strict=True)
        result["roots"] += [(by_page, *pair) for pair in pairs]
    for where, target in found.dead:
        result["dead"] += zip(where.tolist(), target.tolist(), strict=True)
    for name, key in (("edges", 1), ("pages", 1), ("roots", 3), ("dead", 2)):
        result[name].sort(key=lambda row, key=key: row[:key])  # type: ignore[misc]
    return result


@pytest.mark.parametrize("dense", [byframe.DENSE, 0])
def test_words_hold_what_numpy_says(
    dense: int, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byframe, "DENSE", dense)
    use(library, monkeypatch)
    marked, known = busy_kernel()
    nodes = replace(marked.nodes, table=replace(marked.table))
    assert nodes.table.loops is not None
    wanted = nodes.used.copy()
    wanted.set(np.arange(0, len(wanted), 9), np.bool_(False))
    nodes.table.state[::11] = State.UNKNOWN
    hushed = np.arange(8, 300 * PAGE, 999, dtype=np.uint64)
    facts = replace(
        sources(nodes, marked.stacks, wanted),
        silent=Silent(hushed, hushed + np.uint64(64)),
        stale=nodes.blocks.first[::2],
        bookkeeping=np.arange(len(nodes.table.index.cache)) % 5 == 1,
        bookkeeping_word=16,
        links=[(np.uint64(8), np.uint64(24))],
    )
    compiled_pass, arrays = CompiledPass(facts, nodes.table.loops), ByArrays(facts)
    kinds: Counter[str] = Counter()
    for number, first in enumerate(range(0, len(wanted), 32)):
        words = words_like_pointers(known, 32 * PAGE // 8, number)
        found = compiled_pass.look(first * PAGE, words)
        expected = arrays.look(first * PAGE, words)
        assert columns(found) == columns(expected)
        assert found.roots == expected.roots
        kinds.update({name: len(rows) for name, rows in columns(found).items()})
    assert all(kinds[name] > 100 for name in ("edges", "pages", "roots", "dead")), kinds


@pytest.mark.parametrize("dense", [byframe.DENSE, 0])
def test_physical_addresses_are_those_that_numpy_finds(
    dense: int, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byframe, "DENSE", dense)
    use(library, monkeypatch)
    marked, _ = busy_kernel()
    scanner = PhysicalAddresses(marked.nodes, marked.frames, np.zeros(0, np.int64), None)
    rng = np.random.default_rng(3)
    pages = 64
    first = marked.nodes.blocks.first
    frame = np.where(rng.random(pages * 512) < 0.5, rng.choice(first, pages * 512), 600)
    flags = rng.choice([0, 1, 3, 0x67, 0x8000000000000063, 8], pages * 512).astype(np.uint64)
    words = (frame.astype(np.uint64) << np.uint64(12)) | flags
    # Pages with few words, many, none.
    words[rng.random(len(words)) < np.repeat(rng.random(pages), 512)] = 0
    wanted = rng.random(pages) < 0.8
    at, node = scanner.find(words, wanted)
    expected = scanner.by_arrays(words, wanted)
    assert 500 < len(at) < len(words) // 2
    assert (at == expected[0]).all()
    assert (node == expected[1]).all()


@pytest.mark.parametrize("typed", [False, True])
def test_struct_pages_say_what_numpy_says(
    typed: bool, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(library, monkeypatch)
    crowds = np.array([DIRECT + 0x1000, DIRECT + 0x2000], np.uint64)
    fields = PageFields(busy_kernel()[0].view.host, crowds)
    fields.offline, fields.hugetlb_type, fields.typed = 0xFFFFFEFF, 0xF4000000, typed
    fields.bits |= {"lru": 5, "swapbacked": 19, "reserved": 11}
    if typed:
        fields.tables, fields.buddy = {0xF2000000}, 0xF0000000
        fields.frozen = np.array([0xF8000000], np.uint64)
    count, rng = 20_000, np.random.default_rng(5)
    types = [0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFEFF, *fields.tables, fields.buddy or 0]
    types += [0xF4000000, 0xF8000000, 0xF2000003, 0, 7]
    mappings = [0, DIRECT, DIRECT + 1, DIRECT + 2, DIRECT + 3, 0x1000, DIRECT + 0x1000]
    bits = rng.random((count, 64)) < 0.2
    rows = np.zeros((count, fields.page.size), np.uint8)
    for member, values in (
        (fields.page["flags"], (bits << np.arange(64, dtype=np.uint64)).sum(axis=1)),
        (fields.mapping, rng.choice(np.array(mappings, np.uint64), count)),
        (fields.page_type, rng.choice(np.array(types, np.uint64), count)),
        (fields.refcount, rng.choice(np.array([0, 1, 2], np.uint64), count)),
        (fields.tails.link, rng.choice(np.array([0, DIRECT, DIRECT + 1], np.uint64), count)),
    ):
        assert member is not None
        end = member.offset + member.size
        raw = np.ascontiguousarray(values.astype("<u8")).view(np.uint8).reshape(count, 8)
        rows[:, member.offset : end] = raw[:, : member.size]
    heads = fields.slab.heads(rows)
    assert 100 < heads.sum() < count // 2
    assert (heads == fields.slab.heads_by_arrays(rows)).all()
    if typed:
        by_type = replace(fields.slab, flag=None, page_type=0xF2000003)
        assert 100 < by_type.heads(rows).sum() < count // 2
        assert (by_type.heads(rows) == by_type.heads_by_arrays(rows)).all()
    assert fields.loops is not None
    found = fields.loops.of(rows)
    expected = by_arrays(fields, Block(0, rows, np.ones(count, np.bool_)))
    kinds = np.bincount(found.use, minlength=13)
    absent = {FrameUse.ABSENT, FrameUse.UNKNOWN}
    assert {use for use in FrameUse if not kinds[use]} == absent
    assert (found.use == expected.use).all()
    for mark in (TAIL, BUDDY, HEAD):
        assert (found.marks & mark).any()
    assert (found.marks == expected.marks).all()
    assert (found.uses, found.any) == (expected.uses, expected.any)
    assert found.any == TAIL | BUDDY | HEAD
    assert found.uses == sum(1 << use for use in set(FrameUse) - absent)


def test_addresses_are_in_the_slots_that_numpy_says(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(library, monkeypatch)
    table = busy_kernel()[0].table
    offsets = np.arange(0, 400 * PAGE, 4, dtype=np.uint64)
    slot, within = table.locate(offsets)
    use(None, monkeypatch)
    expected, where = replace(table).locate(offsets)
    assert (expected >= 0).sum() > 5000
    assert (slot == expected).all()
    assert (within == where)[expected >= 0].all()


def test_on_a_real_kernel_the_pass_finds_the_same(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = reach(lab_view("default"), silent, lambda name: np.random.default_rng(1))
    present = present_frames(marked.view.host, len(marked.frames.use))
    found = []
    for loops in (library, None):
        use(loops, monkeypatch)
        nodes = replace(marked.nodes, table=replace(marked.table))
        references = find_references(nodes, marked.frames, marked.stacks, present, silent)
        found.append(references)
    a, b = found
    assert len(a.source) > 100_000
    for name in ("source", "target", "page_source", "page_target", "root_at", "root_target"):
        assert (getattr(a, name) == getattr(b, name)).all(), name
    assert (a.roots, a.coverage) == (b.roots, b.coverage)


def test_without_a_compiler_there_is_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled.load(tmp_path / "missing.so") is None
    (tmp_path / "other.so").write_bytes(b"\x7fELF of another machine")
    assert compiled.load(tmp_path / "other.so") is None
    monkeypatch.setenv("CRASHEXT_NUMPY", "1")
    assert compiled.library.__wrapped__() is None
