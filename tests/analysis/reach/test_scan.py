"""A pass over memory sees the same with any number of threads, and loses nothing if one fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crashext.analysis.reach import scan
from crashext.analysis.reach.reachability import reach
from crashext.hosts.base import Mask, ReadFault
from crashext.hosts.drgn import open_core
from crashext.kernel.access import Words
from crashext.kernel.byframe import ByFrame
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from tests.conftest import lab_dump

FRAMES, PAGE, START = 4096, 4096, 1 << 40
HOLES = [700, 701, 2600]


class Host:
    """Memory of which each word is its own offset, with holes; readers fail as they are told."""

    def __init__(self, jobs: int, failing: bool = False) -> None:
        self.jobs, self.failing, self.asked = jobs, failing, 0

    def read(self, address: int, size: int) -> bytes:
        self.asked += 1
        offset = address - START
        if any(offset < (h + 1) * PAGE and h * PAGE < offset + size for h in HOLES):
            raise ReadFault(address)
        return np.arange(offset, offset + size, 8, dtype=np.uint64).tobytes()

    def read_many(self, addresses: Words, size: int) -> tuple[Any, Mask]:
        rows = np.zeros((len(addresses), size), np.uint8)
        ok = ~np.isin((addresses - np.uint64(START)) // np.uint64(PAGE), HOLES)
        for i in np.flatnonzero(ok).tolist():
            rows[i] = np.frombuffer(self.read(int(addresses[i]), size), np.uint8)
        return rows, ok

    def readers(self, count: int) -> list[Reader]:
        return [Reader(self.failing and i == 0) for i in range(count)]


class Reader:
    def __init__(self, failing: bool) -> None:
        self._failing, self._host = failing, Host(1)

    def read(self, address: int, size: int) -> memoryview | None:
        if self._failing:
            raise OSError("the file is gone")
        try:
            return memoryview(self._host.read(address, size))
        except ReadFault:
            return None


class Sums:
    """A scanner that keeps what it saw, in order."""

    def __init__(self, interrupted: bool = False) -> None:
        self.seen: list[tuple[int, int]] = []
        self._interrupted = interrupted

    def look(self, offset: int, words: Words) -> tuple[int, int]:
        return offset, int(words.sum())

    def take(self, found: tuple[int, int]) -> None:
        self.seen.append(found)
        if self._interrupted and len(self.seen) == 3:
            raise KeyboardInterrupt


def scanned(host: Host, scanner: Sums) -> list[int]:
    space = SimpleNamespace(page_shift=12, page_size=PAGE, address=lambda pfn: START + pfn * PAGE)
    view: Any = SimpleNamespace(host=host, space=space)
    wanted = ByFrame.of_runs(FRAMES, np.array([[0, 1000], [1100, FRAMES]]))
    missing: list[int] = scan.scan_memory(view, wanted, None, [scanner], silent, "sums").tolist()
    return missing


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("jobs", [2, 3, 8])
def test_any_number_of_threads_sees_the_same(
    jobs: int, failing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_WORTH_THREADS", 0)
    alone, together = Sums(), Sums()
    missing = scanned(Host(1), alone)
    host = Host(jobs, failing)
    assert missing == scanned(host, together) == HOLES
    assert alone.seen == together.seen
    assert len(alone.seen) > 20


def test_an_interrupt_ends_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_WORTH_THREADS", 0)
    scanner = Sums(interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        scanned(Host(3), scanner)
    assert len(scanner.seen) == 3


def test_a_mark_is_the_same_with_two_threads() -> None:
    dump = lab_dump("default")
    found = []
    for jobs in (1, 2):
        host = open_core(dump.d31, [dump.vmlinux])
        host.jobs = jobs
        view = KernelView(host)
        found.append(reach(view, silent, lambda name: np.random.default_rng(1)))
    one, two = found
    for name in ("source", "target", "page_source", "page_target", "root_at", "root_target"):
        assert np.array_equal(getattr(one.references, name), getattr(two.references, name)), name
    assert one.references.roots == two.references.roots
    assert one.references.coverage == two.references.coverage
    assert np.array_equal(one.marks.reached, two.marks.reached)
