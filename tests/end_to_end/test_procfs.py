"""`leakscan --procfs` as a user runs it: on the lab guests' proc files, on excerpts, on /proc."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conftest import lab_dump, run
from tests.procfs.test_kmemleak import GUEST, OLD
from tests.procfs.test_pageowner import ALLOC_CALLS, DRIVER, MOVABLE, SLAB
from tests.procfs.test_vmallocinfo import GIGABYTE


def proc(name: str) -> Path:
    return lab_dump(name).folder / "proc"


@pytest.mark.parametrize("name", ["vmalloc", "default"])
def test_a_module_that_leaks_areas_is_named_with_pages_and_share(name: str) -> None:
    ran = run("leakscan", "-v", "--procfs", proc(name))
    assert (ran.status, ran.err) == (0, "")
    part = lab_dump(name).truth()["parts"]["vmalloc"]
    pages = part["count"] * part["size"] // 4096
    document = run("leakscan", "--procfs", proc(name), "--json").document
    total = sum(c["pages"] for c in document["vmalloc"])
    row = next(line.split() for line in ran.out.splitlines() if "leaklab_leak_vmallocs+" in line)
    assert row[1] == "[leaklab]"
    assert row[2:4] == [f"{part['count']:,}", f"{pages:,}"]
    assert row[-2] == f"{100 * pages / total:.1f}"
    first = document["vmalloc"][0]
    assert (first["module"], first["pages"]) == ("leaklab", pages)


def test_memory_adds_up_in_the_document() -> None:
    document = run("leakscan", "--procfs", proc("pages"), "--json").document
    memory = document["facts"]["split"]
    assert sum(p["bytes"] for p in memory["parts"]) + memory["unaccounted"] == memory["total"]
    assert memory["unaccounted"] > 60 << 20
    assert document["meminfo"]["sizes"]["MemTotal"] == memory["total"]
    out = run("leakscan", "-v", "--procfs", proc("pages")).out
    assert " unaccounted " in out


def test_growth_between_folders() -> None:
    ran = run("leakscan", "-v", "--procfs", proc("healthy"), "--procfs", proc("nodes"))
    rows = [line.split() for line in ran.out.splitlines()]
    start = next(i for i, row in enumerate(rows) if row[:1] == ["Growth"])
    table = {row[0]: row for row in rows[start:] if len(row) > 3 and row[1].startswith("+")}
    assert int(table["kmalloc-32"][1].replace(",", "")) == pytest.approx(200_000, rel=0.01)
    assert "DirectMap" not in ran.out  # nobody's memory


def test_one_saved_line_will_do(tmp_path: Path) -> None:
    (tmp_path / "vmallocinfo").write_text(GIGABYTE)
    out = run("leakscan", "-v", "--procfs", tmp_path).out
    (row,) = [line for line in out.splitlines() if "kmem_alloc+" in line]
    assert " ".join(row.split()) == "kmem_alloc+0x13/0x30 [kmem_test] 1 262,144 1.0 GiB 100 %"
    assert "no meminfo here" in out


def test_excerpts_of_debug_files(tmp_path: Path, schema: Any) -> None:
    debug = tmp_path / "sys/kernel/debug"
    (debug / "slab/kmalloc-512").mkdir(parents=True)
    (debug / "kmemleak").write_text(GUEST + OLD)
    (debug / "page_owner").write_text(DRIVER * 3 + SLAB + MOVABLE)
    (debug / "slab/kmalloc-512/alloc_traces").write_text("\n".join(ALLOC_CALLS))
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/allocinfo").write_text("4096 1 mm/slub.c:7 [my_driver] func:my_alloc\n")
    ran = run("leakscan", "-v", "--procfs", tmp_path)
    assert ran.status == 0
    for said in (
        "kmemleak: 4 unreferenced objects, 96 bytes, 2 call stacks",
        "leaklab_leak_nodes+0x57/0x110 [leaklab]",
        "page_owner: 15 pages; 12 of them",
        "my_ring_alloc+0x31/0xa0 [my_driver], insmod (pid 812)",
        "kmalloc-512  18,000  alloc_fair_sched_group+0xec/0x1e0",
        "my_alloc [my_driver] mm/slub.c:7",
    ):
        assert said in ran.out
    document = run("leakscan", "--procfs", tmp_path, "--json").document
    jsonschema.validate(document, schema)
    assert [g["kind"] for g in document["page_owner"]["groups"]] == ["kernel", "slab", "movable"]
    assert document["kmemleak"]["groups"][0]["module"] == "leaklab"
    assert document["traces"].keys() == {"kmalloc-512"}
    assert document["meminfo"] is None


def test_this_machine(schema: Any) -> None:
    jsonschema.validate(run("leakscan", "--procfs", "/proc", "--json").document, schema)
    ran = run("leakscan", "-v", "--procfs", "/proc")
    assert ran.status == 0
    assert "running machine /proc" in ran.out
    assert "Processes, " in ran.out


def test_damage_is_said_in_the_report(tmp_path: Path) -> None:
    text = (proc("default") / "slabinfo").read_text().splitlines()
    text[5] = text[5][:30]
    text[9] = "\x1b[2J" + text[9].replace(":", "!")
    (tmp_path / "slabinfo").write_text("\n".join(text))
    out = run("leakscan", "-v", "--procfs", tmp_path).out
    assert "skipped: 2 damaged lines of slabinfo" in out
    assert "\x1b" not in out


def test_hostile_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    evil = "EVIL\x1b[2J\x07\x9b6n\u202e[bold]"
    (tmp_path / "slabinfo").write_text(
        f"{evil} 1 1 64 64 1 : tunables 0 0 0 : slabdata 1 1 0\n", encoding="utf-8"
    )
    (tmp_path / "vmallocinfo").write_text(f"0x1000-0x3000 8192 {evil} pages=1 vmalloc N0=1\n")
    (tmp_path / "kmemleak").write_text(GUEST.replace('leaklab",', f'{evil}",', 1))
    (tmp_path / "page_owner").write_text(DRIVER.replace("insmod", evil))
    (tmp_path / "status").write_text(f"Name:\t{evil}\nPid:\t1\nVmRSS:\t4 kB\n")
    out = run("leakscan", "--procfs", tmp_path, "-v").out
    assert out.count("EVIL") >= 4
    assert all(c == "\n" or " " <= c <= "~" for c in out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--procfs", "{}"], "has none of the files"),
        (["--procfs", "{}/nowhere"], "No such file"),
        (["--procfs", "/proc", "kmalloc-32"], "leave out CACHE"),
        (["--procfs", "/proc", "-k"], "no dump"),
        (["--procfs", "/proc", "--record", "{}/x"], "cannot be recorded"),
        ([], "say where memory is"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    ran = run("leakscan", *(a.format(tmp_path) for a in arguments))
    assert (ran.status, ran.out) == (2, "")
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_files_that_say_nothing_are_bad_input(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("nothing of the kind\n")
    ran = run("leakscan", "-v", "--procfs", tmp_path)
    assert ran.status == 2
    assert "reads as a proc file" in ran.err
