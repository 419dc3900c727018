"""A distribution under load: nobody in it is accused, and the leaks in it are found.

Building it takes minutes, so it is built only when $CRASHEXT_BUSY asks (`make test-busy`); where
it is there already, its tests run. The truth is the lab's, and drgn's for what is allocated.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crashext.analysis.likeness.survey import generator
from crashext.analysis.reach.reachability import Class, Reach, reach
from crashext.analysis.reach.selfcheck import misgivings
from crashext.analysis.settings import Settings
from crashext.progress import silent
from tests.conftest import few, lab_dump, lab_view, on, run
from tests.kernel.oracle import allocated_by_drgn, drgn_program
from tests.kernel.walked import allocated_addresses
from tests.lab import read_addresses

SETTINGS = Settings(250_000, 0, 0.7, "hamming", 1)
BOTH = ("busy", "busy-leaks")
LOST = ("nodes", "private", "tasks", "chain")
RECALL = 0.98


@few
def marked(name: str) -> Reach:
    return reach(lab_view(name), silent, lambda c: generator(SETTINGS, c))


@cache
def overview(name: str) -> dict[str, Any]:
    ran = run("leakscan", *on(name), "--json")
    assert ran.status == 0, ran.err
    return ran.document


@cache
def census(name: str) -> dict[str, Any]:
    ran = run("leakscan", *on(name), "--orphans", "--json")
    assert ran.status == 0, ran.err
    return ran.document


def addresses(name: str, part: str) -> NDArray[np.uint64]:
    return np.array(read_addresses(lab_dump(name).addresses(part)), np.uint64)


@pytest.mark.parametrize("name", BOTH)
def test_the_guest_is_busy(name: str) -> None:
    """Many subsystems, many processes, many objects: else the other tests say little."""
    proc = lab_dump(name).proc
    modules = {line.split()[0] for line in (proc / "modules").read_text().splitlines()}
    assert len(modules) >= 60
    assert {
        "xfs",
        "btrfs",
        "overlay",
        "nfsd",
        "vxlan",
        "wireguard",
        "drbd",
        "dm_thin_pool",
    } <= modules
    mounts = {line.split()[2] for line in (proc / "mounts").read_text().splitlines()}
    assert {"xfs", "btrfs", "ext4", "overlay", "nfs4", "vfat", "tmpfs"} <= mounts
    commands = {path.read_text().strip() for path in proc.glob("[0-9]*/comm")}
    assert {"systemd", "postgres", "nginx", "systemd-nspawn", "stress-ng"} <= commands
    assert lab_view(name).index.complete


@pytest.mark.parametrize("name", BOTH)
def test_allocated_objects_are_drgns_in_every_cache(name: str) -> None:
    view, checked, caches = lab_view(name), 0, 0
    for theirs, expected in allocated_by_drgn(drgn_program(name)):
        cache = next(c for c in view.caches.all if c.address == theirs.value_())
        assert allocated_addresses(view, cache) == expected, cache.name
        checked, caches = checked + len(expected), caches + 1
    assert caches == len(view.caches.all) > 200
    assert checked > 200_000


@pytest.mark.parametrize("name", BOTH)
def test_the_mark_believes_itself(name: str) -> None:
    assert misgivings(marked(name)) == ()


@pytest.mark.parametrize("name", ["busy"])
def test_a_busy_guest_that_loses_nothing_is_healthy(name: str) -> None:
    document = overview(name)
    assert [v["class"] for v in document["verdicts"]] == ["healthy"]
    assert not [g for g in census(name)["orphans"] if not g["explanation"]]


@pytest.mark.parametrize("name", ["busy-leaks"])
@pytest.mark.parametrize("part", LOST)
def test_what_was_lost_is_unreachable(name: str, part: str) -> None:
    found = marked(name)
    classes = found.classes(found.table.at(addresses(name, part)))
    assert (classes != Class.NOT_JUDGED).all()
    assert np.isin(classes, (Class.ORPHAN, Class.STRUCTURE)).mean() >= RECALL


@pytest.mark.parametrize("name", ["busy-leaks"])
def test_what_is_in_use_is_held(name: str) -> None:
    found = marked(name)
    classes = found.classes(found.table.at(addresses(name, "living")))
    assert (classes == Class.HELD).all()


@pytest.mark.parametrize("name", BOTH)
def test_nobody_innocent_is_unreachable(name: str) -> None:
    """But for what hangs below leaked tasks, six objects each, and what has an explanation."""
    found, truth = marked(name), lab_dump(name).truth()["parts"]
    guilty = [addresses(name, p) for p in truth if p in LOST]
    known = found.table.at(np.concatenate([np.zeros(0, np.uint64), *guilty]))
    others = len(np.setdiff1d(found.unreachable(), known))
    explained = sum(g["objects"] for g in census(name)["orphans"] if g["explanation"])
    assert others - explained <= 6 * truth.get("tasks", {"count": 0})["count"]


@pytest.mark.parametrize("name", ["busy-leaks"])
def test_the_verdicts_name_what_was_lost(name: str) -> None:
    truth = lab_dump(name).truth()["parts"]
    leaks = [v for v in overview(name)["verdicts"] if v["class"] == "leak"]
    slab = {v["culprit"]["cache"] for v in leaks if v["where"] == "slab"}
    assert slab == {truth[p]["cache"] for p in LOST}
    for verdict in leaks:
        # Lost tasks are the kernel's own to allocate: nothing in them is of the module.
        own = verdict["culprit"]["cache"] == "task_struct"
        assert verdict["culprit"]["module"] == ("" if own else "leaklab"), verdict


@pytest.mark.parametrize("name", ["busy-leaks"])
@pytest.mark.parametrize("where", ["vmalloc", "pages"])
def test_all_of_the_memory_outside_slabs_is_found(name: str, where: str) -> None:
    truth = lab_dump(name).truth()["parts"]
    (found,) = [v for v in overview(name)["verdicts"] if v["where"] == where]
    if where == "vmalloc":
        lost = truth["vmalloc"]["count"] * truth["vmalloc"]["size"]
    else:
        lost = sum(truth[f"pages{order}"]["count"] * (4096 << order) for order in range(4))
    assert RECALL * lost <= found["bytes"] <= lost
