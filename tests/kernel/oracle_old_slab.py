"""SLAB as it was before 3.13, which drgn has no helper for, walked with drgn's objects alone.

struct slab was memory of its own then, on a list of its node's, and a table of unsigned ints behind
it chained its free objects: mm/slab.c of 3.10, slab_bufctl(). 8456a648cf44 (3.13) took it away.
"""

from __future__ import annotations

from collections.abc import Iterator

import drgn
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.nodemask import for_each_online_node
from drgn.helpers.linux.slab import for_each_slab_cache

_LISTS = ("slabs_full", "slabs_partial", "slabs_free")
_NONE_LEFT = 0xFFFFFFFF  # BUFCTL_END
_RESERVES = 1  # SLAB_OBJ_PFMEMALLOC, bit 0 of what is in an array cache


def has_old_slabs(program: drgn.Program) -> bool:
    """Whether the kernel is such a one."""
    try:
        slab = program.type("struct slab")
    except LookupError:
        return False
    return bool(slab.has_member("s_mem") and slab.has_member("nodeid"))  # not the later ones


def allocated_in_old_slabs(program: drgn.Program) -> Iterator[tuple[drgn.Object, list[int]]]:
    """Every slab cache with the addresses of its allocated objects."""
    for cache in for_each_slab_cache(program):
        nodes = [cache.node[node] for node in for_each_online_node(program)]
        cached = [cache.array[cpu] for cpu in for_each_possible_cpu(program)]
        for node in nodes:
            cached += [node.shared, *_aliens(program, node)]
        free = {address for one in cached if one for address in _entries(one)}
        found = {
            address
            for node in nodes
            for name in _LISTS
            for slab in list_for_each_entry("struct slab", node.member_(name).address_of_(), "list")
            for address in _in_use(program, cache, slab)
        }
        yield cache, sorted(found - free)


def _in_use(program: drgn.Program, cache: drgn.Object, slab: drgn.Object) -> Iterator[int]:
    """What is in no chain of free objects; array caches have some of it."""
    count, size, first = (o.value_() for o in (cache.num, cache.size, slab.s_mem))
    table = drgn.Object(
        program,
        program.array_type(program.type("unsigned int"), count),
        address=slab.value_() + drgn.sizeof(program.type("struct slab")),
    ).value_()
    free, at = set(), slab.free.value_()
    while at != _NONE_LEFT:
        assert at < count
        assert at not in free
        free.add(at)
        at = table[at]
    assert len(free) == count - slab.inuse.value_()
    yield from (first + i * size for i in range(count) if i not in free)


def _aliens(program: drgn.Program, node: drgn.Object) -> list[drgn.Object]:
    return [node.alien[other] for other in for_each_online_node(program)] if node.alien else []


def _entries(array: drgn.Object) -> list[int]:
    return [array.entry[i].value_() & ~_RESERVES for i in range(array.avail.value_())]
