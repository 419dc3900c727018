"""The slab walker sees what is there: against drgn's helpers, the kernel's counters, the truth."""

from __future__ import annotations

import numpy as np
import pytest
from drgn.helpers.linux.slab import (
    for_each_slab_cache,
    get_slab_cache_aliases,
    slab_cache_usage,
)

from crashext.kernel.slab.usage import usage
from crashext.kernel.slab.view import KernelView
from tests.conftest import lab_dump, lab_view
from tests.kernel.oracle import allocated_by_drgn, drgn_program
from tests.kernel.walked import allocated_addresses
from tests.lab import read_addresses

DUMPS = ["default", "twin", "innocent", "nodes-debug"]


@pytest.mark.parametrize("name", DUMPS)
def test_allocated_objects_are_drgns_in_every_cache(name: str) -> None:
    program, view = drgn_program(name), lab_view(name)
    checked = 0
    for theirs, expected in allocated_by_drgn(program):
        cache = next(c for c in view.caches.all if c.address == theirs.value_())
        assert cache.name == theirs.name.string_().decode()
        assert allocated_addresses(view, cache) == expected, cache.name
        checked += len(expected)
    assert len(view.caches.all) == len(list(for_each_slab_cache(program)))
    assert checked > 50_000


@pytest.mark.parametrize("name", DUMPS)
def test_counts_are_the_kernels(name: str) -> None:
    """Slabs and slots equal the node counters; allocated equals the walk, with few slabs read."""
    view = lab_view(name)
    program = drgn_program(name)
    theirs = {c.value_(): slab_cache_usage(c) for c in for_each_slab_cache(program)}
    for cache in view.caches.all:
        used = usage(view, cache, view.index)
        assert (used.slabs, used.slots) == (
            theirs[cache.address].num_slabs,
            theirs[cache.address].num_objs,
        ), cache.name
        assert cache.counters is not None
        assert (used.slabs, used.slots) == (cache.counters.slabs, cache.counters.objects)
        assert used.allocated == len(allocated_addresses(view, cache)), cache.name


@pytest.mark.parametrize("name", DUMPS)
def test_every_object_of_the_truth_is_allocated(name: str) -> None:
    dump, view = lab_dump(name), lab_view(name)
    by_cache: dict[str, set[int]] = {}
    for part, facts in dump.truth()["parts"].items():
        if not facts["caches"] or part == "freed":
            continue
        missing = set(read_addresses(dump.addresses(part)))
        for cache_name in facts["caches"]:
            cache = view.caches.find(cache_name)
            assert cache is not None
            if cache_name not in by_cache:
                by_cache[cache_name] = set(allocated_addresses(view, cache))
            missing -= by_cache[cache_name]
        assert not missing, part


def test_freed_objects_are_free() -> None:
    dump, view = lab_dump("innocent"), lab_view("innocent")
    cache = view.caches.find("leaklab_freed")
    assert cache is not None
    freed = set(read_addresses(dump.addresses("freed")))
    kept = set(read_addresses(dump.addresses("freed_kept")))
    allocated = set(allocated_addresses(view, cache))
    assert not allocated & freed
    assert kept <= allocated


def test_red_zones_and_left_pads_move_objects() -> None:
    """slub_debug=Z puts a pad before each object: the walker must hand out user addresses."""
    view = lab_view("nodes-debug")
    cache = view.caches.find("kmalloc-32")
    assert cache is not None
    assert {"RED_ZONE", "POISON", "STORE_USER"} <= cache.flags
    assert cache.red_left_pad > 0
    assert cache.slot_size > cache.object_size + cache.red_left_pad


def test_aliases_are_drgns() -> None:
    view = lab_view("default")
    ours = {alias: c.name for c in view.caches.all for alias in c.aliases}
    theirs = get_slab_cache_aliases(drgn_program("default"))
    assert ours == theirs
    assert ours  # Debian merges caches


@pytest.mark.parametrize("form", ["vmcore.kdump", "vmcore.d31"])
def test_other_formats_show_the_same_objects(form: str) -> None:
    """Compressed and filtered dumps; -d 31 may lose slab pages, and then they are missed openly."""
    from crashext.hosts.drgn import open_core

    dump = lab_dump("default")
    view = KernelView(open_core(dump.folder / form, [dump.vmlinux]))
    view.scan({}, seed=0)
    cache = view.caches.find("kmalloc-32")
    assert cache is not None
    whole = lab_view("default").caches.find("kmalloc-32")
    assert whole is not None
    assert allocated_addresses(view, cache) == allocated_addresses(lab_view("default"), whole)


def test_a_sampled_pass_estimates_the_truth() -> None:
    """With room for a quarter of the memory map: the totals' intervals hold the true count."""
    view = KernelView(lab_view("default").host)
    cache = view.caches.find("kmalloc-32")
    assert cache is not None
    truth = len(allocated_addresses(lab_view("default"), cache))
    from crashext.analysis.likeness.survey import allocated

    held = 0
    for seed in range(20):
        index = view.scan({view.caches.index(cache): 50}, seed, budget=1 << 20)
        assert not index.complete
        assert 0 < index.scanned < 1
        estimate = allocated(usage(view, cache, index))
        held += estimate.low <= truth <= estimate.high
        assert not estimate.exact
    assert held >= 18


def test_pointers_resolve_alike_with_and_without_the_whole_index() -> None:
    whole = lab_view("default")
    view = KernelView(whole.host)
    view.scan({}, seed=1, budget=1 << 20)
    cache = whole.caches.find("task_struct")
    assert cache is not None
    inside = np.array(
        [a + d for a in allocated_addresses(whole, cache)[:50] for d in (0, 8, 4100, 6000)],
        np.uint64,
    )
    outside = np.array([whole.space.text.start, 0, whole.space.direct.start, 1 << 63], np.uint64)
    values = np.concatenate([inside, outside])
    expected, got = whole.pointers.resolve(values), view.pointers.resolve(values)
    assert (expected.cache == got.cache).all()
    known = expected.known
    assert known[: len(inside)].all()
    assert not known[len(inside) :].any()
    assert (expected.base[known] == got.base[known]).all()
    assert (expected.offset[known] == got.offset[known]).all()
