"""What grew between folders: the lab's guests in a row, and made-up moments."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from crashext.analysis.memory.growth import Growth, elapsed
from crashext.analysis.proc import read_snapshot, report
from crashext.procfs.folder import Moment, ProcFolder
from tests.conftest import lab_dump

from .test_memsplit import overview


def test_leaks_of_a_guest_against_a_healthy_one() -> None:
    """Not one machine at two times, but the same kernel: what differs is what was leaked."""
    growth = overview("healthy", "default").growth
    assert growth is not None
    parts = lab_dump("default").truth()["parts"]
    caches = {c.name: c for c in growth.caches}
    nodes = caches["kmalloc-32"]
    assert nodes.active_objs == pytest.approx(parts["nodes"]["count"], abs=6_000)  # 5,000 live
    assert nodes.bytes == nodes.slabs * 4096 == pytest.approx(nodes.active_objs * 32, rel=0.02)
    assert not nodes.fragmenting
    assert growth.caches[0] == nodes
    private = caches["leaklab_obj"]
    assert private.active_objs == parts["private"]["count"]
    assert private.use[0] == 1.0  # there was none
    (areas,) = [c for c in growth.vmalloc if c.module == "leaklab"]
    assert (areas.areas, areas.bytes) == (parts["vmalloc"]["count"], 64 * 65_536)
    assert all(a.bytes >= b.bytes for a, b in pairwise(growth.caches))
    lines = {m.name: m for m in growth.meminfo}
    assert lines["SUnreclaim"].bytes > nodes.bytes + private.bytes
    assert lines["MemFree"].bytes < 0


def folder(path: Path, rows: list[tuple[str, int, int, int]], date: str = "") -> ProcFolder:
    path.mkdir()
    text = "slabinfo - version: 2.1\n"
    for name, active, total, slabs in rows:
        text += f"{name} {active} {total} 64 64 1 : tunables 0 0 0 : slabdata {slabs} {slabs} 0\n"
    (path / "slabinfo").write_text(text)
    if date:
        (path / "date").write_text(date + "\n")
    return ProcFolder(path)


def grown(*folders: ProcFolder) -> Growth:
    found = report([read_snapshot(f) for f in folders]).growth
    assert found is not None
    return found


def test_slabs_with_falling_use_are_fragmentation(tmp_path: Path) -> None:
    before = [("holes", 6400, 6400, 100), ("leak", 6400, 6400, 100), ("gone", 64, 64, 1)]
    after = [("holes", 6000, 19200, 300), ("leak", 19000, 19200, 300), ("new", 64, 64, 1)]
    growth = grown(
        folder(tmp_path / "1", before, "Sat Nov 21 07:00:00 UTC 2026"),
        folder(tmp_path / "2", after, "Sat Nov 21 09:00:00 UTC 2026"),
    )
    caches = {c.name: c for c in growth.caches}
    assert {n: c.fragmenting for n, c in caches.items()} == {
        "holes": True,
        "leak": False,
        "new": False,
        "gone": False,
    }
    assert caches["holes"].use == (1.0, 6000 / 19200)
    assert caches["gone"].bytes == -4096
    assert growth.clock == "date"
    assert growth.seconds == 7200
    assert growth.per_hour(caches["leak"].bytes) == 100 * 4096


def test_kmalloc_under_two_names_is_one_cache(tmp_path: Path) -> None:
    growth = grown(
        folder(tmp_path / "1", [("kmalloc-1024", 64, 64, 1), ("kmalloc-64", 64, 64, 1)]),
        folder(tmp_path / "2", [("kmalloc-1k", 128, 128, 2), ("kmalloc-cg-64", 64, 64, 1)]),
    )
    assert [(c.name, c.active_objs) for c in growth.caches] == [("kmalloc-1k", 64)]


def test_folders_the_wrong_way_round(tmp_path: Path) -> None:
    late = folder(tmp_path / "1", [("a", 1, 1, 1)], "Sat Nov 21 09:00:00 UTC 2026")
    early = folder(tmp_path / "2", [("a", 1, 1, 1)], "Sat Nov 21 07:00:00 UTC 2026")
    assert grown(late, early).backwards
    assert not grown(early, late).backwards


def test_steps(tmp_path: Path) -> None:
    sizes = (1, 3, 2, 5)
    rows = [
        [("up", 64 * (i + 1), 64 * (i + 1), i + 1), ("saw", 64 * n, 64 * n, n)]
        for i, n in enumerate(sizes)
    ]
    growth = grown(*(folder(tmp_path / str(i), r) for i, r in enumerate(rows)))
    caches = {c.name: c for c in growth.caches}
    assert caches["saw"].steps == tuple(n * 4096 for n in sizes)
    assert (caches["up"].steady, caches["saw"].steady) == (True, False)


def test_the_best_clock_that_runs_forwards() -> None:
    assert elapsed([Moment(100, 10, 5), Moment(460, 20, 6)]) == (360, "date")
    assert elapsed([Moment(None, 10, 5), Moment(460, 20, 6)]) == (10, "uptime")
    assert elapsed([Moment(460, 20, 5), Moment(100, 10, 15)]) == (10, "file times")  # restarted
    assert elapsed([Moment(1, None, 5), Moment(1, None, 5)]) == (None, "")
    assert elapsed([Moment(None, None, None)] * 3) == (None, "")
