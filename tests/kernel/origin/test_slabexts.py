"""Allocation tags and memory cgroups of objects, in the forms of kernels that the lab lacks."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from crashext.hosts.base import Layout, Module
from crashext.kernel.origin.allocprofile import Tag, object_tags, profiled, read_tags
from crashext.kernel.origin.memcg import accounted, cgroup_paths, object_cgroups, payer_of
from crashext.kernel.slab.slabs import find_slabs
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from tests.fake import FakeHost, layout, slab_cache, word
from tests.kernel.machine import PAGE, Machine

VECTOR, TEXTS = 0xFFFF888000900000, 0xFFFFFFFF82000000
CACHE = slab_cache(red_left_pad=0)
SLAB = {"slab_cache": (24, 8), "freelist": (32, 8), "inuse": (40, 4, 0, 16)}
OBJECTS = {"objects": (42, 4, 0, 15)}
CODETAG = layout(
    "struct codetag",
    40,
    flags=(0, 4),
    lineno=(4, 4),
    modname=(8, 8),
    function=(16, 8),
    filename=(24, 8),
)
OBJCG = layout("struct obj_cgroup", 48, memcg=(16, 8))
MEMCG = (
    OBJCG,
    layout("struct mem_cgroup", 512, css=(0, 200)),
    layout("struct cgroup_subsys_state", 200, cgroup=(0, 8)),
    layout("struct cgroup", 256, kn=(64, 8)),
)


class Slab:
    """One slab of eight 64-byte objects whose page points to a vector, in one kernel's form."""

    def __init__(self, form: str, *known: Layout, stride: int = 0) -> None:
        self.machine = Machine(64, CACHE)
        self.host = self.machine.host
        if form == "5.10":
            self.host.layouts["struct page"] = layout(
                "struct page", 64, **{**_tuples(PAGE), "obj_cgroups": (56, 8)}
            )
        else:
            member = "memcg_data" if form == "6.1" else "obj_exts"
            extra = {"stride": (44, 4)} if stride else {}
            self.host.layouts["struct slab"] = layout(
                "struct slab", 64, **SLAB, **OBJECTS, **extra, **{member: (56, 8)}
            )
        if form == "6.10":
            fields = {"objcg": (0, 8), "ref": (8, 8)}
            self.host.layouts["struct slabobj_ext"] = layout("struct slabobj_ext", 16, **fields)
        for one in known:
            self.host.layouts[one.name] = one
        self.base = self.machine.slab(5, CACHE, 8, 8)
        self.machine.put(5, 56, VECTOR | (1 if form != "6.10" else 3))
        if stride:
            self.machine.put(5, 40, stride << 32 | 8 << 16 | 8)
        self.host.put(VECTOR, bytes(0x6000))
        self.host.put(TEXTS, bytes(0x1000))

    @property
    def view(self) -> KernelView:
        host, memory, caches = self.host, self.machine.memory, self.machine.caches
        index = find_slabs(host, memory, caches, {}, 0, silent, 1 << 30)
        joined = SimpleNamespace(
            host=host, memory=memory, caches=caches, index=index, space=self.machine.space
        )
        return cast(KernelView, joined)

    @property
    def objects(self) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        return np.uint64(self.base) + np.arange(8, dtype=np.uint64) * np.uint64(64)


def _tuples(known: Layout) -> dict[str, tuple[int, ...]]:
    members = known.members.items()
    return {k: (m.offset, m.size, m.bit_offset, m.bit_size) for k, m in members}


def put_tag(slab: Slab, at: int, line: int, module: str) -> None:
    texts = {"modname": module, "function": "ext4_alloc_inode", "filename": "fs/ext4/super.c"}
    addresses = []
    for i, text in enumerate(texts.values()):
        addresses.append(at + 0x100 + 0x40 * i)
        slab.host.put(addresses[-1], text.encode() + b"\0")
    slab.host.put(at, word(line << 32, *addresses, 0))


@pytest.mark.parametrize("stride", [0, 32], ids=["6.12", "with slab.stride"])
def test_each_object_has_its_tag(stride: int) -> None:
    slab = Slab("6.10", CODETAG, stride=stride)
    put_tag(slab, TEXTS, 1394, "ext4")
    step = stride or 16
    for i, tag in ((0, TEXTS), (3, TEXTS), (4, 1), (7, TEXTS + 0x10000)):
        slab.host.put(VECTOR + step * i + 8, word(tag))
    assert profiled(slab.host)
    found = object_tags(slab.view, CACHE, slab.objects)
    # 1 is CODETAG_EMPTY.
    assert found.tolist() == [TEXTS, 0, 0, TEXTS, 0, 0, 0, TEXTS + 0x10000]
    built_in = {TEXTS: Tag("fs/ext4/super.c", 1394, "ext4_alloc_inode", "")}
    assert read_tags(slab.host, found) == built_in


def test_a_tags_module_is_one_that_is_loaded() -> None:
    slab = Slab("6.10", CODETAG)
    slab.host._modules = (Module("ext4", ((0xFFFFFFFFC0000000, 0xFFFFFFFFC0100000),)),)
    put_tag(slab, TEXTS, 7, "ext4")
    assert read_tags(slab.host, np.array([TEXTS], np.uint64))[TEXTS].module == "ext4"


def test_objects_outside_every_slab_and_slabs_without_vector_have_no_tag() -> None:
    slab = Slab("6.10", CODETAG)
    assert object_tags(slab.view, CACHE, slab.objects + np.uint64(1 << 16)).tolist() == [0] * 8
    slab.machine.put(5, 56, 4)  # OBJEXTS_ALLOC_FAIL
    assert object_tags(slab.view, CACHE, slab.objects).tolist() == [0] * 8


def test_a_kernel_without_profiling_is_known() -> None:
    assert not profiled(Slab("6.1", *MEMCG).host)


@pytest.mark.parametrize(("form", "entry"), [("5.10", 8), ("6.1", 8), ("6.10", 16)])
@pytest.mark.parametrize("up", ["parent", "__parent"])
def test_each_object_has_its_memory_cgroup(form: str, entry: int, up: str) -> None:
    node = layout("struct kernfs_node", 128, name=(16, 8), **{up: (8, 8)})
    slab = Slab(form, *MEMCG, node)
    objcg, memcg, cgroup = (VECTOR + 0x1000 * i for i in (1, 2, 3))
    nodes = [VECTOR + 0x4000 + 0x100 * i for i in range(3)]
    slab.host.put(objcg, word(0, 0, memcg, 0, 0, 0))
    slab.host.put(memcg, word(cgroup))
    slab.host.put(cgroup, bytes(64) + word(nodes[0]))
    for i, name in enumerate(("tenant", "lab", "")):
        text = VECTOR + 0x5000 + 0x40 * i
        slab.host.put(text, name.encode() + b"\0")
        parent = nodes[i + 1] if i < 2 else 0
        slab.host.put(nodes[i], word(0, parent, text) + bytes(104))
    for i in (1, 6):
        slab.host.put(VECTOR + entry * i, word(objcg))
    slab.host.put(VECTOR + entry * 7, word(0xDEAD000000000000))
    assert accounted(slab.host)
    found = object_cgroups(slab.view, CACHE, slab.objects)
    assert found.tolist() == [0, memcg, 0, 0, 0, 0, memcg, 0]
    assert cgroup_paths(slab.host, found) == {memcg: "/lab/tenant"}
    # A tree that never ends has no path.
    slab.host.put(nodes[2] + 8, word(nodes[0]))
    assert cgroup_paths(slab.host, found) == {}


@pytest.mark.parametrize("form", ["3.10", "3.16", "4.12"])
def test_a_cgroups_own_cache_says_who_pays(form: str) -> None:
    """Until 5.9. What it says of itself was behind a pointer before 4.0; cgroups had a tree of
    their own before 3.15."""
    host = FakeHost(
        layout("struct mem_cgroup", 512, css=(8, 200)),
        layout("struct cgroup_subsys_state", 200, cgroup=(16, 8)),
        layout("struct memcg_cache_params", 48, memcg=(24, 8)),
        layout("struct kmem_cache", 256, memcg_params=(128, 48 if form == "4.12" else 8)),
    )
    cache = slab_cache(name="kmalloc-64(8:tenant)", address=VECTOR)
    at = VECTOR + (128 if form == "4.12" else 0x200)
    params, memcg, cgroup = at, VECTOR + 0x400, [VECTOR + 0x1000 + 0x100 * i for i in range(3)]
    host.put(VECTOR, bytes(0x4000))
    if form != "4.12":
        host.put(VECTOR + 128, word(params))
    host.put(params + 24, word(memcg))
    host.put(memcg + 8 + 16, word(cgroup[0]))
    behind = 16 if form == "3.10" else 0  # struct cgroup_name begins with an rcu_head
    if form == "3.10":
        host.layouts["struct cgroup"] = layout("struct cgroup", 256, parent=(8, 8), name=(16, 8))
        host.layouts["struct cgroup_name"] = layout("struct cgroup_name", 16, name=(16, 0))
    else:
        host.layouts["struct cgroup"] = layout("struct cgroup", 256, kn=(64, 8))
        node = layout("struct kernfs_node", 128, parent=(8, 8), name=(16, 8))
        host.layouts["struct kernfs_node"] = node
        host.put(cgroup[0] + 64, word(VECTOR + 0x2000))
        cgroup = [VECTOR + 0x2000 + 0x100 * i for i in range(3)]
    for i, name in enumerate(("tenant", "lab", "/" if form == "3.10" else "")):
        text = VECTOR + 0x3000 + 0x40 * i
        host.put(text + behind, name.encode() + b"\0")
        host.put(cgroup[i] + 8, word(cgroup[i + 1] if i < 2 else 0, text))
    assert payer_of(host, cache) == "/lab/tenant"
    assert payer_of(host, replace(cache, name="kmalloc-64")) is None
    # What is not in the dump leaves the name.
    host.put(memcg + 8 + 16, word(0xDEAD000000000000))
    assert payer_of(host, cache) == "tenant"
    del host.layouts["struct memcg_cache_params"]
    assert payer_of(host, cache) == "tenant"
