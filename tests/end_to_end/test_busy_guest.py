"""A distribution under load: nobody in it is accused, and the leaks in it are found.

Building it takes minutes, so it is built only when $CRASHEXT_BUSY asks (`make test-busy`); where
it is there already, its tests run. The truth is the lab's, and drgn's for what is allocated.
"""

from __future__ import annotations

import pytest

from crashext.analysis.reach.reachability import Class
from crashext.analysis.reach.selfcheck import misgivings
from tests.conftest import lab_dump, lab_view
from tests.end_to_end.guests import (
    LOST,
    RECALL,
    census,
    classes,
    compared_with_drgn,
    lost_share,
    marked,
    overview,
    unexplained,
)

BOTH = ("busy", "busy-leaks")


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
    caches, objects = compared_with_drgn(name)
    assert caches > 200
    assert objects > 200_000


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
    assert lost_share(name, part) >= RECALL


@pytest.mark.parametrize("name", ["busy-leaks"])
def test_what_is_in_use_is_held(name: str) -> None:
    assert (classes(name, "living") == Class.HELD).all()


@pytest.mark.parametrize("name", BOTH)
def test_nobody_innocent_is_unreachable(name: str) -> None:
    """But for what hangs below leaked tasks, six objects each, and what has an explanation."""
    assert unexplained(name) == 0


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
