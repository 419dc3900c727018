"""Freelists built by the kernel's own formulas, sound and broken."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from crashext.hosts.base import Bytes
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.freelist import Encoding, Walk, prove_encoding, walk
from tests.fake import slab_cache

BASE = 0xFFFF888012340000
RANDOM = 0x7C0FFEE1D00D5EED
WORD = (1 << 64) - 1


def stored(cache: SlabCache, form: Encoding, place: int, following: int) -> int:
    """What SLUB writes into a free slot: freelist_ptr() and freelist_ptr_encode(), mm/slub.c."""
    if form is Encoding.PLAIN:
        return following
    assert cache.freelist_random is not None
    if form is Encoding.XOR_SWAPPED:
        place = int.from_bytes(place.to_bytes(8, "little"), "big")
    return following ^ cache.freelist_random ^ place


def pointer(cache: SlabCache, slot: int, base: int = BASE) -> int:
    """The object of a slot."""
    return base + slot * cache.slot_size + cache.red_left_pad


def slab(
    cache: SlabCache, form: Encoding, free: Sequence[int], base: int = BASE, last: int = 0
) -> tuple[bytearray, int]:
    """A slab full of ones whose slots `free` are on its freelist; `last` ends the list."""
    data = bytearray(b"\xff" * (cache.slot_size * cache.objects_per_slab))
    objects = [pointer(cache, slot, base) for slot in free]
    for at, following in zip(objects, [*objects[1:], last], strict=False):
        place = at + cache.freelist_offset
        word = stored(cache, form, place, following & WORD)
        data[place - base : place - base + 8] = word.to_bytes(8, "little")
    return data, objects[0] if objects else 0


def slabs(*data: bytearray) -> Bytes:
    return np.frombuffer(b"".join(data), np.uint8).reshape(len(data), -1)


def walked(cache: SlabCache, form: Encoding, data: bytearray, head: int) -> Walk:
    readable = np.ones((1, cache.objects_per_slab), np.bool_)
    words = np.array([BASE], np.uint64), np.array([head & WORD], np.uint64)
    return walk(cache, form, slabs(data), readable, *words)


HARDENED = slab_cache(random=RANDOM)
CACHES = {
    "first word": HARDENED,
    "middle (3202fa62fb43)": slab_cache(random=RANDOM, freelist_offset=32),
    "behind the object, red zones": slab_cache(
        "debugged",
        192,
        object_size=64,
        random=RANDOM,
        freelist_offset=72,
        red_left_pad=64,
        objects=21,
    ),
    "odd stride": slab_cache("odd", 104, random=RANDOM, freelist_offset=48, objects=39),
}


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
@pytest.mark.parametrize("form", Encoding)
@pytest.mark.parametrize("free", [[], [0], [7], [3, 0, 5], [7, 6, 5, 4, 3, 2, 1, 0]], ids=str)
def test_a_sound_list_is_followed_to_its_end(
    cache: SlabCache, form: Encoding, free: list[int]
) -> None:
    found = walked(cache, form, *slab(cache, form, free))
    assert np.flatnonzero(found.free[0]).tolist() == sorted(free)
    assert not found.broken[0]


def test_a_kernel_without_hardening_stores_plain_pointers() -> None:
    """CONFIG_SLAB_FREELIST_HARDENED=n has no kmem_cache.random: no form can mean anything else."""
    plain = slab_cache()
    for form in Encoding:
        found = walked(plain, form, *slab(plain, Encoding.PLAIN, [1, 2]))
        assert np.flatnonzero(found.free[0]).tolist() == [1, 2]


BAD_POINTERS = {
    "before the slab": BASE - 64,
    "after the slab": BASE + 8 * 64,
    "between two objects": BASE + 64 + 8,
    "a user address": 0x7FFC00001000,
    "nearly zero": 1,
    "the last byte": WORD,
    "far below": BASE - (1 << 40),
}


@pytest.mark.parametrize("bad", BAD_POINTERS.values(), ids=BAD_POINTERS.keys())
@pytest.mark.parametrize("form", Encoding)
def test_a_list_that_leaves_its_slab_is_broken(form: Encoding, bad: int) -> None:
    found = walked(HARDENED, form, *slab(HARDENED, form, [2, 5], last=bad))
    assert found.broken[0]
    assert np.flatnonzero(found.free[0]).tolist() == [2, 5]  # what came before it is kept
    assert walked(HARDENED, form, slab(HARDENED, form, [])[0], bad).broken[0]


@pytest.mark.parametrize("back_to", [0, 1, 2])
def test_a_list_that_runs_in_a_circle_is_broken(back_to: int) -> None:
    slots = [4, 6, 1]
    data, head = slab(HARDENED, Encoding.XOR, slots, last=pointer(HARDENED, slots[back_to]))
    found = walked(HARDENED, Encoding.XOR, data, head)
    assert found.broken[0]
    assert np.flatnonzero(found.free[0]).tolist() == [1, 4, 6]


def test_a_circle_through_every_slot_is_broken() -> None:
    data, head = slab(HARDENED, Encoding.XOR, range(8), last=pointer(HARDENED, 0))
    assert walked(HARDENED, Encoding.XOR, data, head).broken[0]


def test_a_list_into_a_slot_that_is_not_in_the_dump_is_broken() -> None:
    data, head = slab(HARDENED, Encoding.XOR, [2, 5, 3])
    readable = np.ones((1, 8), np.bool_)
    readable[0, 5] = False
    words = np.array([BASE], np.uint64), np.array([head], np.uint64)
    found = walk(HARDENED, Encoding.XOR, slabs(data), readable, *words)
    assert found.broken[0]
    assert np.flatnonzero(found.free[0]).tolist() == [2]


def test_one_broken_list_costs_no_other_slab_anything() -> None:
    lists = [[0, 1], [2, 3, 4], [], [7]]
    built = [
        slab(HARDENED, Encoding.XOR_SWAPPED, free, BASE + i * 512) for i, free in enumerate(lists)
    ]
    built[1][0][:] = b"\xa5" * 512
    found = walk(
        HARDENED,
        Encoding.XOR_SWAPPED,
        slabs(*(d for d, _ in built)),
        np.ones((4, 8), np.bool_),
        np.array([BASE + i * 512 for i in range(4)], np.uint64),
        np.array([h for _, h in built], np.uint64),
    )
    assert found.broken.tolist() == [False, True, False, False]
    assert [np.flatnonzero(row).tolist() for row in found.free] == [[0, 1], [2], [], [7]]


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
@pytest.mark.parametrize("form", Encoding)
def test_a_walk_through_slots_that_point_anywhere_ends(cache: SlabCache, form: Encoding) -> None:
    """Every slot leads to some slot of its slab, so every list ends in a circle."""
    rng = random.Random(6)
    n = cache.objects_per_slab
    for _ in range(20):
        leads_to = [rng.randrange(n) for _ in range(n)]
        data = bytearray(n * cache.slot_size)
        for slot, target in enumerate(leads_to):
            place = pointer(cache, slot) + cache.freelist_offset
            word = stored(cache, form, place, pointer(cache, target))
            data[place - BASE : place - BASE + 8] = word.to_bytes(8, "little")
        at = rng.randrange(n)
        head = pointer(cache, at)
        reached: set[int] = set()
        while at not in reached:
            reached.add(at)
            at = leads_to[at]
        found = walked(cache, form, data, head)
        assert set(np.flatnonzero(found.free[0]).tolist()) == reached
        assert found.broken[0]


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
@pytest.mark.parametrize("form", Encoding)
def test_garbage_is_no_list(cache: SlabCache, form: Encoding) -> None:
    rng = np.random.default_rng(6)
    n, size = 50, cache.slot_size * cache.objects_per_slab
    bases = np.uint64(BASE) + np.arange(n, dtype=np.uint64) * np.uint64(size)
    data = rng.integers(0, 256, (n, size), np.uint8)
    readable = np.ones((n, cache.objects_per_slab), np.bool_)
    found = walk(cache, form, data, readable, bases, bases + np.uint64(cache.red_left_pad))
    assert found.broken.all()
    assert (found.free.sum(axis=1) == 1).all()  # the head alone, which is a sound pointer


def population(
    cache: SlabCache, form: Encoding, corrupt: int, seed: int
) -> tuple[Bytes, np.ndarray[tuple[int], np.dtype[np.uint64]], list[int]]:
    """20 slabs with random freelists, the first `corrupt` of them overwritten."""
    rng = random.Random(seed)
    bases = [BASE + i * 0x10000 for i in range(20)]
    built = [slab(cache, form, rng.sample(range(8), rng.randint(1, 8)), base) for base in bases]
    for data, _ in built[:corrupt]:
        data[:] = rng.randbytes(len(data))
    return slabs(*(d for d, _ in built)), np.array(bases, np.uint64), [h for _, h in built]


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
@pytest.mark.parametrize("form", Encoding)
@pytest.mark.parametrize("corrupt", [0, 5, 19])
def test_the_freelists_prove_their_own_encoding(
    cache: SlabCache, form: Encoding, corrupt: int
) -> None:
    data, bases, heads = population(cache, form, corrupt, seed=corrupt)
    readable = np.ones((20, cache.objects_per_slab), np.bool_)
    proof = prove_encoding(cache, data, readable, bases, np.array(heads, np.uint64))
    assert proof.encoding is form
    assert (proof.lists, min(proof.failures)) == (20, corrupt)


def test_one_free_slot_is_proof_enough() -> None:
    """The last entry decodes to 0 under its own form only."""
    for form in Encoding:
        data, head = slab(HARDENED, form, [3])
        words = np.array([BASE], np.uint64), np.array([head], np.uint64)
        proof = prove_encoding(HARDENED, slabs(data), np.ones((1, 8), np.bool_), *words)
        assert (proof.encoding, min(proof.failures)) == (form, 0)


def test_without_free_slots_the_newer_form_is_assumed() -> None:
    data, head = slab(HARDENED, Encoding.XOR, [])
    words = np.array([BASE], np.uint64), np.array([head], np.uint64)
    proof = prove_encoding(HARDENED, slabs(data), np.ones((1, 8), np.bool_), *words)
    assert (proof.encoding, proof.lists, proof.decided) == (Encoding.XOR_SWAPPED, 0, False)


def test_a_cache_that_is_full_everywhere_is_decided_by_the_others() -> None:
    """Until 5.7 a tie went to the swapped form, which no list of the kernel was in."""
    full, _ = slab(HARDENED, Encoding.XOR, [])
    words = np.array([BASE], np.uint64), np.array([0], np.uint64)
    proof = prove_encoding(HARDENED, slabs(full), np.ones((1, 8), np.bool_), *words)
    readable = np.ones((20, 8), np.bool_)
    for seed in (1, 2):
        assert not proof.decided
        data, bases, heads = population(HARDENED, Encoding.XOR, 0, seed=seed)
        proof += prove_encoding(HARDENED, data, readable, bases, np.array(heads, np.uint64))
    assert (proof.encoding, proof.lists, proof.decided) == (Encoding.XOR, 40, True)


def test_lists_that_fit_no_form_decide_nothing() -> None:
    data, bases, heads = population(HARDENED, Encoding.XOR, 20, seed=3)
    readable = np.ones((20, 8), np.bool_)
    proof = prove_encoding(HARDENED, data, readable, bases, np.array(heads, np.uint64))
    assert not (proof + proof).decided


def test_without_hardening_there_is_nothing_to_prove() -> None:
    plain = slab_cache()
    data, bases, heads = population(plain, Encoding.PLAIN, 3, seed=9)
    readable = np.ones((20, 8), np.bool_)
    proof = prove_encoding(plain, data, readable, bases, np.array(heads, np.uint64))
    assert proof.lists == 0


@pytest.mark.parametrize("form", [Encoding.XOR, Encoding.XOR_SWAPPED])
@pytest.mark.parametrize("count", [3, 1])
def test_tags_in_pointers_do_not_break_a_hardened_list(form: Encoding, count: int) -> None:
    """Each next pointer was encoded with a tag; the end of a list has none (hosts/tags.py)."""
    cache = replace(HARDENED, tagged=True)
    free = [5, 2, 7]
    data, head = slab(cache, form, free)
    for slot in free[:-1]:
        data[cache.slot_size * slot + 7] ^= 0x0F
    data[cache.slot_size * free[-1] + 7] ^= 0xFF  # looked like a tagged pointer, and was read so
    readable = np.ones((40, cache.objects_per_slab), np.bool_)
    rows, heads = slabs(*[data] * 40), np.full(40, head, np.uint64)
    bases = np.full(40, BASE, np.uint64)
    found = walk(cache, form, rows[:count], readable[:count], bases[:count], heads[:count])
    assert not found.broken.any()
    assert np.flatnonzero(found.free[0]).tolist() == sorted(free)
    every = walk(cache, form, rows, readable, bases, heads)
    assert not every.broken.any()
    assert (every.free == found.free[0]).all()
    assert walk(HARDENED, form, rows, readable, bases, heads).broken.all()
