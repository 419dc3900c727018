"""A kernel built with allocation profiling: the line of source of each object and each page.

It is compiled by `make test-kernels`, as the one with SLAB is. The truth is the lab's, and the
kernel's own /proc/allocinfo, read just before the dump.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from crashext.kernel.origin.allocprofile import (
    object_tags,
    outstanding,
    page_tags,
    profiled,
    read_tags,
)
from crashext.procfs.alloctraces import AllocTag, parse_allocinfo
from tests.conftest import lab_dump, lab_view, on, run
from tests.end_to_end.guests import LOST, addresses, census, overview
from tests.kernel.walked import allocated_addresses

NAME = "default@profiling"
KEPT = ("living",)
"""Allocated by the module, and in use."""


@cache
def allocinfo() -> dict[tuple[str, int, str], AllocTag]:
    """What the kernel said, by file, line and module."""
    with (lab_dump(NAME).proc / "allocinfo").open() as lines:
        info = parse_allocinfo(lines)
    assert info.damaged == 0
    return {(t.file, t.line, t.module): t for t in info.tags}


@cache
def tagged() -> dict[int, int]:
    """How many allocated objects of all caches have each tag."""
    view = lab_view(NAME)
    counts: dict[int, int] = {}
    for one in view.caches.all:
        objects = np.array(sorted(allocated_addresses(view, one)), np.uint64)
        found, each = np.unique(object_tags(view, one, objects), return_counts=True)
        for tag, count in zip(found.tolist(), each.tolist(), strict=True):
            counts[tag] = counts.get(tag, 0) + count
    return counts


def test_each_lost_object_has_the_line_that_allocated_it() -> None:
    view, parts = lab_view(NAME), lab_dump(NAME).truth()["parts"]
    assert profiled(view.host)
    for part in (*(p for p in LOST if p != "tasks"), *KEPT):
        (cache_of_it,) = (c for c in view.caches.all if c.name == parts[part]["cache"])
        at = object_tags(view, cache_of_it, addresses(NAME, part))
        (tag,) = read_tags(view.host, at).values()
        assert (at != 0).all(), part
        assert (tag.function, tag.module) == (parts[part]["function"], "leaklab"), part


def test_each_lost_block_of_pages_has_it_too() -> None:
    view = lab_view(NAME)
    for order in range(4):
        where = addresses(NAME, f"pages{order}") - np.uint64(view.space.direct.start)
        at = page_tags(view.memory, view.space.frames(where))
        (tag,) = read_tags(view.host, at).values()
        assert (at != 0).all()
        assert (tag.function, tag.module) == ("leaklab_leak_pages", "leaklab")


def test_counters_are_those_of_allocinfo() -> None:
    """Of the lines that allocated objects. A few may have gone on until the dump."""
    view = lab_view(NAME)
    at = np.array(sorted(tagged()), np.uint64)
    tags, counted = read_tags(view.host, at), outstanding(view.host, view.space, at)
    assert len(tags) > 200
    same = 0
    for address, tag in tags.items():
        said = allocinfo().get((tag.file, tag.line, tag.module))
        here = counted[address]
        equal = (here.bytes, here.calls) == ((said.bytes, said.calls) if said else (0, 0))
        assert equal or tag.module != "leaklab", tag
        same += equal
    assert same >= 0.9 * len(tags)


def test_no_line_has_more_objects_than_its_counter_says() -> None:
    """Objects and counters are two records of one thing, in different memory: they must agree."""
    view = lab_view(NAME)
    at = np.array(sorted(t for t in tagged() if t), np.uint64)
    counted = outstanding(view.host, view.space, at)
    wrong = {t: (n, counted[t].calls) for t, n in tagged().items() if t and n > counted[t].calls}
    assert wrong == {}
    exact = sum(tagged()[t] == counted[t].calls for t in at.tolist())
    assert exact >= 0.9 * len(at)


def test_groups_and_verdicts_name_the_line() -> None:
    parts = lab_dump(NAME).truth()["parts"]
    for group in census(NAME)["orphans"]:
        if not group["explanation"] and group["objects"] >= 100:
            assert group["allocators"][0]["rung"] == "alloc-tag", group["cache"]
    first = [g["allocators"][0] for g in census(NAME)["orphans"] if g["allocators"]]
    named = {a["site"].split(" ")[-1] for a in first if a["module"] == "leaklab"}
    assert named >= {parts[p]["function"] for p in LOST if p != "tasks"}
    nodes = next(a for a in first if a["site"].endswith(f" {parts['nodes']['function']}"))
    assert nodes["note"].startswith(f"by its counters {parts['nodes']['count']:,} allocations ")
    (pages,) = (v for v in overview(NAME)["verdicts"] if v["where"] == "pages")
    assert pages["culprit"]["module"] == "leaklab"
    assert pages["culprit"]["caller"].endswith(" leaklab_leak_pages")


def test_one_page_and_one_area_have_theirs() -> None:
    parts = lab_dump(NAME).truth()["parts"]
    for part in ("pages3", "vmalloc"):
        one = int(addresses(NAME, part)[0])
        (subject,) = run("objsim", *on(NAME), f"{one:#x}", "--json").document["subjects"]
        allocator = subject["beyond"]["allocators"][0]
        assert (allocator["rung"], allocator["module"]) == ("alloc-tag", "leaklab")
        assert allocator["site"].endswith(f" {parts[part]['function']}")
