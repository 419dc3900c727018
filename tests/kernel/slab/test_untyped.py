"""Slab caches where no type is known: what is said is what those who know the types say."""

from __future__ import annotations

import re
from pathlib import Path

import drgn
import numpy as np
import pytest

from crashext.hosts.bare import BareHost
from crashext.kernel.access import u64
from crashext.kernel.slab.untyped import untyped_caches
from tests.conftest import lab_dump, lab_host, lab_view

KERNELS = ("default", "default@bullseye", "default@sid", "default@arm64-16k")


def bare(core: Path, physical: int = 0, data: bytes = b"") -> BareHost:
    """A dump without types; with `data` at a physical address instead of what is there."""
    program = drgn.Program()
    program.set_core_dump(str(core))
    if data:
        program.add_memory_segment(
            physical,
            len(data),
            lambda address, count, offset, is_physical: data[address - physical :][:count],
            True,
        )
    return BareHost(program, core.name)


@pytest.mark.parametrize("name", KERNELS)
def test_sizes_and_slots_are_those_of_who_knows_the_types(name: str) -> None:
    caches, view = untyped_caches(bare(lab_dump(name).vmcore)), lab_view(name)
    truth = {cache.name: cache for cache in view.caches.all}
    assert {c.name: c.object_size for c in caches} == {
        name: cache.object_size for name, cache in truth.items()
    }
    for cache in caches:
        index = view.caches.all.index(truth[cache.name])
        slabs = np.flatnonzero(view.index.cache == index)
        if len(slabs):
            assert cache.slots == int(view.index.objects[slabs].sum()), cache


def test_of_slab_the_objects_in_use_are_counted_too() -> None:
    dump = lab_dump("default@slab")
    caches = {cache.name: cache for cache in untyped_caches(bare(dump.vmcore))}
    slabinfo = (dump.folder / "proc" / "slabinfo").read_text()
    told = {m[1]: int(m[2]) for m in re.finditer(r"^(\S+) +\d+ +(\d+)", slabinfo, re.M)}
    shared = [name for name in told if name in caches and told[name] > 100]
    near = [name for name in shared if abs((caches[name].slots or 0) - told[name]) < told[name] / 5]
    assert len(near) > 0.9 * len(shared) > 10
    leaked = caches["leaklab_obj"]
    assert leaked.used is not None
    assert leaked.used >= 4000


@pytest.mark.parametrize(
    ("what", "listed", "counted"),
    [
        ("a name", False, False),
        ("a link", False, False),
        ("a size", True, True),  # there are three, and two others prove it
        ("a counter", True, False),
    ],
)
def test_what_does_not_prove_itself_is_not_said(what: str, listed: bool, counted: bool) -> None:
    """One word of one cache is wrong."""
    host, core = lab_host("default"), lab_dump("default").vmcore
    layout, node = host.layout("struct kmem_cache"), host.layout("struct kmem_cache_node")
    cache = lab_view("default").caches.find("kmalloc-64")
    assert layout is not None
    assert node is not None
    assert cache is not None
    counters = u64(host, cache.address + layout["node"].offset)
    at, value, size = {
        "a name": (cache.address + layout["name"].offset, host.address_of("_stext"), 8),
        "a link": (cache.address + layout["list"].offset + 8, cache.address, 8),
        "a size": (cache.address + layout["object_size"].offset, 72, 4),
        "a counter": (counters + node["nr_partial"].offset, 77, 8),
    }[what]
    assert value is not None
    found = untyped_caches(bare(core, host._direct.physical(at), value.to_bytes(size, "little")))
    assert bool(found) == listed
    assert all((cache.slots is not None) == counted for cache in found)
    assert all(cache.object_size == 64 for cache in found if cache.name == "kmalloc-64")
