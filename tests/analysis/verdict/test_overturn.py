"""Whoever says something of a machine says as well what would show the opposite."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from rich.console import Console

from crashext.analysis.verdict.overturn import overturned_by
from crashext.analysis.verdict.rules import judge
from crashext.analysis.verdict.verdict import Culprit, Outcome, Verdict, Where
from crashext.report.asking import Asking
from crashext.report.verdict_text import print_verdicts
from tests.analysis.verdict.test_verdict import BLIND, GIB, HEALTHY, unreachable

SAID = [kind for kind in get_args(Outcome) if kind != "cannot-tell"]


def verdict(kind: Outcome, where: Where = "slab") -> Verdict:
    return Verdict(kind, where, Culprit(), 1, "high", "", (), (), "")


@pytest.mark.parametrize("kind", SAID)
def test_every_verdict_can_be_overturned(kind: Outcome) -> None:
    assert overturned_by(HEALTHY, verdict(kind))


def test_who_cannot_tell_is_not_overturned() -> None:
    assert overturned_by(HEALTHY, verdict("cannot-tell")) == ""


def test_a_leak_is_overturned_by_what_its_finder_does_not_see() -> None:
    ours = [
        overturned_by(HEALTHY, verdict("leak", where)) for where in ("slab", "vmalloc", "pages")
    ]
    assert len({*ours, overturned_by(BLIND, verdict("leak"))}) == 4
    assert "kmemleak" in overturned_by(BLIND, verdict("leak"))
    assert "physical" in ours[2]  # nobody looks for physical addresses of slab objects


def test_judging_says_it_and_long_reports_print_it() -> None:
    verdicts = judge(replace(HEALTHY, unreachable=(unreachable(GIB // 2),)))
    assert verdicts[0].kind == "leak"
    assert all(v.overturned_by == overturned_by(HEALTHY, v) for v in verdicts)
    for verbose in (False, True):
        console = Console(width=400)
        with console.capture() as page:
            print_verdicts(verdicts, console, Asking(), verbose)
        assert (f"unless:  {verdicts[0].overturned_by}" in page.get()) == verbose
