"""A machine of 4 GiB that was made from a guest of 256 MiB: what is true of it comes out.

Larger ones are for `python -m tests.benchmarks.giant`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import drgn
import numpy as np
import pytest
from drgn.helpers.linux.mm import PageSlab, page_to_pfn, pfn_to_page

from tests.conftest import Ran, lab_dump, run
from tests.giant import SHAPES, make
from tests.giant.image import PAGE

SHAPE = SHAPES["4G"]


@pytest.fixture(scope="module")
def giant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("giant") / "4G.vmcore"
    make(lab_dump("nodes"), SHAPE, path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def truth(giant: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(giant.with_suffix(".json").read_text())
    return parsed


@pytest.fixture(scope="module")
def verdict(giant: Path) -> Ran:
    return run("leakscan", "-c", giant, "-s", lab_dump("nodes").vmlinux, "--json")


def test_drgn_finds_slabs_where_they_were_put(giant: Path, truth: dict[str, Any]) -> None:
    """By the page tables that were written, which leakscan's own walk is not asked for."""
    program = drgn.Program()
    program.set_core_dump(str(giant))
    program.load_debug_info([str(lab_dump("nodes").vmlinux)])
    rng = np.random.default_rng(1)
    for kind, _, first, pages in truth["runs"]:
        draw = [0, pages - 1, *rng.integers(pages, size=50).tolist()]
        found = [pfn_to_page(program, first + n) for n in draw]
        assert [int(page_to_pfn(page)) - first for page in found] == draw
        assert {bool(PageSlab(page)) for page in found} == {kind == "leaked"}


def test_the_leak_is_found_and_counted(verdict: Ran, truth: dict[str, Any]) -> None:
    first, leak = verdict.document["verdict"], truth["leak"]
    assert (first["class"], first["culprit"]["cache"]) == ("leak", leak["cache"]), first
    assert first["culprit"]["module"] == "leaklab"
    cache = next(c for c in verdict.document["facts"]["caches"] if c["name"] == leak["cache"])
    assert cache["unreachable"]["low"] <= leak["objects"] <= cache["unreachable"]["high"]
    # Beside the leaked ones there are some hundred that the kernel uses.
    assert 0 <= cache["allocated"] - leak["objects"] < 1000


def test_memory_adds_up(verdict: Ran, truth: dict[str, Any]) -> None:
    accounting, added = verdict.document["accounting"], truth["added"]
    total = (added["present"] - added["reserved"]) * PAGE
    assert total < accounting["counted"]["total"] < total + (256 << 20)
    for check in accounting["checks"]:
        assert check["found"] == pytest.approx(check["counted"], abs=256 << 10), check
    assert accounting["found"]["total"] == accounting["counted"]["total"]
    process = accounting["processes"][0]
    assert process["rss_anon"] >= added["user"] * PAGE


def test_growth_between_two_sampled_machines_is_exact(
    giant: Path, truth: dict[str, Any], tmp_path: Path
) -> None:
    """Objects are counted by slabs, which are all looked at, whatever is read of them."""
    before, vmlinux = tmp_path / "before.vmcore", lab_dump("nodes").vmlinux
    smaller = replace(SHAPE, leaked=SHAPE.leaked // 2, partial=77, seed=2)
    earlier = make(lab_dump("nodes"), smaller, before)
    ran = run("leakscan", "-c", giant, "-s", vmlinux, "--before", before, "--json")
    cache = truth["leak"]["cache"]
    grown = next(c for c in ran.document["facts"]["growth"]["caches"] if c["name"] == cache)
    assert grown["active_objs"] == truth["leak"]["objects"] - earlier["leak"]["objects"]
    assert grown["slabs"] == truth["leak"]["added_slabs"] - earlier["leak"]["added_slabs"]
    unreachable = next(c for c in ran.document["facts"]["caches"] if c["name"] == cache)[
        "unreachable"
    ]
    assert unreachable["low"] < unreachable["high"]
    assert unreachable["low"] <= truth["leak"]["objects"] <= unreachable["high"]
    before.unlink()
