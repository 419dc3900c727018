"""Colours and bars mean something in a terminal, and are nowhere else."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from crashext.analysis.likeness.words import Kind
from crashext.analysis.memory.memsplit import MemorySplit, Part
from crashext.analysis.overview import look_over
from crashext.analysis.results.reports import LeakReport
from crashext.analysis.verdict.rules import judge
from crashext.progress import silent
from crashext.report.asking import Asking
from crashext.report.kinds import COLOURS
from crashext.report.memory_text import memory_lines
from crashext.report.text import print_leak_report
from crashext.report.verdict_text import print_overview
from tests.report.test_hostile_text import LEAK
from tests.report.test_html_hostile import SETTINGS, view

CYAN, RED, YELLOW = "\x1b[36m", "\x1b[31m", "\x1b[33m"


def shown(report: LeakReport, terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=terminal, highlight=False, markup=False)
    print_leak_report(report, console, False, Asking())
    return out.getvalue()


def test_every_kind_of_word_has_a_colour() -> None:
    assert {kind.label for kind in Kind} - set(COLOURS) == {"opaque"}


def test_words_are_coloured_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    value = f"{7:016x}"
    for colour in (CYAN, YELLOW, RED):  # a pointer, text, a poison
        assert f"{colour}{value}" in shown(LEAK, True)
    assert "\x1b" not in shown(LEAK, False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any(colour in shown(LEAK, True) for colour in (CYAN, YELLOW, RED))


def test_memory_has_bars_in_a_terminal_only() -> None:
    overview = look_over(view("many-leaks"), SETTINGS, silent)
    assert overview.accounting is not None
    pages = []
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, width=200, force_terminal=terminal, color_system=None)
        verdicts = judge(overview.facts)
        print_overview(overview, overview.facts, verdicts, console, True, Asking())
        pages.append(out.getvalue())
    assert "75.6 %  ###############" in pages[0]
    assert "75.6 %  #" not in pages[1]
    assert memory_lines(overview.accounting) == [
        line.rstrip() for line in memory_lines(overview.accounting)
    ]


def test_a_bar_is_never_longer_than_all_memory() -> None:
    overview = look_over(view("many-leaks"), SETTINGS, silent)
    assert overview.accounting is not None
    split = MemorySplit(10, (Part("more than all", "kernel", 40),), -30)
    rows = memory_lines(replace(overview.accounting, found=split), bars=True)
    assert max(row.count("#") for row in rows[:4]) == 20
    assert not any("#" in row for row in rows if "unaccounted  " in row)
