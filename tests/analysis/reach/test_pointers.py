"""Where the pointers to objects are, beside what the kernel's own types say of its members."""

from __future__ import annotations

import numpy as np

from crashext.analysis.reach.pointers import pointers
from crashext.analysis.results.evidence import Pointer
from crashext.kernel.slab.objects import State
from tests.end_to_end.guests import marked


def _of(name: str) -> tuple[Pointer, ...]:
    """Those to the objects of a cache."""
    reach = marked("default")
    cache = reach.view.caches.find(name)
    assert cache is not None
    slots = np.arange(reach.table.count)
    mine = reach.table.caches(slots) == reach.view.caches.index(cache)
    return pointers(reach, slots[mine & (reach.table.state == State.ALLOCATED)])


def test_a_task_points_at_its_signals() -> None:
    task = marked("default").view.host.layout("struct task_struct")
    assert task is not None
    places = {(p.holder, p.offset, p.inside): p for p in _of("signal_cache")}
    found = places["task_struct", task["signal"].offset, 0]
    assert found.objects > 0.9 * found.of > 10
    assert not found.own
    assert not found.others


def test_objects_of_one_cache_point_at_each_other() -> None:
    entry = marked("default").view.host.layout("struct dentry")
    assert entry is not None
    parent = {(p.offset, p.inside): p for p in _of("dentry") if p.own}
    assert (entry["d_parent"].offset, 0) in parent


def test_a_member_that_may_hold_anything_is_told() -> None:
    """What kernfs nodes are for is known to whoever made them alone."""
    node = marked("default").view.host.layout("struct kernfs_node")
    assert node is not None
    found = [p for p in _of("kmalloc-2k") if p.holder == "kernfs_node_cache"]
    assert [p.others for p in found if p.offset == node["priv"].offset] == [True]


def test_what_the_holders_have_in_common_is_told() -> None:
    """A task of the usual kind is scheduled by the fair class."""
    reach = marked("default")
    fair = reach.view.host.address_of("fair_sched_class")
    found = [p for p in _of("signal_cache") if p.holder == "task_struct" and p.symbols]
    assert fair is not None
    assert fair in found[0].symbols


def test_nothing_points_at_nothing() -> None:
    assert pointers(marked("default"), np.zeros(0, np.int64)) == ()
