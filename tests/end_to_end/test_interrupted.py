"""Ctrl-C during a question: what is known by then is told, whenever it comes."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from crashext.analysis.moments import of_overview
from crashext.analysis.overview import Overview, look_over
from crashext.analysis.settings import Settings
from crashext.analysis.verdict.rules import judge
from crashext.commands import running
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress
from crashext.report.verdict_text import told_of
from crashext.resident.interrupts import Interrupts
from tests.conftest import Ran, lab_dump, lab_host, on, run
from tests.lab import read_addresses

SETTINGS = Settings(250_000, 0, 0.7, "hamming", 1)


def at(step: str) -> Progress:
    """Ctrl-C when a step is told."""

    def told(what: str, done: int, total: int) -> None:
        if what.startswith(step):
            raise KeyboardInterrupt

    return told


def interrupted(step: str) -> Overview:
    return look_over(KernelView(lab_host("default")), SETTINGS, at(step))


@pytest.mark.parametrize(
    ("step", "known"),
    [
        ("memory map", "the kernel's counters are"),
        ("accounting", "counters and caches are"),
        ("caches", "counters and caches are"),
        ("what can be reached", "counters, caches and page frames are"),
        ("orphans", "counters, caches and page frames are"),
    ],
)
def test_a_verdict_has_what_was_known(step: str, known: str) -> None:
    overview = interrupted(step)
    assert told_of(overview).startswith(f"interrupted: {known} all in this")
    assert overview.accounting is not None
    assert overview.facts.total > 200 << 20
    caches = {cache.name: cache for cache in overview.facts.caches}
    # 200,000 of 32 bytes that the guest's log has.
    assert 200_000 * 32 <= caches["kmalloc-32"].bytes < 220_000 * 32
    assert all(verdict.kind != "leak" for verdict in judge(overview.facts))
    assert any("interrupted before" in limit for limit in overview.facts.limits)


def test_bytes_of_uncounted_caches_are_no_objects_that_grew() -> None:
    assert of_overview("a", interrupted("memory map")).slabs is None
    slabs = of_overview("a", interrupted("accounting")).slabs
    assert slabs is not None


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Of the commands."""

    def when(step: str) -> None:
        @contextmanager
        def progress() -> Iterator[Progress]:
            yield at(step)

        monkeypatch.setattr(running, "_progress", progress)

    return when


def orphans() -> Ran:
    return run("leakscan", *on("default"), "--orphans")


def test_a_verdict_cut_off_says_so_first_and_what_is_counted_by_then() -> None:
    for step, said in (("accounting", "all memory was"), ("what can be reached", "it was known")):
        (verdict, *_) = judge(interrupted(step).facts)
        assert f"no leak is to be seen by the counters; interrupted before {said}" in verdict.says
    overview = interrupted("orphans")
    counted = re.search(r"([\d,]+) objects that nothing reaches", judge(overview.facts)[0].says)
    assert counted is not None
    assert int(counted[1].replace(",", "")) > 220_000  # as many as the guest's log says, at least
    assert "what nothing reaches is counted" in told_of(overview)


@pytest.mark.parametrize("question", [(), ("kmalloc-32",), ("--orphans",)])
def test_a_second_one_while_the_first_is_answered_loses_nothing(
    question: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real signals: one in the midst of the memory map, another before the answer is printed."""

    def press(*unused: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    @contextmanager
    def progress() -> Iterator[Progress]:
        yield lambda what, done, total: press() if what == "memory map" else None

    printed = running._print

    def print_late(*arguments: Any) -> None:
        press()
        printed(*arguments)

    monkeypatch.setattr(running, "_progress", progress)
    monkeypatch.setattr(running, "_print", print_late)
    interrupts = Interrupts()
    with interrupts.command():
        ran = run("leakscan", *on("default"), *question)
    assert interrupts.count == 2  # by the first alone: when it came, and when it was raised
    assert "interrupted" in ran.out
    assert ran.err == ""


def test_an_address_cut_off_is_still_said_what_it_is(interrupt: Callable[[str], None]) -> None:
    node = read_addresses(lab_dump("default").addresses("nodes"))[7]
    interrupt("pointers")
    ran = run("objsim", *on("default"), f"{node:x}")
    assert ran.out.startswith(f"{node:x}: kmalloc-32 object, allocated")
    assert "interrupted: this is what was known so far" in ran.out
    interrupt("memory map")
    ran = run("objsim", *on("default"), f"{node:x}")
    assert (ran.out, ran.status) == ("", 130)
    assert ran.err == "objsim: interrupted before anything was known\n"


def test_where_nothing_that_was_asked_is_known_the_counters_are_told(
    interrupt: Callable[[str], None],
) -> None:
    interrupt("memory map")
    ran = orphans()
    assert ran.status == 2
    assert "(low confidence)" in ran.out.splitlines()[0]
    assert "interrupted: the kernel's counters are all in this" in " ".join(ran.out.split())


def test_orphans_have_the_groups_that_were_looked_at(interrupt: Callable[[str], None]) -> None:
    interrupt("orphans")
    ran = orphans()
    assert ran.status == 0
    assert "are unreachable" in ran.out.splitlines()[0]
    assert "interrupted: this is what was known so far" in ran.out


def test_a_cache_has_what_the_kernel_counts(interrupt: Callable[[str], None]) -> None:
    interrupt("memory map")
    ran = run("leakscan", *on("default"), "kmalloc-32")
    assert "interrupted before its objects were read; the kernel counts" in " ".join(
        ran.out.split()
    )
