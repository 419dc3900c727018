"""What grew between folders: the lab's guests in a row, and made-up moments."""

from __future__ import annotations

from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from crashext.analysis.memory.boots import another_boot
from crashext.analysis.memory.growth import Growth, elapsed
from crashext.analysis.proc import read_snapshot, report
from crashext.analysis.proc_facts import proc_facts
from crashext.analysis.verdict.rules import judge
from crashext.procfs.folder import Moment, ProcFolder
from crashext.procfs.saved import Saved, saved
from crashext.report.brief_text import growth_sentence
from crashext.report.growth_text import print_growth
from tests.conftest import lab_dump

from .test_memsplit import overview


def test_leaks_of_a_guest_against_a_healthy_one() -> None:
    """Not one machine at two times, but the same kernel: what differs is what was leaked."""
    growth = overview("healthy", "default").growth
    assert growth is not None
    parts = lab_dump("default").truth()["parts"]
    caches = {c.name: c for c in growth.caches}
    nodes = caches["kmalloc-32"]
    assert nodes.active_objs is not None
    assert nodes.slabs is not None
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


def grown(*folders: ProcFolder | Saved) -> Growth:
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


@pytest.mark.parametrize(
    ("first", "last", "exact", "other"),
    [
        (Moment(10_000, 351, None), Moment(11_500, 324, None), True, True),
        (Moment(10_000, 351, None), Moment(11_500, 324, None), False, True),
        (Moment(10_000, 350, None), Moment(11_500, 1_850, None), True, False),
        (Moment(10_000, 350, None), Moment(11_500, 1_750, None), True, False),  # a clock step
        (Moment(11_500, 1_850, None), Moment(10_000, 350, None), True, False),  # the wrong order
        (Moment(10_000, 350, None), Moment(17_200, 3_950, None), False, False),  # summer begins
        (Moment(10_000, 350, None), Moment(17_200, 3_950, None), True, True),
        (Moment(10_000, 351, None), Moment(10_000 + 86_400 * 9, 9_999, None), False, True),
        (Moment(None, 351, None), Moment(11_500, 324, None), False, True),
        (Moment(None, 351, None), Moment(11_500, 352, None), False, False),
        (Moment(10_000, None, None), Moment(11_500, 324, None), True, False),
    ],
)
def test_a_kernel_that_booted_later_is_another_boot(
    first: Moment, last: Moment, exact: bool, other: bool
) -> None:
    assert bool(another_boot([(first, exact), (last, exact)])) == other
    assert bool(another_boot([(first, exact), (last, exact), (last, exact)])) == other


def test_what_grew_since_another_boot_has_no_rate(tmp_path: Path) -> None:
    for hour, objects, up in ((7, 64, 351), (9, 640_000, 324)):
        place = tmp_path / str(hour)
        folder(
            place, [("leak", objects, objects, objects // 64)], f"Sat Nov 21 0{hour}:00:00 UTC 2026"
        )
        (place / "uptime").write_text(f"{up}.00 1.00\n")
    growth = grown(*(ProcFolder(tmp_path / str(i)) for i in (7, 9)))
    assert (growth.seconds, growth.clock, growth.backwards) == (None, "", False)
    (leak,) = growth.caches
    assert (leak.bytes > 0, leak.bytes_per_hour, growth.per_hour(leak.bytes)) == (True, None, None)
    console = Console(width=400, record=True, file=StringIO())
    print_growth(growth, console, False)
    printed = console.export_text()
    assert "not the same boot: booted 2026-11-21 06:54:09, then 2026-11-21 08:54:36" in printed
    assert "2 hours" not in printed
    assert "not the same boot" in growth_sentence(growth)


def slabtop(
    path: Path, rows: list[tuple[str, int]], caches: int, total: int = 1 << 20, unlisted: int = 0
) -> Saved:
    """Slabs of 4 KiB; the machine has `caches`, and `unlisted` slabs in those that are missing."""
    path.mkdir()
    text = " Active / Total Objects (% used)    : 640 / 640 (100.0%)\n"
    text += f" Active / Total Caches (% used)     : {caches} / {caches} (100.0%)\n\n"
    text += "  OBJS ACTIVE  USE OBJ SIZE  SLABS OBJ/SLAB CACHE SIZE NAME\n"
    for name, slabs in rows:
        objects = slabs * 64
        text += f"{objects} {objects} 100%    0.06K {slabs} 64 {slabs * 4}K {name}\n"
    (path / "slabtop").write_text(text)
    size = sum(slabs * 4 for _, slabs in rows) + unlisted * 4
    counters = {"MemTotal": total, "MemFree": total - size, "AnonPages": 0, "Slab": size}
    counters |= {"SReclaimable": 0, "SUnreclaim": size}
    (path / "meminfo").write_text("".join(f"{n}: {v} kB\n" for n, v in counters.items()))
    return saved(path)[-1]


def test_a_list_that_is_not_whole_does_not_say_that_a_cache_is_new(tmp_path: Path) -> None:
    first = slabtop(tmp_path / "a", [("grows", 100), ("falls", 90)], 129)
    last = slabtop(tmp_path / "b", [("grows", 300), ("enters", 200)], 129)
    growth = grown(first, last)
    (change,) = growth.caches
    assert (change.name, change.slabs, change.bytes) == ("grows", 200, 200 * 4096)
    assert growth.unlisted == ("enters", "falls")
    assert growth.machines is None
    whole = grown(
        slabtop(tmp_path / "c", [("grows", 100), ("falls", 90)], 2),
        slabtop(tmp_path / "d", [("grows", 300), ("enters", 200)], 2),
    )
    assert {c.name for c in whole.caches} == {"grows", "falls", "enters"}
    assert whole.unlisted == ()


def test_of_a_family_only_the_caches_that_both_list_are_compared(tmp_path: Path) -> None:
    first = slabtop(tmp_path / "a", [("kmalloc-1024", 100)], 129)
    names = [("kmalloc-1k", 150), ("kmalloc-cg-1k", 700), ("size-1024", 0)]
    (change,) = grown(first, slabtop(tmp_path / "b", names, 3)).caches
    assert (change.name, change.slabs) == ("kmalloc-1k", 50)


def test_two_machines_are_not_one_that_grows(tmp_path: Path) -> None:
    first = slabtop(tmp_path / "a", [("grows", 100)], 1)
    alike = slabtop(tmp_path / "b", [("grows", 9000)], 1, round(1.02 * (1 << 20)))
    other = slabtop(tmp_path / "c", [("grows", 9000)], 1, 4 << 20)
    same, differ = (report([read_snapshot(first), read_snapshot(b)]) for b in (alike, other))
    assert same.growth is not None
    assert differ.growth is not None
    assert same.growth.judged
    assert not differ.growth.judged
    assert differ.growth.machines == (1 << 30, 4 << 30)
    assert any("held-growth" in v.kind for v in judge(proc_facts(same)))
    assert not any("grow" in v.says or "growth" in v.kind for v in judge(proc_facts(differ)))


def test_a_cache_that_the_first_list_lacks_is_not_said_to_have_stood_still(tmp_path: Path) -> None:
    first = slabtop(tmp_path / "a", [("small", 10)], 129, unlisted=200_000)
    last = slabtop(tmp_path / "b", [("large", 200_000), ("small", 10)], 129)
    (found,) = judge(proc_facts(report([read_snapshot(first), read_snapshot(last)])))
    assert (found.kind, found.culprit.cache) == ("cannot-tell", "large")
    assert "whether large grew is not known: not every moment lists it" in found.against
    assert "--live 60" in found.next
