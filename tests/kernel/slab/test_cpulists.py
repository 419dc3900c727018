"""Free objects that CPUs, sheaves and barns hold, in each generation's structures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crashext.hosts.base import Layout
from crashext.kernel.slab.cpulists import CpuLists, cpu_lists
from crashext.kernel.slab.sheaves import stale_from
from tests.fake import FakeHost, layout, slab_cache, word

CACHE, PERCPU = 0xFFFF888000100000, 0x30000
CPUS = (0xFFFF888007C00000, 0xFFFF888007D00000)
SLAB = 0xFFFFEA0000000100
FREE = 0xFFFF888004560040
NODE, BARN = 0xFFFF888000200000, 0xFFFF888000300000
SHEAF = 0xFFFF888000400000

KMEM_CACHE_CPU = {"freelist": (0, 8), "tid": (8, 8), "partial": (24, 8)}


def old_kernel(current: str) -> FakeHost:
    """Two CPUs with a kmem_cache_cpu each; the second has no slab."""
    host = FakeHost(
        layout("struct kmem_cache", 200, cpu_slab=(0, 8)),
        layout("struct kmem_cache_cpu", 32, **KMEM_CACHE_CPU, **{current: (16, 8)}),
    )
    host.put(CACHE, word(PERCPU).ljust(200, b"\0"))
    host.put(CPUS[0] + PERCPU, word(FREE, 7, SLAB, 0))
    host.put(CPUS[1] + PERCPU, word(0, 9, 0, 0))
    return host


@pytest.mark.parametrize("current", ["slab", "page"], ids=["5.17", "5.16"])
def test_each_cpu_has_its_slab_and_freelist(current: str) -> None:
    found = cpu_lists(old_kernel(current), slab_cache(address=CACHE), CPUS)
    assert (found.slabs.tolist(), found.heads.tolist()) == ([SLAB], [FREE])
    assert (found.sheaved.tolist(), found.faults) == ([], 0)


def test_a_cpu_slab_whose_list_is_empty_is_still_a_cpu_slab() -> None:
    host = old_kernel("slab")
    host.put(CPUS[1] + PERCPU, word(0, 9, SLAB + 0x40, 0))
    found = cpu_lists(host, slab_cache(address=CACHE), CPUS)
    assert (found.slabs.tolist(), found.heads.tolist()) == ([SLAB, SLAB + 0x40], [FREE, 0])


def test_a_cpu_whose_area_is_not_in_the_dump_is_a_fault() -> None:
    host = old_kernel("slab")
    del host.extents[CPUS[0] + PERCPU]
    found = cpu_lists(host, slab_cache(address=CACHE), CPUS)
    assert (found.slabs.tolist(), found.faults) == ([], 1)


def test_a_cache_without_cpu_slabs_has_none() -> None:
    """SLUB_TINY (6.2 to 6.18) and kernels since 7.0 have no kmem_cache.cpu_slab."""
    host = old_kernel("slab")
    host.layouts["struct kmem_cache"] = layout("struct kmem_cache", 200)
    found = cpu_lists(host, slab_cache(address=CACHE), CPUS)
    assert (len(found.slabs), len(found.sheaved), found.faults) == (0, 0, 0)


SHEAVES: tuple[Layout, ...] = (
    layout("struct slub_percpu_sheaves", 40, main=(16, 8), spare=(24, 8), rcu_free=(32, 8)),
    # The union of rcu_head, barn_list and capacity comes first; objects[] is flexible.
    layout(
        "struct slab_sheaf", 32, barn_list=(0, 16), cache=(16, 8), size=(24, 4), objects=(32, 0)
    ),
    layout("struct node_barn", 56, sheaves_full=(8, 16), sheaves_empty=(24, 16)),
)


def sheaf(host: FakeHost, number: int, objects: list[int], size: int | None = None) -> int:
    """A sheaf; its objects are numbered so that every one of the kernel is different."""
    at = SHEAF + number * 0x1000
    count = len(objects) if size is None else size
    host.put(at, word(0, 0, CACHE, count, *objects).ljust(0x200, b"\0"))
    return at


def obj(number: int) -> int:
    return 0xFFFF888005000000 + 64 * number


def full_list(host: FakeHost, barn: int, sheaves: list[int], closed: bool = True) -> None:
    """Link sheaves into a barn's list of full ones."""
    head = barn + 8
    host.put(barn, bytes(56))
    chain = [head, *sheaves]
    for at, following in zip(chain, [*sheaves, head if closed else sheaves[0]], strict=True):
        host.put(at, word(following))


def new_kernel(generation: str, nodes: int = 1) -> FakeHost:
    """Sheaves since 6.18: barns hang off kmem_cache_node, since 7.1 off per_node[]."""
    if generation == "7.1":
        host = FakeHost(
            *SHEAVES,
            layout("struct kmem_cache", 200, cpu_sheaves=(8, 8), per_node=(100 + 4, 16 * 4)),
            layout("struct kmem_cache_node", 48, list_lock=(0, 4)),
            layout("struct kmem_cache_per_node_ptrs", 16, node=(0, 8), barn=(8, 8)),
        )
    else:
        host = FakeHost(
            *SHEAVES,
            layout("struct kmem_cache", 200, cpu_sheaves=(8, 8), node=(104, 8)),
            layout("struct kmem_cache_node", 64, list_lock=(0, 4), barn=(56, 8)),
        )
    host.put(CACHE, word(0, PERCPU).ljust(200, b"\0"))
    for number in range(nodes):
        at = BARN + number * 0x1000
        full_list(host, at, [])
        host.put(NODE + number * 0x1000, bytes(56) + word(at))
        if generation == "7.1":
            host.put(CACHE + 104 + 16 * number, word(NODE + number * 0x1000, at))
    for cpu in CPUS:
        host.put(cpu + PERCPU, bytes(40))
    return host


def read(host: FakeHost, nodes: int = 1) -> CpuLists:
    addresses = tuple(NODE + i * 0x1000 for i in range(nodes))
    return cpu_lists(host, replace(slab_cache(address=CACHE), nodes=addresses), CPUS)


@pytest.mark.parametrize("generation", ["6.18", "7.1"])
def test_main_spare_and_full_sheaves_hold_free_objects(generation: str) -> None:
    host = new_kernel(generation)
    main = sheaf(host, 0, [obj(0), obj(1)])
    spare = sheaf(host, 1, [obj(2)])
    waiting = sheaf(host, 2, [obj(3)])
    host.put(CPUS[0] + PERCPU, bytes(16) + word(main, spare, waiting))
    other = sheaf(host, 3, [obj(9)])
    host.put(CPUS[1] + PERCPU, bytes(16) + word(other, 0, 0))
    barn = [sheaf(host, 4, [obj(5), obj(6)]), sheaf(host, 5, [obj(7)])]
    full_list(host, BARN, barn)
    found = read(host)
    # Not object 3: the rcu_free sheaf waits for a grace period.
    assert found.sheaved.tolist() == [obj(n) for n in (0, 1, 2, 5, 6, 7, 9)]
    assert found.faults == 0


@pytest.mark.parametrize("generation", ["6.18", "7.1"])
def test_every_node_has_a_barn(generation: str) -> None:
    host = new_kernel(generation, nodes=3)
    for number in range(3):
        full_list(host, BARN + number * 0x1000, [sheaf(host, number, [obj(number)])])
    found = read(host, nodes=3)
    assert found.sheaved.tolist() == [obj(0), obj(1), obj(2)]
    assert found.faults == 0


def test_slots_past_a_sheaf_s_size_hold_nothing() -> None:
    host = new_kernel("6.18")
    host.put(CPUS[0] + PERCPU, bytes(16) + word(sheaf(host, 0, [obj(0), obj(1)], size=1), 0, 0))
    assert read(host).sheaved.tolist() == [obj(0)]


def test_a_barn_list_that_never_ends_is_bounded_and_a_fault() -> None:
    host = new_kernel("6.18")
    full_list(host, BARN, [sheaf(host, 0, [obj(0)]), sheaf(host, 1, [obj(1)])], closed=False)
    found = read(host)
    assert found.sheaved.tolist() == [obj(0), obj(1)]
    assert found.faults > 0


def test_a_barn_list_that_breaks_off_is_a_fault() -> None:
    host = new_kernel("6.18")
    first = sheaf(host, 0, [obj(0)])
    full_list(host, BARN, [first])
    host.put(first, word(0))
    found = read(host)
    assert found.sheaved.tolist() == [obj(0)]
    assert found.faults > 0


def test_a_barn_that_is_not_in_the_dump_is_a_fault() -> None:
    host = new_kernel("6.18")
    del host.extents[BARN]
    assert read(host).faults == 1


@pytest.mark.parametrize("size", [4097, 0xFFFFFFFF])
def test_a_sheaf_of_impossible_size_is_a_fault(size: int) -> None:
    host = new_kernel("6.18")
    sheaves = sheaf(host, 0, [obj(0)], size=size), sheaf(host, 1, [obj(1)])
    host.put(CPUS[0] + PERCPU, bytes(16) + word(*sheaves, 0))
    found = read(host)
    assert (found.sheaved.tolist(), found.faults) == ([obj(1)], 1)


def test_sheaves_in_missing_memory_are_faults() -> None:
    host = new_kernel("6.18")
    host.put(CPUS[0] + PERCPU, bytes(16) + word(0xFFFF88800F000000, 0, 0))
    host.put(CPUS[1] + PERCPU, bytes(16) + word(0xFFFF88800F000100, 0, 0))
    assert read(host).faults == 2


def test_a_cache_that_opted_out_of_sheaves_has_none() -> None:
    """6.18 allocates them only for caches that ask: cpu_sheaves is NULL."""
    host = new_kernel("6.18")
    host.put(CACHE, bytes(200))
    found = read(host)
    assert (len(found.sheaved), found.faults) == (0, 0)


def test_the_rest_of_each_sheaf_is_stale_empty_and_waiting_ones_too() -> None:
    """What was taken out of a sheaf still stands behind its last object."""
    host = new_kernel("7.1")
    main, waiting, empty = (
        sheaf(host, 0, [obj(0), obj(1), obj(2)], size=1),
        sheaf(host, 1, [obj(3), obj(4)], size=2),
        sheaf(host, 2, [obj(5), obj(6)], size=0),
    )
    host.put(CPUS[0] + PERCPU, bytes(16) + word(main, 0, waiting))
    full_list(host, BARN, [])
    head = BARN + 24
    host.put(head, word(empty, empty))
    host.put(empty, word(head))
    found = read(host)
    assert sorted(found.sheaves.tolist()) == [main, waiting, empty]
    sheaves, stale = stale_from(host, found.sheaves)
    assert dict(zip(sheaves.tolist(), stale.tolist(), strict=True)) == {
        main: main + 32 + 8,
        waiting: waiting + 32 + 16,
        empty: empty + 32,
    }
