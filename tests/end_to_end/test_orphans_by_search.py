"""The verdicts of single objects, checked by drgn's own search through all memory.

drgn finds every word that points into a few hundred random objects. Of an orphan, each must be in
memory that holds nothing: free pages, free slots, dead parts of stacks, or the object itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from crashext.analysis.reach.holders import Holders
from crashext.analysis.reach.nodes import NodeKind
from crashext.analysis.reach.reachability import Class, Reach
from crashext.analysis.reach.tasklinks import links_of_tasks
from crashext.kernel.pages.frames import USER, FrameUse
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slots import Slots
from tests.kernel.oracle import drgn_program

from .test_orphans import marked

SAMPLE = 200


def sample(found: Reach, kind: Class, seed: int) -> Slots:
    slots = np.arange(found.table.count, dtype=np.int64)
    mine = slots[found.classes(slots) == kind]
    # As many of small caches as of large ones.
    caches = found.table.caches(mine)
    rng = np.random.default_rng(seed)
    sizes = np.bincount(caches)[caches]
    weights = 1 / sizes
    count = min(SAMPLE, len(mine))
    return np.sort(rng.choice(mine, count, replace=False, p=weights / weights.sum()))


def searched(name: str, found: Reach, slots: Slots) -> dict[int, list[int]]:
    """Direct-map addresses of all words that point into each of the objects, by drgn."""
    starts = found.nodes.addresses(slots)
    ends = starts + found.nodes.bytes(slots).astype(np.uint64) - np.uint64(1)
    ranges = list(zip(starts.tolist(), ends.tolist(), strict=True))
    hits: dict[int, list[int]] = defaultdict(list)
    for address, value in drgn_program(name).search_memory_word(*ranges):
        at = int(np.searchsorted(starts, np.uint64(value), side="right")) - 1
        hits[int(slots[at])].append(address)
    return hits


def holds_nothing(found: Reach, address: int, target: int) -> str:
    """Why a word counts for nothing; "" where it counts."""
    direct, table = found.view.space.direct, found.table
    if not direct.start <= address < direct.end:
        return ""
    offset = address - direct.start
    use = FrameUse(int(found.frames.use[offset >> 12]))
    if use is FrameUse.FREE or use in USER:
        return use.name
    if found.stacks.dead(np.array([offset], np.uint64))[0]:
        return "dead stack"
    value = int.from_bytes(found.view.host.read(address, 8), "little")
    if cache_of(found, target) == "task_struct" and value & 7:
        return "the last reader of a semaphore"
    if use is not FrameUse.SLAB:
        return ""
    slot = int(table.at(np.array([address], np.uint64))[0])
    if slot < 0:
        return "between objects"
    if slot == target:
        return "itself"
    if table.state[slot] == State.FREE:
        return "free slot"
    between = [cache_of(found, node) for node in (slot, target)]
    start = int(table.addresses(np.array([slot]))[0])
    links = links_of_tasks(found.view.host)
    if between == ["task_struct"] * 2 and any(a <= address - start < b for a, b in links):
        return "a link of the scheduler's"
    return ""


def cache_of(found: Reach, node: int) -> str:
    """The name of an object's cache; "" for an area or pages."""
    if node >= found.nodes.first_area:
        return ""
    return found.view.caches.all[int(found.table.caches(np.array([node]))[0])].name


@pytest.mark.parametrize("name", ["default", "twin", "healthy", "nodes-debug"])
def test_every_word_that_points_at_an_orphan_holds_nothing(name: str) -> None:
    found = marked(name)
    slots = sample(found, Class.ORPHAN, 1)
    hits = searched(name, found, slots)
    reasons: Counter[str] = Counter()
    for slot in slots.tolist():
        for address in hits[slot]:
            why = holds_nothing(found, address, slot)
            assert why, f"{address:#x} points at orphan {slot}"
            reasons[why] += 1


@pytest.mark.parametrize("name", ["chain", "tasks"])
def test_only_unreachable_objects_point_at_a_leaked_structure(name: str) -> None:
    found = marked(name)
    slots = sample(found, Class.STRUCTURE, 2)
    hits = searched(name, found, slots)
    for slot in slots.tolist():
        members = 0
        for address in hits[slot]:
            if holds_nothing(found, address, slot):
                continue
            source = found.table.at(np.array([address], np.uint64))
            assert source[0] >= 0, hex(address)
            assert found.classes(source)[0] in (Class.ORPHAN, Class.STRUCTURE)
            members += 1
        assert members


@pytest.mark.parametrize("name", ["default", "healthy", "messages", "innocent"])
def test_every_step_of_a_chain_is_a_word_in_memory(name: str) -> None:
    """From the object up to a word outside all objects, which is not dead: read one by one."""
    found = marked(name)
    via = found.marks.via
    holders = Holders(found)
    slots = sample(found, Class.HELD, 3)
    assert len(slots) == SAMPLE
    starts: set[int] = set()
    for slot in slots.tolist():
        steps = 0
        while via[slot] >= 0:
            above = int(via[slot])
            assert points(found, above, slot)
            slot, steps = above, steps + 1
            if steps > 200 or slot in starts:
                break
        starts.add(slot)
        if via[slot] < 0:
            assert holders.root_of(slot).name
    assert len(starts) > 50
    # The roots themselves: words that drgn's search finds as well.
    tops = np.array(sorted(s for s in starts if via[s] < 0), np.int64)[:100]
    tops = tops[tops < found.nodes.first_area]  # of others, struct page pointers hold as well
    hits = searched(name, found, tops)
    roots, targets = found.references.root_at, found.references.root_target
    registers = {v for r in found.view.host.registers() for v in r}
    for top in tops.tolist():
        ours = {int(a) + found.view.space.direct.start for a in roots[targets == top]}
        if not ours:
            start = int(found.nodes.addresses(np.array([top]))[0])
            size = int(found.nodes.bytes(np.array([top]))[0])
            assert any(start <= v < start + size for v in registers)
        assert ours <= set(hits[top])
        assert not any(holds_nothing(found, a, top) for a in ours)


def points(found: Reach, above: int, below: int) -> bool:
    """Whether a word of one object points into another, as memory says."""
    pair = np.array([above, below], np.int64)
    first, second = found.nodes.addresses(pair).tolist()
    length, target = found.nodes.bytes(pair).tolist()
    words = np.frombuffer(found.view.host.read(first, length & ~7), "<u8")
    if ((words >= np.uint64(second)) & (words < np.uint64(second + target))).any():
        return True
    # By the struct page of one of a block's pages, or from page to page through struct pages.
    if found.nodes.kind(below) is not NodeKind.PAGES:
        return False
    block = found.nodes.blocks
    page = np.uint64(block.first[below - found.nodes.first_block])
    (at,) = found.view.memory.maps_of(np.array([page], np.uint64)).tolist()
    size = found.view.memory.page_size
    if found.nodes.kind(above) is NodeKind.PAGES:
        own = np.uint64(block.first[above - found.nodes.first_block])
        (mine,) = found.view.memory.maps_of(np.array([own], np.uint64)).tolist()
        words = np.append(words, np.frombuffer(found.view.host.read(mine, size), "<u8"))
        if ((words >= np.uint64(second)) & (words < np.uint64(second + target))).any():
            return True
    end = at + size * int(block.pages[below - found.nodes.first_block])
    return bool(((words >= np.uint64(at)) & (words < np.uint64(end))).any())
