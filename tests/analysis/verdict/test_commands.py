"""The next command of a verdict asks what was not asked yet, of what there is to ask."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from crashext.analysis.verdict import commands
from crashext.analysis.verdict.facts import MountFact, PagesFact
from crashext.analysis.verdict.rules import judge
from tests.analysis.verdict.test_verdict import HEALTHY

PAGES = PagesFact(1 << 30, 1 << 30, ())


def test_page_owner_is_advised_where_it_has_not_spoken() -> None:
    unjudged = replace(HEALTHY, pages=replace(PAGES, unreachable=None))
    assert "page_owner=on" in commands.of_pages(unjudged)
    found = replace(HEALTHY, pages=PAGES)
    assert commands.of_pages(found).startswith("leakscan --orphans # ")
    owned = replace(HEALTHY, pages=replace(PAGES, owner="take_pages+0x2a"))
    assert commands.of_pages(owned).startswith("crash> sym take_pages # ")
    tagged = commands.of_pages(owned, "drivers/net/bond.c:77 bond_alloc")
    assert tagged.startswith("crash> sym bond_alloc # ")
    assert commands.of_pages(replace(owned, source="procfs")).startswith("grep -w take_pages ")


@pytest.mark.parametrize("source", ["live", "procfs"])
def test_a_machine_that_runs_is_asked_without_crash(source: Literal["live", "procfs"]) -> None:
    running = replace(HEALTHY, source=source, pages=PAGES)
    asked = [
        commands.of_pages(running),
        commands.of_process(running, 7),
        commands.of_stuck_reader(running),
        commands.of_huge_pages(running),
        commands.of_page_cache(running),
        commands.of_mount(running, MountFact("/a mount", 1)),
        commands.of_mount(running, MountFact("", 1)),
    ]
    assert not any(command.startswith("crash> ") for command in asked)
    assert asked[-2] == "du -xsh '/a mount'"


def test_a_healthy_machine_is_not_asked_again_what_was_answered() -> None:
    (verdict,) = judge(HEALTHY)
    assert verdict.kind == "healthy"
    assert "--before" in verdict.next
    assert "--refs" not in verdict.next
    (verdict,) = judge(replace(HEALTHY, reachability=None))
    assert verdict.next.startswith("leakscan --refs")


def test_names_out_of_a_dump_are_quoted() -> None:
    assert commands.of_cache("a; b") == "leakscan 'a; b'"
