"""Which slabs a sample is made of."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from crashext.analysis.likeness import sample
from crashext.analysis.likeness.sample import choose_slabs, draw
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.freelist import Encoding
from crashext.kernel.slab.objects import SlabReader
from crashext.kernel.slab.slabs import SlabIndex, find_slabs
from crashext.progress import silent
from tests.fake import layout, slab_cache, word
from tests.kernel.machine import DIRECT, VMEMMAP, Machine

SLABS, SLOTS = 40, 8
CACHE = slab_cache("kmalloc-512", 512, objects=SLOTS)
LAYOUT = layout("struct kmem_cache", 200, offset=(40, 4), name=(96, 8))


def machine_of(slabs: int = SLABS, inuse: int = SLOTS, cache: SlabCache = CACHE) -> Machine:
    """Slabs one page long, all slots of them allocated unless `inuse` says less."""
    machine = Machine(slabs + 1, cache)
    machine.host.layouts[LAYOUT.name] = LAYOUT
    for pfn in range(1, slabs + 1):
        machine.slab(pfn, cache, inuse=inuse, objects=SLOTS)
    machine.host.put(DIRECT + 0x1000, b"".join(word(i) * 8 for i in range(slabs * 64)))
    return machine


def reader_of(machine: Machine) -> tuple[SlabReader, SlabIndex, NDArray[np.intp]]:
    index = find_slabs(machine.host, machine.memory, machine.caches, {}, 0, silent)
    reader = SlabReader(
        machine.host, machine.memory, machine.space, machine.caches.all[0], lambda: Encoding.PLAIN
    )
    return reader, index, index.rows_of(0)


@pytest.mark.parametrize(
    ("objects", "slabs"),
    [(1, 1), (7, 1), (8, 1), (9, 2), (64, 8), (SLABS * SLOTS, SLABS), (1 << 62, SLABS)],
)
def test_as_many_slabs_are_chosen_as_hold_the_objects(objects: int, slabs: int) -> None:
    reader, index, rows = reader_of(machine_of())
    chosen = choose_slabs(reader, index, rows, objects, np.random.default_rng(0))
    assert len(chosen) == slabs
    assert chosen.tolist() == sorted(set(chosen.tolist()) & set(rows.tolist()))


def test_a_cache_without_slabs_has_none_to_choose() -> None:
    reader, index, _ = reader_of(machine_of())
    none = np.zeros(0, np.intp)
    chosen = choose_slabs(reader, index, none, 100, np.random.default_rng(0))
    assert len(chosen) == 0
    found = draw(reader, index, none, 100, np.random.default_rng(0), silent)
    assert (found.slabs_examined, found.content.shape) == (0, (0, 512))


def test_memory_bounds_the_sample_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "MAX_SAMPLE_BYTES", 10 * 4096)
    reader, index, rows = reader_of(machine_of())
    chosen = choose_slabs(reader, index, rows, 1 << 40, np.random.default_rng(0))
    assert len(chosen) == 10


def test_the_seed_decides_and_every_slab_has_its_chance() -> None:
    reader, index, rows = reader_of(machine_of())
    draws = [
        choose_slabs(reader, index, rows, 32, np.random.default_rng(seed)).tolist()
        for seed in (*range(200), 0)
    ]
    assert draws[0] == draws[-1]
    counts = np.bincount(np.concatenate(draws[:200]), minlength=SLABS)
    assert counts.min() >= 5  # 20 expected of 200 draws of 4 of 40


def test_every_object_of_a_drawn_slab_is_in_the_sample() -> None:
    reader, index, rows = reader_of(machine_of())
    found = draw(reader, index, rows, 32, np.random.default_rng(0), silent)
    assert found.slabs_examined == 4
    assert len(found.address) == 32
    assert np.bincount(found.slab).tolist() == [8, 8, 8, 8]
    # Each object is where it says: the machine numbered its memory by 64-byte lines.
    lines = found.content.view("<u8")[:, 0]
    assert lines.tolist() == ((found.address - np.uint64(DIRECT + 0x1000)) // 64).tolist()
    assert (found.free_slots, found.unreadable, found.unknown) == (0, 0, 0)


def test_slots_that_are_not_in_the_dump_are_counted_and_no_objects() -> None:
    machine = machine_of(slabs=4)
    start = DIRECT + 0x1000
    whole = machine.host.extents.pop(start)
    machine.host.put(start, bytes(whole[:0x1000]))
    machine.host.put(start + 0x2000, bytes(whole[0x2000:]))
    found = draw(*reader_of(machine), 1000, np.random.default_rng(0), silent)
    assert (len(found.address), found.unreadable, found.slabs_examined) == (24, 8, 4)


def test_a_broken_freelist_hides_its_slab_s_slots_only() -> None:
    machine = machine_of(slabs=4, inuse=6)
    for pfn in (1, 2, 3, 4):  # slots 1 and 5 are free, in that order
        base = DIRECT + (pfn << 12)
        machine.host.put(VMEMMAP + 64 * pfn + 32, word(base + 512))
        machine.host.put(base + 512, word(base + 5 * 512))
        machine.host.put(base + 5 * 512, word(0))
    machine.host.put(DIRECT + 0x3000 + 512, word(0x4141414141414141))
    found = draw(*reader_of(machine), 1000, np.random.default_rng(0), silent)
    assert (found.broken_slabs, found.unknown, found.free_slots) == (1, 7, 7)
    assert len(found.address) == 18
    assert not set((found.address >> np.uint64(12)).tolist()) & {(DIRECT >> 12) + 3}


def test_a_freelist_shorter_than_the_counters_say_is_a_mismatch() -> None:
    found = draw(*reader_of(machine_of(slabs=3, inuse=7)), 99, np.random.default_rng(0), silent)
    assert (found.mismatched_slabs, found.broken_slabs) == (3, 0)
