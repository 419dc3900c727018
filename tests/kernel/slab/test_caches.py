"""slab_caches: sound, broken off, circular; each generation's flags, nodes and names."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from crashext.hosts.base import Addresses, Bytes, Mask
from crashext.kernel.access import UnknownLayout
from crashext.kernel.slab.caches import Caches, read_caches
from crashext.kernel.slab.geometry import NodeCounters
from crashext.wording import plural
from tests.fake import FakeHost, layout, slab_cache, word

HEAD = 0xFFFFFFFF82000000
FIRST, STRIDE = 0xFFFF888000100000, 0x400
NAMES, NODES = 0xFFFF888000200000, 0xFFFF888000300000
SIZE, LINK, KOBJ = 256, 104, 120

FIELDS = {
    "flags": (8, 4),
    "size": (24, 4),
    "object_size": (28, 4),
    "offset": (40, 4),
    "oo": (44, 4),
    "refcount": (64, 4),
    "ctor": (72, 8),
    "red_left_pad": (84, 4),
    "name": (96, 8),
    "list": (LINK, 16),
    "kobj": (KOBJ, 64),
    "random": (184, 8),
}
SOUND = {
    "flags": 0,
    "size": 64,
    "object_size": 60,
    "offset": 32,
    "oo": 1 << 16 | 128,
    "refcount": 1,
}
Cache = dict[str, Any]


def kernel(*caches: Cache, per_node: bool = False, nodes: int = 1) -> FakeHost:
    """A kernel whose slab_caches lists these caches, `nodes` NUMA nodes each."""
    where = {"per_node": (200, 16 * 4)} if per_node else {"node": (200, 8)}
    host = FakeHost(
        layout("struct kmem_cache", SIZE, **FIELDS, **where),
        layout("struct kmem_cache_node", 64, nr_slabs=(32, 8), total_objects=(40, 8)),
        symbols={"slab_caches": HEAD, "nr_node_ids": HEAD + 0x100},
    )
    if per_node:
        host.layouts["struct kmem_cache_per_node_ptrs"] = layout(
            "struct kmem_cache_per_node_ptrs", 16, node=(0, 8), barn=(8, 8)
        )
    host.put(HEAD + 0x100, word(nodes))
    host.put(NAMES, bytes(max(0x2000, 0x100 * len(caches))))
    addresses = [FIRST + STRIDE * i for i in range(len(caches))]
    links = [HEAD, *(a + LINK for a in addresses)]
    host.put(HEAD, word(0, 0))
    for i, (address, cache) in enumerate(zip(addresses, caches, strict=True)):
        host.put(address, bytes(0x300))
        host.put(NAMES + 0x100 * i, str(cache.get("name", f"cache{i}")).encode())
        values = {**SOUND, **cache, "name": NAMES + 0x100 * i}
        for field, value in values.items():
            offset, size = FIELDS[field]
            host.put(address + offset, value.to_bytes(size, "little"))
        for node in range(nodes):
            at = NODES + 0x1000 * i + 0x80 * node
            host.put(at, bytes(32) + word(10 + node, 1000 + node) + bytes(16))
            host.put(address + 200 + (16 if per_node else 8) * node, word(at))
    for at, following in zip(links, [*links[1:], HEAD], strict=True):
        host.put(at, word(following))
    return host


def test_a_cache_is_what_its_structure_says() -> None:
    host = kernel(
        {
            "name": "dentry",
            "size": 256,
            "object_size": 192,
            "offset": 208,
            "red_left_pad": 8,
            "flags": 0x400,
            "oo": 1 << 16 | 32,
            "ctor": 0xFFFFFFFF81234560,
            "refcount": 3,
            "random": 0xFEEDFACE12345678,
        }
    )
    (cache,) = read_caches(host).all
    assert (cache.name, cache.address) == ("dentry", FIRST)
    assert (cache.object_size, cache.slot_size, cache.objects_per_slab) == (192, 256, 32)
    assert (cache.freelist_offset, cache.freelist_random) == (208, 0xFEEDFACE12345678)
    assert (cache.red_left_pad, cache.has_constructor, cache.refcount) == (8, True, 3)


def test_a_pad_without_red_zones_is_not_used() -> None:
    """calculate_sizes() sets red_left_pad only together with SLAB_RED_ZONE; the flag decides."""
    (cache,) = read_caches(kernel({"red_left_pad": 8})).all
    assert cache.red_left_pad == 0


def test_a_kernel_without_hardening_has_no_random() -> None:
    host = kernel({})
    without = {k: v for k, v in FIELDS.items() if k != "random"}
    host.layouts["struct kmem_cache"] = layout("struct kmem_cache", SIZE, **without, node=(200, 8))
    assert read_caches(host).all[0].freelist_random is None


@pytest.mark.parametrize("per_node", [False, True], ids=["node[]", "per_node[] (7.1)"])
def test_counters_are_summed_over_nodes(per_node: bool) -> None:
    host = kernel({}, {}, per_node=per_node, nodes=3)
    for i, cache in enumerate(read_caches(host).all):
        assert cache.nodes == tuple(NODES + 0x1000 * i + 0x80 * n for n in range(3))
        assert cache.counters == NodeCounters(slabs=33, objects=3003)


def test_a_node_that_is_not_in_the_dump_leaves_no_counters() -> None:
    host = kernel({}, nodes=2)
    del host.extents[NODES + 0x80]
    assert read_caches(host).all[0].counters is None


def test_without_slub_debug_there_are_no_counters() -> None:
    host = kernel({})
    host.layouts["struct kmem_cache_node"] = layout("struct kmem_cache_node", 32, nr_partial=(8, 8))
    assert read_caches(host).all[0].counters is None


LEGACY = {"flags": 0x400 | 0x800 | 0x10000 | 0x80000 | 0x4000000}


def test_flag_bits_before_the_enum_are_the_old_constants() -> None:
    (cache,) = read_caches(kernel(LEGACY)).all
    assert cache.flags == {"RED_ZONE", "POISON", "STORE_USER", "TYPESAFE_BY_RCU", "ACCOUNT"}


def test_flag_bits_since_the_enum_are_its_own() -> None:
    """Since 6.9: the numbers are the compiler's, and a flag compiled out has none."""
    host = kernel({"flags": 1 << 1 | 1 << 7})
    host.enumerators = {"_SLAB_RED_ZONE": 1, "_SLAB_POISON": 2, "_SLAB_RECLAIM_ACCOUNT": 7}
    assert read_caches(host).all[0].flags == {"RED_ZONE", "RECLAIM_ACCOUNT"}
    # ACCOUNT has no enumerator here: its old constant's bit belongs to some other flag.
    host.put(FIRST + 8, struct.pack("<I", 0x4000000))
    assert read_caches(host).all[0].flags == frozenset()


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"object_size": 0},
        {"object_size": 65},
        {"size": 1 << 26, "object_size": 64},
        {"offset": 57},
        {"offset": 0xFFFFFFFF},
        {"oo": 1 << 16},
        {"size": 64, "red_left_pad": 64, "flags": 0x400},
    ],
    ids=str,
)
def test_a_cache_of_impossible_sizes_is_damage_and_costs_no_other(wrong: Cache) -> None:
    found = read_caches(kernel({"name": "good"}, wrong, {"name": "also-good"}))
    assert [c.name for c in found.all] == ["good", "also-good"]
    assert found.damage is not None
    assert f"{FIRST + STRIDE:#x}" in found.damage


@pytest.mark.parametrize(
    "wrong",
    [
        {"flags": 0x400, "red_left_pad": 32, "object_size": 32, "offset": 32 - 7},
        {"flags": 0x400, "red_left_pad": 8, "object_size": 60},
    ],
    ids=["freelist pointer past the slot", "object past the slot"],
)
def test_what_a_slot_holds_must_fit_into_it_behind_its_pad(wrong: Cache) -> None:
    found = read_caches(kernel({"name": "good"}, {**wrong, "size": 64}))
    assert [c.name for c in found.all] == ["good"]


def test_a_name_that_is_not_in_the_dump_is_said_so() -> None:
    host = kernel({}, {"name": "good"})
    host.put(FIRST + 96, word(0xFFFF88807FFF0000))
    found = read_caches(host)
    assert [c.name for c in found.all] == [f"<unreadable name at {FIRST:#x}>", "good"]


def test_a_list_that_leads_into_missing_memory_breaks_off() -> None:
    host = kernel({"name": "a"}, {"name": "b"}, {"name": "c"})
    host.put(FIRST + STRIDE + LINK, word(0xFFFF88807FFF0000))
    found = read_caches(host)
    assert [c.name for c in found.all] == ["a", "b"]
    assert found.damage is not None


def test_a_list_that_leads_to_null_breaks_off() -> None:
    host = kernel({"name": "a"}, {"name": "b"}, {"name": "c"})
    host.put(FIRST + STRIDE + LINK, word(0))
    found = read_caches(host)
    assert [c.name for c in found.all] == ["a", "b"]
    assert found.damage is not None


@pytest.mark.parametrize("lost", range(5))
def test_beyond_a_lost_descriptor_caches_are_found_from_the_other_end(lost: int) -> None:
    names = ["a", "b", "c", "d", "e"]
    host = kernel(*({"name": name} for name in names))
    links = [HEAD, *(FIRST + STRIDE * i + LINK for i in range(5))]
    for at, before in zip([*links[1:], HEAD], links, strict=True):
        host.put(at + 8, word(before))
    del host.extents[FIRST + STRIDE * lost]
    found = read_caches(host)
    assert [c.name for c in found.all] == names[:lost] + names[lost + 1 :]
    assert found.damage is not None
    assert (
        f"after {plural(lost, 'cache')}, and {4 - lost} were found from its other end"
        in found.damage
    )


@pytest.mark.parametrize("back_to", [0, 1, 2])
def test_a_list_that_runs_in_a_circle_ends(back_to: int) -> None:
    host = kernel({"name": "a"}, {"name": "b"}, {"name": "c"})
    host.put(FIRST + 2 * STRIDE + LINK, word(FIRST + back_to * STRIDE + LINK))
    found = read_caches(host)
    assert [c.name for c in found.all] == ["a", "b", "c"]
    assert found.damage is not None
    assert "does not end where it began" in found.damage


def test_a_sound_list_has_no_damage() -> None:
    assert read_caches(kernel({}, {}, {})).damage is None


def test_an_allocator_that_is_not_slub_is_said_so() -> None:
    host = kernel({})
    slab = {k: v for k, v in FIELDS.items() if k != "offset"}
    host.layouts["struct kmem_cache"] = layout("struct kmem_cache", SIZE, **slab)
    with pytest.raises(UnknownLayout, match="is SLOB"):
        read_caches(host)
    del host.layouts["struct kmem_cache"]
    with pytest.raises(UnknownLayout, match="no struct kmem_cache"):
        read_caches(host)


def test_no_cache_at_all_is_said_so() -> None:
    with pytest.raises(UnknownLayout, match="no cache"):
        read_caches(kernel())
    host = kernel({})
    del host.symbols["slab_caches"]
    with pytest.raises(UnknownLayout, match="slab_caches"):
        read_caches(host)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kmalloc-1k", "kmalloc-1024"),
        ("size-512", "kmalloc-512"),
        ("size-1024", "kmalloc-1k"),
        ("size-1024", "kmalloc-1024"),
        ("kmalloc-512", "size-512"),
        ("kmalloc-1k", "size-1024"),
        ("kmalloc-1024", "size-1024"),
        ("kmalloc-1024", "kmalloc-1k"),
        ("kmalloc-8k", "kmalloc-8192"),
        ("kmalloc-2M", "kmalloc-2097152"),
        ("dma-kmalloc-2k", "dma-kmalloc-2048"),
        ("kmalloc-cg-4k", "kmalloc-cg-4096"),
        ("kmalloc-rnd-07-1k", "kmalloc-rnd-07-1024"),
    ],
)
def test_both_spellings_of_a_kmalloc_size_find_the_cache(name: str, said: str) -> None:
    """4.20 renamed kmalloc-1024 to kmalloc-1k; people and notes use both."""
    caches = Caches([slab_cache("kmalloc-64"), slab_cache(name, address=2)], None)
    for spelling in (name, said):
        found = caches.find(spelling)
        assert found is not None
        assert found.name == name


@pytest.mark.parametrize(
    "name", ["kmalloc-63", "kmalloc-1025", "kmalloc-", "kmalloc", "kmalloc-k", "", "-", "ext4-1k"]
)
def test_a_name_that_no_cache_has_finds_none(name: str) -> None:
    caches = Caches([slab_cache("kmalloc-1k"), slab_cache("ext4-1024", address=2)], None)
    assert caches.find(name) is None


@pytest.mark.parametrize("name", ["kmalloc-²", "kmalloc-²k", "kmalloc-" + "9" * 5000])
def test_a_name_with_strange_digits_finds_none(name: str) -> None:
    assert Caches([slab_cache("kmalloc-1k")], None).find(name) is None


# The directory /sys/kernel/slab in kernfs: an rb-tree of nodes, symbolic links among them.
SYSFS, NODE_SIZE = 0xFFFF888000500000, 128
KERNFS_DIR, KERNFS_FILE, KERNFS_LINK = 1, 2, 4


def with_sysfs(
    host: FakeHost, tree: list[tuple[str, int, int | None, int | None, int | None]]
) -> None:
    """Add /sys/kernel/slab: (name, flags, cache it links to, left child, right child) each."""
    for known in (
        layout(
            "struct kernfs_node",
            NODE_SIZE,
            name=(16, 8),
            rb=(24, 24),
            flags=(48, 2),
            dir=(56, 24),
            symlink=(56, 8),
            priv=(80, 8),
        ),
        layout("struct kset", 96, kobj=(24, 64)),
        layout("struct kobject", 64, sd=(48, 8)),
        layout("struct kernfs_elem_dir", 24, subdirs=(0, 8), children=(8, 8)),
        layout("struct rb_node", 24, rb_left=(16, 8), rb_right=(8, 8)),
    ):
        host.layouts[known.name] = known
    host.enumerators["KERNFS_LINK"] = KERNFS_LINK
    host.symbols["slab_kset"] = HEAD + 0x200
    kset, directory = SYSFS + 0x10000, SYSFS + 0x11000

    def at(number: int | None) -> int:
        """An odd place, as kernfs nodes have: nothing about it is round."""
        return 0 if number is None else SYSFS + 0x208 * number

    host.put(HEAD + 0x200, word(kset))
    host.put(SYSFS + 0x20000, bytes(0x2000))
    host.put(kset, bytes(24 + 48) + word(directory, 0, 0))
    host.put(directory, bytes(56 + 8) + word(at(0) + 24 if tree else 0) + bytes(56))
    for i, (name, flags, target, left, right) in enumerate(tree):
        text = SYSFS + 0x20000 + 0x40 * i
        host.put(text, name.encode())
        directory_of = SYSFS + 0x30000 + 0x88 * i  # the kernfs_node that the link names
        host.put(directory_of, bytes(80) + word(target + KOBJ if target else 0) + bytes(40))
        children = [at(c) + 24 if c is not None else 0 for c in (right, left)]
        node = bytes(16) + word(text, 0, *children) + word(flags, directory_of, 0, 0, 0, 0)
        host.put(at(i), node.ljust(NODE_SIZE, b"\0"))


def test_the_names_merged_into_a_cache_are_its_links_in_sysfs() -> None:
    host = kernel({"name": ":0000064"}, {"name": "dentry"})
    with_sysfs(host, [("pid_1", KERNFS_LINK, FIRST, None, None)])
    found = read_caches(host)
    assert [c.aliases for c in found.all] == [("pid_1",), ()]
    assert found.find("pid_1") is found.all[0]


def test_the_whole_tree_of_links_is_walked() -> None:
    host = kernel({"name": "kmalloc-64"}, {"name": "dentry"})
    with_sysfs(
        host,
        [
            ("m", KERNFS_LINK, FIRST, 1, 2),
            ("kmalloc-64", KERNFS_DIR, FIRST, None, 3),
            ("t", KERNFS_LINK, FIRST + STRIDE, 4, None),
            ("k", KERNFS_LINK, FIRST, None, None),
            ("p", KERNFS_LINK, FIRST, None, None),
        ],
    )
    found = read_caches(host)
    assert [c.aliases for c in found.all] == [("k", "m", "p"), ("t",)]
    assert found.names() == ["dentry", "k", "kmalloc-64", "m", "p", "t"]


def test_a_cache_s_own_name_beats_an_alias() -> None:
    host = kernel({"name": "a"}, {"name": "b"})
    with_sysfs(host, [("b", KERNFS_LINK, FIRST, None, None)])
    found = read_caches(host)
    assert found.find("b") is found.all[1]


def test_a_tree_that_runs_in_a_circle_ends() -> None:
    host = kernel({"name": "a"})
    with_sysfs(host, [("x", KERNFS_LINK, FIRST, 0, 0)])
    assert read_caches(host).all[0].aliases == ("x",)


def test_a_tree_whose_branches_meet_again_is_no_more_work_than_its_nodes() -> None:
    host = kernel({"name": "a"})
    with_sysfs(host, [(f"x{i}", KERNFS_LINK, FIRST, i + 1, i + 1) for i in range(9)])
    asked = []
    plain = host.read_many

    def counting(addresses: Addresses, size: int) -> tuple[Bytes, Mask]:
        asked.append(len(addresses))
        return plain(addresses, size)

    host.read_many = counting  # type: ignore[method-assign]
    assert read_caches(host).all[0].aliases == tuple(f"x{i}" for i in range(9))
    assert max(asked) < 100


def test_a_directory_that_is_not_in_the_dump_gives_no_aliases() -> None:
    host = kernel({"name": "a"})
    with_sysfs(host, [("x", KERNFS_LINK, FIRST, None, None)])
    del host.extents[SYSFS + 0x11000]
    assert read_caches(host).all[0].aliases == ()
