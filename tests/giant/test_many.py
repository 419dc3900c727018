"""Thirty thousand areas, eight thousand tasks, two thousand caches, four thousand memory cgroups:
each is counted once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import Ran, lab_dump, run
from tests.giant import SHAPES, make
from tests.giant.image import PAGE
from tests.giant.shape import STACK_PAGES, Crowd

CROWD = Crowd(areas=1 << 15, tasks=1 << 13, caches=2000, cgroups=1 << 12, cgroups_lost=1 << 6)
_LOST = {
    "kmalloc-4k": 2,  # its mem_cgroup, and the part of it that is of the node
    "kmalloc-2k": 1,
    "kmalloc-512": 1,
}
"""Objects of a memory cgroup, by cache."""
SHAPE = replace(SHAPES["4G"], leaked=1 << 27, crowd=CROWD)


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    path = tmp_path_factory.mktemp("giant") / "many.vmcore"
    make(lab_dump("nodes"), SHAPE, path)
    yield run("leakscan", "-c", path, "-s", lab_dump("nodes").vmlinux, "--json")
    path.unlink()


def area(verdict: Ran, caller: str) -> dict[str, Any]:
    areas = verdict.document["facts"]["areas"]
    found: dict[str, Any] = next(a for a in areas if a["caller"] == caller)
    return found


def test_areas_that_nobody_knows(verdict: Ran) -> None:
    lost = area(verdict, "vmalloc")
    assert lost["unreachable"] == CROWD.areas * PAGE
    assert CROWD.areas <= lost["areas"] < CROWD.areas + 100


def test_stacks_of_tasks_are_in_use(verdict: Ran) -> None:
    stacks = max(verdict.document["facts"]["areas"], key=lambda a: a["pages"])
    assert 0 <= stacks["pages"] - CROWD.tasks * STACK_PAGES < 4096, stacks
    assert not stacks["unreachable"]


def test_every_cache_is_there(verdict: Ran) -> None:
    caches = [c for c in verdict.document["facts"]["caches"] if ":job-" in c["name"]]
    assert len(caches) == CROWD.caches
    assert {c["slabs"] for c in caches} == {1}
    assert len({c["allocated"] for c in caches}) == 1
    assert {c["unreachable"]["estimate"] for c in caches} == {0}


@pytest.mark.parametrize("name", _LOST)
def test_memory_cgroups_that_were_lost_are_unreachable_and_no_others(
    verdict: Ran, name: str
) -> None:
    """Neither those that live nor those that were removed, to whose parent objects are charged."""
    cache = next(c for c in verdict.document["facts"]["caches"] if c["name"] == name)
    lost = _LOST[name] * CROWD.cgroups_lost
    assert cache["unreachable"]["estimate"] == lost
    assert cache["allocated"] >= _LOST[name] * CROWD.cgroups + lost
    others = [c for c in verdict.document["facts"]["caches"] if c["name"] == "kmalloc-cg-64"]
    assert [c["unreachable"]["estimate"] for c in others] == [0]


def test_they_are_accused_as_what_they_are(verdict: Ran) -> None:
    found = verdict.document["verdicts"]
    lost = next(v for v in found if v["class"] == "leak" and v["culprit"]["cache"] == "kmalloc-4k")
    assert any("struct mem_cgroup" in line for line in lost["for"])


def test_memory_adds_up(verdict: Ran) -> None:
    for check in verdict.document["accounting"]["checks"]:
        assert check["found"] == pytest.approx(check["counted"], abs=256 << 10), check
