"""The compiled loops find what numpy finds, word for word; nothing needs them."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crashext.analysis.reach import blocks
from crashext.analysis.reach.blocks import PhysicalAddresses
from crashext.analysis.reach.leads import Leads
from crashext.analysis.reach.reachability import Reach, reach
from crashext.analysis.reach.references import find_references
from crashext.analysis.reach.scan import present_frames
from crashext.kernel import byframe, compiled
from crashext.kernel.access import Words
from crashext.kernel.slab import slots
from crashext.progress import silent
from tests.conftest import lab_view, need_lab
from tests.kernel.whole import DIRECT, PAGE, VMALLOC, VMEMMAP, Kernel

SOURCE = Path(compiled.__file__).with_suffix(".c")
POISON = 0xDEAD000000000122


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """As pip builds it."""
    need_lab()
    path = tmp_path_factory.mktemp("compiled") / compiled.build_name()
    flags = ["-O3", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, "-o", str(path), str(SOURCE)], check=True)
    found = compiled.load(path)
    assert found is not None
    return found


def use(library: ctypes.CDLL | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (slots, blocks):
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
    kernel.variable("objects", *objects[::2])
    kernel.break_freelist(kernel.object("kmalloc-256"))
    map_entry = VMEMMAP + 64 * ((block - DIRECT) // PAGE)
    return kernel.marked(), [*objects, area, block, map_entry, kernel.user_page()]


def words_like_pointers(known: list[int], count: int) -> Words:
    """Most near something, in runs, with flags; and what stands beside words that hold nothing."""
    rng = np.random.default_rng(7)
    near = rng.choice(np.array(known, np.uint64), count)
    near += rng.integers(0, 300, count).astype(np.uint64)
    other = rng.choice([0, POISON, DIRECT - 8, DIRECT + (1 << 40), VMALLOC, VMEMMAP], count)
    found = np.where(rng.random(count) < 0.7, near, other.astype(np.uint64))
    found = np.repeat(found, rng.integers(1, 5, count))[:count]
    own = np.uint64(DIRECT + 16 * PAGE) + np.arange(count, dtype=np.uint64) * np.uint64(8)
    return np.where(rng.random(count) < 0.1, own, found)


@pytest.mark.parametrize("dense", [byframe.DENSE, 0])
def test_words_lead_where_numpy_says(
    dense: int, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byframe, "DENSE", dense)
    use(library, monkeypatch)
    marked, known = busy_kernel()
    leads = Leads(marked.nodes)
    words = words_like_pointers(known, 20_000)
    at, target, _ = leads.of(16 * PAGE, words)
    expected = leads.by_arrays(16 * PAGE, words)
    assert len(at) > 5000
    assert len(np.unique(target)) > 200
    assert (at == expected[0]).all()
    assert (target == expected[1]).all()


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
