"""What fits into a budget of memory is judged whole."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.analysis.reach import reachability, sampling
from crashext.analysis.reach.group_reach import reachability_of
from crashext.analysis.reach.holders import Holders
from crashext.analysis.reach.reachability import Class
from crashext.analysis.reach.sampling import Plan
from crashext.store import FileStore, NoRoom
from tests.kernel.whole import Kernel, class_of

OBJECTS = 16 * 128


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes of budget a slot, and eight more where it is lost."""
    for name, value in (("_BASE_BYTES", 0), ("_AREA_BYTES", 0), ("_CACHE_BYTES", 0)):
        monkeypatch.setattr(sampling, name, value)
    monkeypatch.setattr(sampling, "_SLOT_BYTES", 1 << 10)
    monkeypatch.setattr(sampling, "_LOST_BYTES", 8 << 10)
    monkeypatch.setattr(sampling, "_TARGETS", 200)


def filled(held: bool) -> tuple[Kernel, list[int]]:
    kernel = Kernel()
    objects = [kernel.object("kmalloc-32", 7) for _ in range(OBJECTS)]
    pages = [kernel.page() for _ in range(OBJECTS // 512)]
    for i, page in enumerate(pages):
        kernel.write(page, *(objects[i * 512 : i * 512 + 512] if held else ()))
    kernel.variable("lists", *pages)
    return kernel, objects


def test_a_cache_that_is_in_use_is_judged_whole() -> None:
    kernel, objects = filled(held=True)
    marked = kernel.marked(4 << 20)
    assert not marked.giants
    assert set(class_of(marked, *objects)) == {1}


def test_one_of_which_too_much_is_lost_is_judged_once_more_by_a_sample() -> None:
    kernel, _ = filled(held=False)
    marked = kernel.marked(4 << 20)
    assert [marked.view.caches.all[i].name for i in marked.giants] == ["kmalloc-32"]
    assert 200 <= len(marked.unreachable()) < OBJECTS
    assert not kernel.marked(64 << 20).giants


def test_areas_and_caches_take_room_too(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, _ = filled(held=True)
    whole = kernel.marked(64 << 20).whole
    assert not Plan(whole, 4 << 20, areas=0, caches=0).giants()
    monkeypatch.setattr(sampling, "_AREA_BYTES", 1 << 20)
    assert Plan(whole, 4 << 20, areas=4, caches=0).giants()
    assert Plan(whole, 4 << 20, areas=0, caches=0).giants(np.full(99, 1 << 20))


def test_what_memory_has_no_room_for_is_judged_whole_in_files() -> None:
    kernel, objects = filled(held=True)
    lost = [kernel.object("kmalloc-32", 7) for _ in range(3)]
    for i in range(0, OBJECTS - 1, 2):
        kernel.write(objects[i] + 8, objects[i + 1])
    in_memory = kernel.marked(64 << 20)
    assert not in_memory.table.store.on_disk
    on_disk = kernel.marked(1 << 20)
    assert on_disk.table.store.on_disk
    assert not on_disk.giants
    for name in ("source", "target", "root_at", "root_target"):
        ours, theirs = (getattr(m.references, name) for m in (on_disk, in_memory))
        assert (ours == theirs).all()
    assert (on_disk.marks.via == in_memory.marks.via).all()
    assert (on_disk.unreachable() == in_memory.unreachable()).all()
    assert class_of(on_disk, *lost) == [Class.ORPHAN] * 3
    some = np.arange(on_disk.table.count)
    starts = [Holders(m).starts_of(some) for m in (on_disk, in_memory)]
    assert (starts[0] == starts[1]).all()

    # What is mostly lost would not fit all the same: it is not tried.
    kernel, _ = filled(held=False)
    sampled = kernel.marked(1 << 20)
    assert sampled.giants
    assert not sampled.table.store.on_disk


@pytest.mark.parametrize("files", range(6))
def test_a_disk_that_is_full_leaves_a_sample(files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whatever moment it is."""
    kernel, _ = filled(held=True)
    made, write = [], FileStore.file

    def full(store: FileStore) -> int:
        made.append(store)
        if len(made) > files:
            raise NoRoom("No space left on device")
        return write(store)

    monkeypatch.setattr(FileStore, "file", full)
    marked = kernel.marked(1 << 20)
    assert marked.giants
    assert not marked.table.store.on_disk
    monkeypatch.setattr(reachability, "free", lambda folder: 0)
    marked = kernel.marked(1 << 20)
    assert marked.giants
    assert marked.short
    assert any("of disk to" in note for note in reachability_of(marked).notes)


@pytest.mark.parametrize(
    ("budget", "giants", "targets"),
    [(500, 1, 1 << 15), (500, 10, 1 << 15), (500, 400, 1 << 13), (64, 1, 1 << 13)],
)
def test_few_sampled_caches_have_more_objects_each_and_many_stay_within_the_budget(
    monkeypatch: pytest.MonkeyPatch, budget: int, giants: int, targets: int
) -> None:
    monkeypatch.undo()
    kernel, _ = filled(held=True)
    plan = Plan(kernel.marked(64 << 20).whole, budget << 20, areas=0, caches=0)
    assert plan.targets(giants) == targets
