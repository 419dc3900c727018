"""Leaked areas and blocks of pages, one by one against what the lab's module says that it lost."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from crashext.analysis.reach.holders import Holders
from tests.conftest import lab_dump, on, run
from tests.lab import read_addresses

from .test_orphans import marked

HEALTHY = ("healthy", "innocent", "messages", "rcu", "fragmentation", "process", "healthy4g")


@cache
def truth(name: str, part: str) -> set[int]:
    return set(read_addresses(lab_dump(name).addresses(part)).tolist())


@pytest.mark.parametrize("name", ["default", "pages"])
@pytest.mark.parametrize("order", range(4))
def test_leaked_blocks_of_each_order_are_found_and_cut_as_they_were_allocated(
    name: str, order: int
) -> None:
    found = marked(name)
    lost = truth(name, f"pages{order}")
    nodes = found.unreachable_nodes()
    nodes = nodes[nodes >= found.nodes.first_block]
    sizes = found.nodes.bytes(nodes)
    listed = dict(zip(found.nodes.addresses(nodes).tolist(), sizes.tolist(), strict=True))
    hit = [listed[a] for a in lost if a in listed]
    assert len(hit) >= 0.98 * len(lost)
    assert sum(size == 4096 << order for size in hit) >= 0.98 * len(hit)


@pytest.mark.parametrize("name", ["pages", "pages@sid"])
def test_numbers_that_look_like_physical_addresses_hold_few(name: str) -> None:
    """Bitmaps and bounds of DAMON's regions do: one of 4,096 on 6.1, seven on 7.2. To take them for
    numbers where much is lost accused a block of a healthy arm64 with large pages."""
    found = marked(name)
    lost = np.array(sorted(set().union(*(truth(name, f"pages{n}") for n in range(4)))), np.uint64)
    block = found.nodes.pointed_at(lost) - found.nodes.first_block
    assert found.weak.blocks[block].sum() <= 0.005 * len(lost)


@pytest.mark.parametrize("name", ["default", "vmalloc", "kmem_test"])
def test_leaked_areas_are_found(name: str) -> None:
    found = marked(name)
    lost = truth(name, "vmalloc")
    rows = np.flatnonzero(~found.areas_reached())
    listed = set(found.areas.start[rows].tolist())
    assert len(listed & lost) >= 0.98 * len(lost)
    assert listed <= lost


@pytest.mark.parametrize("name", [*HEALTHY, "default", "pages"])
def test_no_page_or_area_is_accused_that_was_not_lost(name: str) -> None:
    found = marked(name)
    nodes = found.unreachable_nodes()
    nodes = nodes[nodes >= found.nodes.first_area]
    parts = lab_dump(name).truth()["parts"]
    lost = set().union(*(truth(name, p) for p in parts if p.startswith(("pages", "vmalloc"))))
    assert set(found.nodes.addresses(nodes).tolist()) <= lost


POOLS = {
    "pool_chained": "leaklab_pool_chain",
    "pool_listed": "leaklab_pool_pages",
    "pool_ring": "a physical address",
    "pool_large": "leaklab_pool_buffers",
    "pool_vmap": "leaklab_pool_maps",
}


@pytest.mark.parametrize("part", POOLS)
def test_pools_without_a_pointer_to_their_pages_are_held_and_by_whom_is_named(part: str) -> None:
    """Chained through page->private; struct page pointers; physical addresses; a place inside."""
    found = marked("pools")
    nodes = found.nodes.pointed_at(np.array(sorted(truth("pools", part)), np.uint64))
    assert (nodes >= found.nodes.first_area).all()
    assert found.marks.reached[nodes].all()
    # A word in some stack may point at one of them, too.
    places: Counter[str] = Counter()
    for place, times in Holders(found).count(nodes).items():
        places[place.variable or place.name] += times
    most = max(places, key=places.__getitem__)
    assert most.removesuffix(" [leaklab]") == POOLS[part]
    assert places[most] > 0.98 * len(nodes)


def test_lost_areas_of_vmap_are_found_though_their_pages_are_held() -> None:
    found = marked("pools")
    rows = np.flatnonzero(~found.areas_reached())
    assert set(found.areas.start[rows].tolist()) == truth("pools", "vmaps")
    assert run("leakscan", *on("pools"), "--json").document["verdict"]["class"] == "healthy"


def test_the_list_has_areas_and_pages_with_their_sizes(tmp_path: Path) -> None:
    listed = tmp_path / "list"
    assert run("leakscan", *on("default"), "--orphans", "--list", listed).status == 0
    rows = [line.split() for line in listed.read_text().splitlines()]
    areas = {int(r[0], 16): int(r[2]) for r in rows if r[1] == "vmalloc"}
    pages = {int(r[0], 16): int(r[2]) for r in rows if r[1] == "pages"}
    assert set(areas) <= truth("default", "vmalloc")
    assert set(areas.values()) == {65536}
    assert set(pages.values()) == {4096, 8192, 16384, 32768}


def test_who_holds_pages_is_named() -> None:
    """The kernel's own pools and tables, on a guest where nothing is lost."""
    document = run("leakscan", *on("healthy"), "--json").document
    held = {h["root"] for h in document["facts"]["pages"]["held"]}
    assert {"table_perturb", "savedcmd"} <= held
    assert document["facts"]["pages"]["unreachable"] == 0
