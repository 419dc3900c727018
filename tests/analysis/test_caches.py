"""`leakscan CACHE` on a made-up kernel: what became of all objects of a cache."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from crashext.analysis.caches import scan_caches
from crashext.analysis.reach import sampling
from crashext.analysis.results.estimate import NONE, Estimate
from crashext.analysis.results.evidence import CacheReach
from crashext.analysis.results.reports import LeakReport
from crashext.analysis.settings import DEFAULT_THRESHOLD, MEMORY_BUDGET, Settings
from crashext.progress import silent
from crashext.report.reach_text import cache_reach_lines, unreachable_note
from tests.kernel.whole import Kernel

SETTINGS = Settings(samples=4000, seed=0, threshold=DEFAULT_THRESHOLD, metric="levenshtein", hops=1)


def alone(kernel: Kernel, count: int) -> list[int]:
    """Objects that are like no other."""
    draw = np.random.default_rng(5)
    return [
        kernel.object("kmalloc-64", *draw.integers(1, 1 << 62, 8).tolist()) for _ in range(count)
    ]


def scan(kernel: Kernel, refs: bool | None = None, budget: int = MEMORY_BUDGET) -> LeakReport:
    return scan_caches(kernel.view(), ["kmalloc-64"], SETTINGS, silent, refs=refs, memory=budget)


def test_unreachable_objects_are_counted_where_they_do_not_group() -> None:
    kernel = Kernel()
    objects = alone(kernel, 300)
    kernel.variable("table", *objects[:20])
    (cache,) = scan(kernel).caches
    known = Estimate.known
    assert cache.reach == CacheReach(known(280), known(20), NONE, 0)
    assert unreachable_note(cache) == "; 280 of 300 objects are unreachable"
    assert cache_reach_lines(cache.reach) == [
        "reach: 280 unreachable, 20 held, 0 weakly held, 0 not judged"
    ]


def test_where_nobody_looked_nothing_is_said() -> None:
    kernel = Kernel()
    alone(kernel, 30)
    (cache,) = scan(kernel, refs=False).caches
    assert cache.reach is None
    assert unreachable_note(cache) == ""
    assert cache_reach_lines(cache.reach) == []


def test_what_the_first_group_says_is_not_said_twice() -> None:
    kernel = Kernel()
    for i in range(200):
        kernel.object("kmalloc-64", 0xDEAD000000000122, 1, 2, 3, i)
    (cache,) = scan(kernel).caches
    assert cache.reach is not None
    assert cache.reach.unreachable == Estimate.known(200)
    assert unreachable_note(cache) == ""


def test_slots_that_nobody_can_judge_are_counted_apart() -> None:
    kernel = Kernel()
    objects = alone(kernel, 100)
    kernel.break_freelist(objects[-1])
    (cache,) = scan(kernel).caches
    assert cache.reach is not None
    assert cache.reach.not_judged > 0
    assert cache.reach.unreachable.estimate + cache.reach.not_judged >= 100


def test_of_a_sampled_cache_it_is_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_TARGETS", 200)
    monkeypatch.setattr(sampling, "_BASE_BYTES", 0)
    monkeypatch.setattr(sampling, "_SLOT_BYTES", 1 << 10)
    monkeypatch.setattr(sampling, "_LOST_BYTES", 1 << 10)  # too much for files, too
    kernel = Kernel()
    objects = alone(kernel, 2000)
    for start in range(0, 1000, 16):
        kernel.object("kmalloc-128", *objects[start : start + 16])
    # The holders are held themselves: every other run of objects is unreachable.
    holders = [s + 128 * i for s in kernel.cache("kmalloc-128").slabs for i in range(32)]
    kernel.variable("table", *holders[: len(range(0, 1000, 16))])
    (cache,) = scan(kernel, True, 1 << 20).caches
    assert cache.reach is not None
    found = cache.reach.unreachable
    assert not found.exact
    assert found.low <= 1000 <= found.high
    assert cache.reach.held.low <= 1000 <= cache.reach.held.high
    assert cache_reach_lines(cache.reach)[0].startswith("reach: ~")


def test_groups_of_text_show_some_of_it() -> None:
    kernel = Kernel()
    for i in range(100):
        text = f"GET /path/{i:04} HTTP/1.1\r\nHost: \x1b[2Jevil\r\n".encode().ljust(64, b"\0")
        kernel.object("kmalloc-64", *np.frombuffer(text, "<u8").tolist())
    (cache,) = scan(kernel).caches
    note = cache.groups[0].notes[0]
    assert note.startswith('text at +0x0 in all of the group, such as "GET /path/')
    assert note.endswith(' HTTP/1.1\\r\\nHost: "')
    console = Console(width=120)
    with console.capture() as page:
        console.print(note, markup=False)
    assert "\x1b[2J" not in page.get()


def test_text_that_is_one_and_the_same_is_said_to_be() -> None:
    kernel = Kernel()
    for _ in range(100):
        text = b"made by the one and only driver".ljust(64, b"\0")
        kernel.object("kmalloc-64", *np.frombuffer(text, "<u8").tolist())
    (cache,) = scan(kernel).caches
    told = 'text at +0x0 in all of the group: "made by the one and only driver"'
    assert told in cache.groups[0].notes


def test_numbers_are_no_text() -> None:
    kernel = Kernel()
    for i in range(100):
        kernel.object("kmalloc-64", 0x41424344, i, 0x4142434445464748, i)
    (cache,) = scan(kernel).caches
    assert not any(note.startswith("text") for note in cache.groups[0].notes)


def interrupted_at(words: str) -> tuple[LeakReport, list[int]]:
    """The report of a kernel with a group, when Ctrl-C comes while `words` are going on."""
    kernel = Kernel()
    for i in range(200):
        kernel.object("kmalloc-64", 0xDEAD000000000122, 1, 2, 3, i)
    kernel.object("kmalloc-32", 1)
    shares: list[int] = []

    def progress(what: str, done: int, total: int) -> None:
        shares.append(100 * done // total)
        if words in what:
            raise KeyboardInterrupt

    names = ["kmalloc-64", "kmalloc-32"]
    return scan_caches(kernel.view(), names, SETTINGS, progress, refs=True), shares


def test_interrupted_before_anything_was_read_the_counters_are_told() -> None:
    report, _ = interrupted_at("slabs")
    assert (report.interrupted, report.caches) == (True, ())
    assert [s.what for s in report.skipped] == ["cache: kmalloc-64", "cache: kmalloc-32"]
    assert all(s.effect.startswith("interrupted before") for s in report.skipped)


def test_interrupted_while_it_looks_who_points_there_the_group_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crashext.analysis.reach.on_demand.marked", interrupted)
    report, _ = interrupted_at("nothing")
    (cache,) = report.caches
    assert cache.groups[0].objects.estimate == 200
    assert cache.groups[0].held is None
    told = {s.what: s.effect for s in report.skipped}
    assert told["kmalloc-64: groups not judged"] == (
        "interrupted before it was known who points at them"
    )
    assert "cache: kmalloc-32" in told


def test_progress_is_a_share_of_the_whole_and_never_goes_back() -> None:
    report, shares = interrupted_at("nothing")
    assert not report.interrupted
    assert shares == sorted(shares)
    assert shares[-1] > 60
