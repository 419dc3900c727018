"""Kernels built with allocation profiling: the line of source of each object and each page.

One notes the lines of pages beside struct page, the other as numbers in its flags. Each is compiled
by `make test-kernels`, as the one with SLAB is. The truth is the lab's, and the kernel's own
/proc/allocinfo, read just before the dump.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest

from crashext.kernel.access import Words
from crashext.kernel.origin.allocprofile import (
    object_tags,
    outstanding,
    page_tags,
    profiled,
    read_tags,
)
from crashext.kernel.origin.tagnumbers import numbered_tags
from crashext.procfs.alloctraces import AllocTag, parse_allocinfo
from tests.conftest import lab_dump, lab_view, on, run
from tests.end_to_end.guests import LOST, addresses, census, overview
from tests.kernel.walked import allocated_addresses

NUMBERED = "default@profiling-flags"
each = pytest.mark.parametrize("name", ["default@profiling", NUMBERED])
KEPT = ("living",)
"""Allocated by the module, and in use."""


@cache
def allocinfo(name: str) -> dict[tuple[str, int, str], AllocTag]:
    """What the kernel said, by file, line and module."""
    with (lab_dump(name).proc / "allocinfo").open() as lines:
        info = parse_allocinfo(lines)
    assert info.damaged == 0
    return {(t.file, t.line, t.module): t for t in info.tags}


@cache
def tagged(name: str) -> Counter[int]:
    """How many allocated objects of all caches have each tag."""
    view = lab_view(name)
    counts: Counter[int] = Counter()
    for one in view.caches.all:
        objects = np.array(sorted(allocated_addresses(view, one)), np.uint64)
        counts += _counted(object_tags(view, one, objects))
    return counts


@cache
def pages_tagged(name: str) -> Counter[int]:
    """How many allocations of pages have each tag."""
    view = lab_view(name)
    last = view.space.pfn(view.space.direct.end)
    return _counted(page_tags(view.memory, np.arange(last, dtype=np.uint64)))


def _counted(tags: Words) -> Counter[int]:
    found, counts = np.unique(tags[tags != 0], return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))


@each
def test_each_lost_object_has_the_line_that_allocated_it(name: str) -> None:
    view, parts = lab_view(name), lab_dump(name).truth()["parts"]
    assert profiled(view.host)
    for part in (*(p for p in LOST if p != "tasks"), *KEPT):
        (cache_of_it,) = (c for c in view.caches.all if c.name == parts[part]["cache"])
        at = object_tags(view, cache_of_it, addresses(name, part))
        (tag,) = read_tags(view.host, at).values()
        assert (at != 0).all(), part
        assert (tag.function, tag.module) == (parts[part]["function"], "leaklab"), part


def test_only_one_of_the_two_numbers_its_tags() -> None:
    for name in ("default@profiling", NUMBERED):
        numbers = numbered_tags(lab_view(name).memory, np.zeros(1, np.uint64))
        assert (numbers is not None) == (name == NUMBERED)


@each
def test_each_lost_block_of_pages_has_it_too(name: str) -> None:
    view = lab_view(name)
    for order in range(4):
        where = addresses(name, f"pages{order}") - np.uint64(view.space.direct.start)
        at = page_tags(view.memory, view.space.frames(where))
        (tag,) = read_tags(view.host, at).values()
        assert (at != 0).all()
        assert (tag.function, tag.module) == ("leaklab_leak_pages", "leaklab")


@each
def test_counters_are_those_of_allocinfo(name: str) -> None:
    """Of the lines that allocated objects. A few may have gone on until the dump."""
    view = lab_view(name)
    at = np.array(sorted(tagged(name)), np.uint64)
    tags, counted = read_tags(view.host, at), outstanding(view.host, view.space, at)
    assert len(tags) > 200
    same = 0
    for address, tag in tags.items():
        said = allocinfo(name).get((tag.file, tag.line, tag.module))
        here = counted[address]
        equal = (here.bytes, here.calls) == ((said.bytes, said.calls) if said else (0, 0))
        assert equal or tag.module != "leaklab", tag
        same += equal
    assert same >= 0.9 * len(tags)


@each
def test_objects_and_pages_of_each_line_are_as_many_as_its_counter_says(name: str) -> None:
    """They and the counters are two records of one thing, in different memory. A few lines may have
    gone on until the dump, or allocate what is per CPU, which is neither."""
    view = lab_view(name)
    both = tagged(name) + pages_tagged(name)
    at = np.array(sorted(both), np.uint64)
    counted = outstanding(view.host, view.space, at)
    wrong = {t: (n, counted[t].calls) for t, n in both.items() if n > counted[t].calls}
    assert wrong == {}
    exact = [t for t, n in both.items() if n == counted[t].calls]
    assert len(exact) >= 0.9 * len(both)
    assert pages_tagged(name).keys() <= {*exact}


@each
def test_groups_and_verdicts_name_the_line(name: str) -> None:
    parts = lab_dump(name).truth()["parts"]
    for group in census(name)["orphans"]:
        if not group["explanation"] and group["objects"] >= 100:
            assert group["allocators"][0]["rung"] == "alloc-tag", group["cache"]
    first = [g["allocators"][0] for g in census(name)["orphans"] if g["allocators"]]
    named = {a["site"].split(" ")[-1] for a in first if a["module"] == "leaklab"}
    assert named >= {parts[p]["function"] for p in LOST if p != "tasks"}
    nodes = next(a for a in first if a["site"].endswith(f" {parts['nodes']['function']}"))
    assert nodes["note"].startswith(f"by its counters {parts['nodes']['count']:,} allocations ")
    (pages,) = (v for v in overview(name)["verdicts"] if v["where"] == "pages")
    assert pages["culprit"]["module"] == "leaklab"
    assert pages["culprit"]["caller"].endswith(" leaklab_leak_pages")


@each
def test_one_page_and_one_area_have_theirs(name: str) -> None:
    parts = lab_dump(name).truth()["parts"]
    for part in ("pages3", "vmalloc"):
        one = int(addresses(name, part)[0])
        (subject,) = run("objsim", *on(name), f"{one:#x}", "--json").document["subjects"]
        allocator = subject["beyond"]["allocators"][0]
        assert (allocator["rung"], allocator["module"]) == ("alloc-tag", "leaklab")
        assert allocator["site"].endswith(f" {parts[part]['function']}")
