"""`leakscan --before OLD`: one guest, dumped with 20,000 leaked nodes and again with 100,000."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from crashext.hosts.drgn import open_core
from crashext.kernel.counters.clock import uptime, wall_clock
from tests.conftest import lab_dump, run

GREW = 80_000


@cache
def now() -> tuple[object, ...]:
    dump = lab_dump("growth")
    return ("-c", dump.vmcore, "-s", dump.vmlinux)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The earlier moment in every form."""
    folder = tmp_path_factory.mktemp("before")
    earlier = lab_dump("growth").before
    session, report, proc = (folder / n for n in ("old.session", "old.json", "proc.json"))
    dump = ("-c", earlier.vmcore, "-s", earlier.vmlinux)
    report.write_text(run("leakscan", *dump, "--record", session, "--json").out)
    proc.write_text(run("leakscan", "--procfs", earlier.proc, "--json").out)
    return {
        "dump": earlier.vmcore,
        "session": session,
        "report": report,
        "proc": earlier.proc,
        "report of proc": proc,
    }


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The later moment's session: it replays in a second."""
    session = tmp_path_factory.mktemp("later") / "new.session"
    assert run("leakscan", *now(), "--record", session).status == 0
    return session


def nodes(document: dict[str, Any]) -> dict[str, Any]:
    (found,) = [c for c in document["facts"]["growth"]["caches"] if c["name"] == "kmalloc-32"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("form", ["dump", "session", "report", "proc", "report of proc"])
def test_what_grew_since_an_earlier_moment_of_any_kind(
    old: dict[str, Path], later: Path, form: str, schema: Any
) -> None:
    document = run(
        "leakscan", "-r", later, "-s", lab_dump("growth").vmlinux, "--before", old[form], "--json"
    ).document
    jsonschema.validate(document, schema)
    grown = nodes(document)
    # /proc counts the objects on CPUs' lists as allocated: some hundreds.
    exact = "proc" not in form
    assert grown["active_objs"] == pytest.approx(GREW, abs=8 if exact else 600)
    assert grown["slabs"] == pytest.approx(GREW / 128, abs=8)
    assert grown["bytes"] == grown["slabs"] * 4096
    assert (grown["fragmenting"], document["facts"]["growth"]["alike"]) == (False, exact)
    assert document["facts"]["growth"]["caches"][0] == grown
    seconds = document["facts"]["growth"]["seconds"]
    assert 15 < seconds < 120
    assert grown["bytes_per_hour"] == pytest.approx(grown["bytes"] * 3600 / seconds)
    verdict = document["verdict"]
    assert (verdict["class"], verdict["culprit"]["cache"]) == ("leak", "kmalloc-32")
    assert any("grew by" in t and " seconds" in t and "per hour" not in t for t in verdict["for"])
    assert len(document["verdicts"]) == 1


def test_a_dump_against_a_dump(old: dict[str, Path]) -> None:
    ran = run("leakscan", "-v", *now(), "--before", old["dump"])
    assert (ran.status, ran.err) == (0, "")
    assert "  for:     kmalloc-32 grew by 79,9" in ran.out or "grew by 80,0" in ran.out
    rows = [line.split() for line in ran.out.splitlines()]
    start = next(i for i, row in enumerate(rows) if row[:1] == ["Growth"])
    assert next(r for r in rows[start:] if r[:1] == ["kmalloc-32"])[2].startswith("+6")


@pytest.mark.parametrize("form", ["proc", "report", "report of proc"])
def test_proc_files_against_an_earlier_moment(old: dict[str, Path], form: str, schema: Any) -> None:
    proc = lab_dump("growth").proc
    document = run("leakscan", "--procfs", proc, "--before", old[form], "--json").document
    jsonschema.validate(document, schema)
    assert nodes(document)["active_objs"] == pytest.approx(GREW, abs=600)
    verdict = document["verdict"]
    assert (verdict["class"], verdict["where"], verdict["confidence"]) == (
        "held-growth",
        "slab",
        "low",
    )
    assert verdict["culprit"]["cache"] == "kmalloc-32"
    assert any("only a vmcore" in t for t in verdict["against"])


def test_two_proc_folders_are_the_same_as_before(old: dict[str, Path]) -> None:
    proc = lab_dump("growth").proc
    two = run("leakscan", "--procfs", old["proc"], "--procfs", proc, "--json").document
    one = run("leakscan", "--procfs", proc, "--before", old["proc"], "--json").document
    assert two["facts"]["growth"] == one["facts"]["growth"]
    assert two["verdicts"] == one["verdicts"]


def test_what_did_not_grow_speaks_against(later: Path) -> None:
    document = run("leakscan", "-r", later, "--before", later, "--json").document
    assert document["facts"]["growth"]["caches"] == []
    assert document["verdict"]["class"] == "leak"
    assert "kmalloc-32 did not grow between the two" in document["verdict"]["against"]


def test_clocks_of_a_dump_against_the_guests_own() -> None:
    later, earlier = lab_dump("growth"), lab_dump("growth").before
    hosts = [open_core(d.vmcore, [d.vmlinux]) for d in (earlier, later)]
    walls = [wall_clock(host) for host in hosts]
    ups = [uptime(host) for host in hosts]
    for dump, up in zip((earlier, later), ups, strict=True):
        said = float((dump.proc / "uptime").read_text().split()[0])
        assert up is not None
        assert -1 < up - said < 10  # the dump comes a moment later; ticks lag behind the clock
    wall = [w for w in walls if w is not None]
    up_times = [u for u in ups if u is not None]
    assert wall[1] - wall[0] == pytest.approx(up_times[1] - up_times[0], abs=2)
    assert wall[0] > 1_600_000_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("", "vmcore"),
        ("{", "no JSON"),
        ("{}", "no report of leakscan"),
        ('{"schema": "crashext/leakscan/2"}', "no report of leakscan"),
        ('{"schema": "crashext/verdict/1"}', "no report of leakscan"),
        ('{"schema": "crashext/verdict/2"}', "damaged"),
        ('{"schema": "crashext/procfs/2", "facts": {"caches": [{"name": 7}]}}', "damaged"),
        ("[" * 100_000, "vmcore"),
        ('{"a":' * 100_000, "no JSON"),
        ("CRASHEXT-SESSION 1\nxx", "damaged session"),
    ],
)
def test_what_is_no_earlier_moment_is_one_line(
    tmp_path: Path, later: Path, text: str | None, said: str
) -> None:
    path = tmp_path / "vmcore.old"
    if text is not None:
        path.write_text(text)
    ran = run("leakscan", "-r", later, "--before", path)
    assert (ran.status, ran.out) == (2, "")
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_numbers_that_no_report_has_are_damage(
    tmp_path: Path, later: Path, old: dict[str, Path]
) -> None:
    document = json.loads(old["report"].read_text())
    for key, value in (("slabs", None), ("bytes", 1.5), ("name", ["x"]), ("slots", 1 << 70)):
        facts = document["facts"]
        hurt = {**document, "facts": {**facts, "caches": [{**facts["caches"][0], key: value}]}}
        (tmp_path / "old").write_text(json.dumps(hurt))
        ran = run("leakscan", "-r", later, "--before", tmp_path / "old")
        assert (ran.status, "damaged" in ran.err) == (2, True)


def test_before_is_for_whole_machines(later: Path) -> None:
    for words in (["kmalloc-32"], ["--orphans"]):
        ran = run("leakscan", "-r", later, "--before", later, *words)
        assert (ran.status, ran.out) == (2, "")
        assert "leave out CACHE" in ran.err
