"""Orphans of a made-up kernel: each unreachable object once, under its head, alike ones as one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crashext.analysis import orphans
from crashext.analysis.likeness.groups import Population
from crashext.analysis.likeness.sample import draw
from crashext.analysis.objects import compare
from crashext.analysis.orphans import Orphans, scan_orphans
from crashext.analysis.reach import sampling
from crashext.analysis.reach.on_demand import ReachOnDemand
from crashext.analysis.reach.reachability import Class
from crashext.analysis.results.estimate import NONE, Estimate
from crashext.analysis.settings import DEFAULT_THRESHOLD, MEMORY_BUDGET, Settings
from crashext.progress import silent
from crashext.report.orphans_text import write_list
from tests.kernel.whole import Kernel

SETTINGS = Settings(samples=1000, seed=0, threshold=DEFAULT_THRESHOLD, metric="levenshtein", hops=1)
POISON = 0xDEAD000000000122


def scan(kernel: Kernel, budget: int = MEMORY_BUDGET) -> Orphans:
    return scan_orphans(kernel.view(), SETTINGS, silent, budget)


def sessions(kernel: Kernel, count: int) -> list[int]:
    """Leaked structures: a head with a pointer to two more objects, one of them shared by none."""
    heads = []
    for i in range(count):
        buffer = kernel.object("kmalloc-96", POISON, 7)
        state = kernel.object("kmalloc-32", POISON)
        heads.append(kernel.object("kmalloc-192", POISON, POISON, buffer, state, 0x100 + i))
    return heads


def test_a_healthy_kernel_has_none() -> None:
    kernel = Kernel()
    kernel.task(1, "init", used=64)
    report = scan(kernel).report
    assert (report.totals.objects, report.orphans, report.more) == (NONE, (), 0)
    assert report.totals.judged > 0
    assert not report.reachability.notes


def test_heads_are_grouped_and_what_hangs_below_is_counted_with_them() -> None:
    kernel = Kernel()
    heads = sessions(kernel, 30)
    names = [kernel.object("kmalloc-192", 0x6F626F6D5F736372) for _ in range(10)]
    found = scan(kernel)
    first, second = found.report.orphans
    assert (first.cache, first.heads, first.objects) == ("kmalloc-192", 30, 90)
    assert first.bytes == 30 * (192 + 96 + 32)
    assert [(b.cache, b.objects, b.bytes) for b in first.below] == [
        ("kmalloc-96", 30, 2880),
        ("kmalloc-32", 30, 960),
    ]
    assert set(first.examples) <= set(heads)
    assert (second.heads, second.objects, second.below) == (10, 10, ())
    assert set(second.examples) <= set(names)
    totals = found.report.totals
    assert (totals.objects, totals.heads) == (Estimate.known(100), Estimate.known(40))
    assert totals.dead_words == 0
    assert totals.bytes == first.bytes + second.bytes
    listed = dict(zip(found.addresses.tolist(), found.caches, strict=True))
    assert len(listed) == 100
    assert all(listed[a] == "kmalloc-192" for a in (*heads, *names))


def test_objects_are_counted_by_the_cache_of_their_heads() -> None:
    """A task that hangs below another one is a leaked task, and nobody's other object."""
    kernel = Kernel()
    for i in range(70):  # each a group of its own, more than are listed
        last = kernel.object("kmalloc-192", POISON, 7 + i)
        other = kernel.object("kmalloc-64", *([3 + i] * 8))
        kernel.object("kmalloc-192", last, other, *range(i << 40, (i << 40) + 20))
    report = scan(kernel).report
    (whole,) = report.caches
    assert (whole.objects, whole.heads) == (Estimate.known(140), Estimate.known(70))
    assert (whole.others, [b.cache for b in whole.below]) == (Estimate.known(70), ["kmalloc-64"])
    assert whole.bytes == 70 * (2 * 192 + 64)


def test_what_a_dead_word_of_a_stack_names_is_counted() -> None:
    kernel = Kernel()
    heads = sessions(kernel, 3)
    _, stack = kernel.task(7, "sleeper", used=64)
    kernel.write(stack + 128, heads[0])
    assert scan(kernel).report.totals.dead_words == 1


def test_objects_like_no_other_are_all_counted() -> None:
    kernel = Kernel()
    draw = np.random.default_rng(5)
    for _ in range(40):
        kernel.object("kmalloc-64", *draw.integers(1, 1 << 62, 8).tolist())
    report = scan(kernel).report
    assert report.totals.objects == Estimate.known(40)
    assert sum(g.objects for g in report.orphans) == 40


def test_a_sample_of_many_heads_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "_SAMPLED", 16)
    kernel = Kernel()
    sessions(kernel, 200)
    report = scan(kernel).report
    (group,) = report.orphans
    assert (group.heads, group.objects, group.estimated) == (200, 600, True)
    (whole,) = report.caches
    assert (whole.heads, whole.others) == (Estimate.known(200), Estimate.known(400))


def test_slabs_that_stand_for_more_are_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_TARGETS", 200)
    monkeypatch.setattr(sampling, "_BASE_BYTES", 0)
    monkeypatch.setattr(sampling, "_SLOT_BYTES", 1 << 10)
    monkeypatch.setattr(sampling, "_LOST_BYTES", 1 << 10)  # too much for files, too
    kernel = Kernel()
    for i in range(16 * 128):
        kernel.object("kmalloc-32", POISON, i)
    report = scan(kernel, 1 << 20).report
    (group,) = report.orphans
    assert (group.heads, group.bytes) == (2048, 1 << 16)
    totals = report.totals.objects
    assert totals.low < totals.estimate == totals.high == 2048
    (whole,) = report.caches
    assert (whole.cache, whole.objects, whole.heads) == ("kmalloc-32", totals, totals)
    assert report.reachability.sampled
    assert any("of kmalloc-32 only random slabs are judged" in n for n in report.reachability.notes)


def test_reachability_is_looked_for_once_and_only_where_it_is_wanted() -> None:
    kernel = Kernel()
    lost, held = kernel.object(), kernel.object()
    kernel.variable("holder", held)
    view = kernel.view()
    view.scan({}, seed=0)
    addresses = np.array([lost, held], np.uint64)
    told: list[str] = []

    def ask(wanted: bool | None) -> ReachOnDemand:
        return ReachOnDemand(
            view, SETTINGS, lambda what, done, total: told.append(what), MEMORY_BUDGET, wanted
        )

    refused = ask(False)
    assert (refused.reachability, refused.classes("some", addresses)) == (None, None)
    assert not told
    asked = ask(None)  # a machine this small is looked at unasked
    answer = asked.classes("some", addresses)
    assert answer is not None
    assert answer.tolist() == [Class.ORPHAN, Class.HELD]
    assert asked.classes("none", addresses[:0]) is None
    assert asked.reachability is not None
    assert told.count("free slots") == len(view.caches.all)
    live = replace(kernel.host.info(), live=True)
    kernel.host._info = live
    assert not ask(None).wanted  # not where memory changes under one's hands


def test_a_group_hears_who_holds_its_members() -> None:
    kernel = Kernel()
    objects = [kernel.object("kmalloc-512") for _ in range(8)]
    kernel.variable("table", *objects[:4])
    view = kernel.view()
    view.scan({}, seed=0)
    cache = view.caches.find("kmalloc-512")
    assert cache is not None
    rows = view.index.rows_of(view.caches.index(cache))
    sample = draw(view.reader(cache), view.index, rows, 8, np.random.default_rng(0), silent)
    assert sample.address.tolist() == objects
    population = Population(sample, 1, Estimate.known(8))
    asked = ReachOnDemand(view, SETTINGS, silent, MEMORY_BUDGET, True)
    found = asked.held(cache, objects[0], population, np.arange(8))
    assert found is not None
    assert (found.held.value, found.orphan.value, found.weak.value) == (0.5, 0.5, 0.0)
    assert found.holders == (("table", 4),)


def test_what_is_no_leak_says_so_in_the_list_and_by_itself(tmp_path: Path) -> None:
    kernel = Kernel()
    root = kernel.variable("sysctl_table_root", 0)
    tables = [kernel.object("kmalloc-96", 7 + i, root, POISON) for i in range(3)]
    lost = kernel.object("kmalloc-96", *[1 << 40] * 12)
    found = scan(kernel)
    boot = "a sysctl table registered at boot for good (kmemleak_not_leak)"
    assert found.explained == dict.fromkeys(tables, boot)
    write_list(found.addresses, found.caches, tmp_path / "list", found.explained)
    rows = dict(line.split(" ", 1) for line in (tmp_path / "list").read_text().splitlines())
    assert {rows[f"{a:x}"] for a in tables} == {f"kmalloc-96 # no leak: {boot}"}
    assert rows[f"{lost:x}"] == "kmalloc-96"
    told = [
        compare(kernel.view(), [a], SETTINGS, False, silent).subjects[0] for a in (*tables, lost)
    ]
    assert [s.details for s in told] == [(f"no leak: {boot}",)] * 3 + [()]
