"""SLAB's slabs of each generation: a made-up cache of known objects is read back exactly."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.kernel.access import UnknownLayout
from crashext.kernel.slab.arraycaches import stale_entries
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.pointers import SlabPointers
from tests.kernel.maker import PAGE
from tests.kernel.slabmaker import GENERATIONS, Generation, Made, Maker

EACH = pytest.mark.parametrize("how", GENERATIONS, ids=lambda g: g.name)
WITH_PADS = pytest.mark.parametrize("how", GENERATIONS[1:], ids=lambda g: g.name)
WITH_ARRAYS = pytest.mark.parametrize("how", GENERATIONS[3:], ids=lambda g: g.name)


def read_back(maker: Maker, of: Made) -> list[int]:
    """Allocated objects as the product finds them; none of its slabs may be damaged."""
    found: list[int] = []
    index = maker.index()
    rows = np.flatnonzero(index.cache == [c.name for c in maker.read_caches().all].index(of.name))
    assert index.address[rows].tolist() == sorted(first for first, _ in of.slabs)
    for batch in maker.reader(of.name).read(index, rows):
        assert not batch.broken.any()
        assert not batch.mismatched.any()
        free = np.sort(batch.address[batch.state == State.FREE])
        assert not set(free.tolist()) & set(of.allocated())
        allocated = batch.state == State.ALLOCATED
        found += batch.address[allocated].tolist()
        # The maker wrote into each object which one it is.
        words = np.ascontiguousarray(batch.content[:, :, :16]).view("<u8")
        number = np.broadcast_to(np.arange(of.num), allocated.shape)
        assert (words[:, :, 1][allocated] == number[allocated]).all()
    return sorted(found)


@EACH
def test_a_made_up_cache_is_read_back_exactly(how: Generation) -> None:
    maker = Maker(how)
    small, large = maker.cache("size-64", 64, 40), maker.cache("large", 1088, 7, order=1)
    rng = np.random.default_rng(5)
    for n in (0, 1, 17, 39, 40):
        maker.slab(small, rng.permutation(40)[:n].tolist(), colour=64 * (n % 3))
    for n in (0, 3, 7):
        maker.slab(large, rng.permutation(7)[:n].tolist(), colour=64 * n, where="off")
    index = maker.index()
    assert (len(index.address), index.unknown, index.impossible) == (8, 0, 0)
    assert index.complete
    for cache in (small, large):
        assert read_back(maker, cache) == cache.allocated()
    assert index.inuse.sum() == len(small.allocated()) + len(large.allocated())


@EACH
def test_what_array_caches_hold_is_free(how: Generation) -> None:
    maker = Maker(how)
    cache = maker.cache("size-64", 64, 40)
    slabs = [maker.slab(cache, free) for free in ([], [3], [])]
    every = cache.allocated()
    kinds = {"0": every[:5], "1": every[50:51], "shared": every[60:63], "alien": every[70:72]}
    for kind, objects in kinds.items():
        maker.keep(cache, kind, objects, stale=every[5:9])
    back = read_back(maker, cache)
    assert back == cache.allocated()
    assert len(back) == 3 * 40 - 1 - 11
    assert slabs[0] + 5 * 64 in back  # a stale entry is no free object


@pytest.mark.parametrize("how", GENERATIONS[1:3], ids=lambda g: g.name)
def test_entries_of_slabs_from_the_reserves_are_free_objects_too(how: Generation) -> None:
    """SLAB_OBJ_PFMEMALLOC (3.6): bit 0 of what an array cache has of them."""
    maker = Maker(how)
    cache = maker.cache("size-64", 64, 40)
    maker.slab(cache, [])
    kept = cache.allocated()[:3]
    at = maker.keep(cache, "0", kept, stale=[]) + (24 if how.lock else 16)
    maker.host.put(at, (kept[0] | 1).to_bytes(8, "little"))
    back = read_back(maker, cache)
    assert back == cache.allocated()
    assert len(back) == 37


@WITH_PADS
def test_red_zones_are_no_part_of_objects(how: Generation) -> None:
    """CONFIG_DEBUG_SLAB: obj_offset in front; behind, a red zone and who allocated it."""
    maker = Maker(how)
    cache = maker.cache("debugged", 128, 20, pad=8)
    maker.slab(cache, [0, 7, 19], colour=64)
    maker.keep(cache, "0", cache.allocated()[:2], stale=[])
    found = maker.read_caches().find("debugged")
    assert found is not None
    assert (found.red_left_pad, found.object_size, found.slot_size) == (8, 104, 128)
    assert read_back(maker, cache) == cache.allocated()
    assert len(cache.allocated()) == 15


@EACH
def test_a_slab_may_begin_pages_after_its_first(how: Generation) -> None:
    """One object of 9,000 bytes leaves room for a colour that is longer than a page."""
    maker = Maker(how)
    cache = maker.cache("wide", 9024, 1, order=2)
    firsts = [maker.slab(cache, [], colour=4160, where="off") for _ in range(3)]
    firsts.append(maker.slab(cache, [0], colour=64, where="off"))
    assert read_back(maker, cache) == sorted(firsts[:3])
    index = maker.index()
    assert (index.page == index.address - index.address % PAGE - PAGE).tolist()[:3] == [True] * 3
    assert index.pages.tolist() == [4] * 4


@WITH_ARRAYS
def test_the_numbers_may_lie_in_a_free_object(how: Generation) -> None:
    """OBJFREELIST_SLAB (4.6): a full slab has none, and the array is read from `active` on."""
    maker = Maker(how)
    cache = maker.cache("kmalloc-128", 128, 32)
    for free in ([], [9], [1, 2, 3], range(32)):
        maker.slab(cache, list(free), where="object")
    assert read_back(maker, cache) == cache.allocated()


@EACH
def test_a_number_that_is_twice_there_costs_its_slab_only(how: Generation) -> None:
    maker = Maker(how)
    cache = maker.cache("size-64", 64, 40)
    first, _ = (maker.slab(cache, [4, 5, 6]) for _ in range(2))
    page = first & -PAGE
    if how.chained:  # the last free slot leads back to the first
        chain = page + how.slab_size
        order = [n for n in (4, 5, 6) if maker.host.read(chain + 4 * n, 4) == b"\xff" * 4]
        at, size = chain + 4 * order[0], 4
        head = int.from_bytes(maker.host.read(page + how.slab["free"][0], 4), "little")
        maker.host.put(page + how.slab["inuse"][0], (36).to_bytes(4, "little"))
        value = head
    else:
        at, size = page + PAGE - how.width, how.width
        value = int.from_bytes(maker.host.read(at - size, size), "little")
    maker.host.put(at, value.to_bytes(size, "little"))
    (batch,) = maker.reader(cache.name).read(maker.index(), np.arange(2))
    assert batch.broken.tolist() == [True, False]
    assert set(batch.state[0].tolist()) == {State.UNKNOWN, State.FREE}
    assert (batch.state[1] == State.FREE).sum() == 3


@EACH
def test_impossible_counters_cost_their_slab(how: Generation) -> None:
    maker = Maker(how)
    cache = maker.cache("size-64", 64, 40)
    first, _ = (maker.slab(cache, [1]) for _ in range(2))
    page, row = first & -PAGE, 0xFFFFEA0000000000 + 64
    members = how.slab or how.page
    member = members["inuse" if how.chained else "active"]
    maker.host.put((page if how.chained else row) + member[0], (41).to_bytes(4, "little"))
    index = maker.index()
    assert (len(index.address), index.impossible) == (1, 1)


@EACH
@pytest.mark.parametrize("whole", [True, False], ids=["by index", "by struct page"])
def test_a_pointer_leads_to_its_object(how: Generation, whole: bool) -> None:
    maker = Maker(how)
    cache = maker.cache("large", 1088, 7, order=1)
    first = maker.slab(cache, [2], colour=128, where="off")
    index, caches = maker.index(), maker.read_caches()
    if not whole:
        none, small = np.zeros(0, np.uint64), np.zeros(0, np.uint16)
        index = type(index)(none, none, small, small, small, small, False, 0.0, 0, 0, 0)
    pointers = SlabPointers(maker.host, maker.space, maker.memory, caches, index)
    asked = np.array([first, first + 5 * 1088 + 16, first + 6 * 1088], np.uint64)
    found = pointers.resolve(asked)
    assert found.cache.tolist() == [0, 0, 0]
    assert found.base.tolist() == [first] * 3
    assert found.offset.tolist() == [0, 16, 0]
    one = maker.reader(cache.name).read_one(first)
    assert one is not None
    assert one.address[0].tolist() == [first + 1088 * i for i in range(7)]


@EACH
def test_stale_entries_are_where_an_array_has_no_object(how: Generation) -> None:
    maker = Maker(how)
    cache = maker.cache("size-64", 64, 40)
    maker.slab(cache, [])
    every = cache.allocated()
    at = maker.keep(cache, "0", every[:2], stale=every[2:5])
    begin, end = stale_entries(maker.host, maker.reader(cache.name).arrays)
    header = 24 if how.lock else 16
    some = begin < end  # the other CPU's array is empty
    assert begin[some].tolist() == [at + header + 16]
    assert end[some].tolist() == [at + header + 40]


@EACH
def test_an_array_that_says_more_than_it_can_hold_is_a_fault(how: Generation) -> None:
    maker = Maker(how)
    cache = maker.cache("size-64", 64, 40)
    maker.slab(cache, [])
    at = maker.keep(cache, "0", cache.allocated()[:2], stale=[])
    cache.kept.clear()
    maker.host.put(at, (1 << 20).to_bytes(4, "little"))
    assert maker.reader(cache.name).cpu_faults == 1
    assert read_back(maker, cache) == cache.allocated()


@WITH_ARRAYS
def test_nodes_count_the_slabs(how: Generation) -> None:
    maker = Maker(how)
    cache = maker.cache("size-64", 64, 40)
    node = maker._node(cache)
    maker.host.put(node + 48, (7).to_bytes(8, "little"))
    found = maker.read_caches().all[0]
    assert found.counters is not None
    assert (found.counters.slabs, found.counters.objects, found.nodes) == (7, 280, (node,))


def test_a_cache_whose_slots_do_not_fit_its_pages_is_damage() -> None:
    maker = Maker(GENERATIONS[3])
    maker.cache("size-64", 64, 40)
    maker.cache("wrong", 4096, 40)
    caches = maker.read_caches()
    assert [c.name for c in caches.all] == ["size-64"]
    assert caches.damage is not None
    assert "impossible sizes" in caches.damage


def test_slob_is_said_so() -> None:
    maker = Maker(GENERATIONS[3])
    members = dict(maker.host.layouts["struct kmem_cache"].members)
    del members["num"]
    old = maker.host.layouts["struct kmem_cache"]
    maker.host.layouts["struct kmem_cache"] = type(old)(old.name, old.size, members)
    with pytest.raises(UnknownLayout, match="is SLOB"):
        maker.read_caches()
