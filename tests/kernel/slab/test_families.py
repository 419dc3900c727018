"""Cache names of twenty years of kmalloc."""

from __future__ import annotations

import pytest

from crashext.kernel.slab.families import bucket_owners, cgroup_of, families, family
from crashext.procfs.slabinfo import SlabLine, parse_slabinfo
from tests.conftest import lab_dump


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kmalloc-64", ("kmalloc-64", "")),
        ("kmalloc-1k", ("kmalloc-1k", "")),
        ("kmalloc-1024", ("kmalloc-1k", "")),  # before 4.20
        ("kmalloc-8192", ("kmalloc-8k", "")),
        ("kmalloc-2M", ("kmalloc-2M", "")),
        ("size-512", ("kmalloc-512", "size")),
        ("size-512(DMA)", ("kmalloc-512", "size dma")),
        ("size-131072", ("kmalloc-128k", "size")),
        ("size-4194304", ("kmalloc-4M", "size")),
        ("dma-kmalloc-96", ("kmalloc-96", "dma")),
        ("dma-kmalloc-1024", ("kmalloc-1k", "dma")),
        ("kmalloc-cg-2k", ("kmalloc-2k", "cg")),
        ("kmalloc-rcl-96", ("kmalloc-96", "rcl")),
        ("kmalloc-rnd-14-192", ("kmalloc-192", "rnd-14")),
        ("kmalloc-part-03-64", ("kmalloc-64", "part-03")),
        ("kmalloc-no-objext-32", ("kmalloc-32", "no-objext")),
        ("memdup_user-64", ("kmalloc-64", "memdup_user")),
        ("msg_msg-4k", ("kmalloc-4k", "msg_msg")),
        ("kmalloc-64(123:system.slice)", ("kmalloc-64", "memcg")),
        ("kmalloc-rcl-64(9:a (b) c)", ("kmalloc-64", "rcl memcg")),
        ("dentry(123:session-2.scope)", ("dentry", "memcg")),
        ("kmalloc-64(77:x):deact", ("kmalloc-64", "memcg")),
        # What only looks like one of them.
        ("bio-128", ("bio-128", "")),
        ("biovec-64", ("biovec-64", "")),
        ("sgpool-8", ("sgpool-8", "")),
        ("kmalloc-", ("kmalloc-", "")),
        ("kmalloc-rnd-64", ("kmalloc-rnd-64", "")),
        ("xkmalloc-64", ("xkmalloc-64", "")),
        ("size-cache", ("size-cache", "")),
        ("ext4_inode_cache", ("ext4_inode_cache", "")),
        ("", ("", "")),
    ],
)
def test_family_of_a_name(name: str, expected: tuple[str, str]) -> None:
    assert family(name) == expected


def test_family_of_a_family_is_itself() -> None:
    for name in ("size-512(DMA)", "kmalloc-1024", "kmalloc-cg-8k", "dentry(1:x)", "size-33554432"):
        canonical, _ = family(name)
        assert family(canonical) == (canonical, "")


def test_buckets_of_an_owner_nobody_has_heard_of() -> None:
    """Only kmalloc's sizes are written in k; a pool of 64 and 128 is no set of buckets."""
    sizes = ("8", "64", "128", "1k", "2k", "4k", "8k")
    names = [f"newuser-{s}" for s in sizes] + ["bio-64", "bio-128", "half-1k", "half-2k"]
    owners = bucket_owners(names)
    assert "newuser" in owners
    assert {"bio", "half"}.isdisjoint(owners)
    assert family("newuser-4k", owners) == ("kmalloc-4k", "newuser")


def test_sums_lose_nothing() -> None:
    text = (lab_dump("default").folder / "proc" / "slabinfo").read_text()
    slabs = parse_slabinfo(text.splitlines())
    summed = families(slabs.caches)
    assert sum(f.pages for f in summed) == slabs.pages
    assert sum(len(f.members) for f in summed) == len(slabs.caches)
    found = next(f for f in summed if f.name == "kmalloc-32")
    assert {m.name for m in found.members} == {
        "kmalloc-32",
        "kmalloc-cg-32",
        "kmalloc-rcl-32",
        "dma-kmalloc-32",
    }
    assert found.members[0].name == "kmalloc-32"
    assert found.variants == ("", "cg", "dma", "rcl")
    truth = lab_dump("default").truth()["parts"]["nodes"]
    assert found.active_objs >= truth["count"]


def test_use_of_a_family_is_of_its_objects() -> None:
    lines = [
        SlabLine("size-64", 10, 100, 64, 50, 1, 2, 2),
        SlabLine("kmalloc-64", 90, 100, 64, 50, 1, 2, 2),
    ]
    (found,) = families(lines)
    assert (found.active_objs, found.num_objs, found.num_slabs, found.use) == (100, 200, 4, 0.5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dentry(123:session-2.scope)", "session-2.scope"),
        ("kmalloc-rcl-64(9:a (b) c)", "a (b) c"),
        ("kmalloc-64(77:x):deact", "x"),
        ("kmalloc-64(77)", "memory cgroup 77"),
        ("kmalloc-64(77:)", "memory cgroup 77"),
        ("size-512(DMA)", None),
        ("dentry", None),
    ],
)
def test_the_cgroup_of_a_cache_is_in_its_name(name: str, expected: str | None) -> None:
    assert cgroup_of(name) == expected
