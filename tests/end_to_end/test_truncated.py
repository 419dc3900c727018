"""Dumps that end too early: damage is said, the rest is judged, and nobody innocent is accused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from crashext.hosts.dumpfile import examine
from tests.conftest import Ran, lab_dump, run
from tests.hosts.holes import ending_before
from tests.lab import Dump

MIB = 1 << 20
KINDS = {"cannot-tell", "healthy", "reclaimable", "user-space"}


def first(dump: Dump, form: str, share: float, folder: Path) -> Path:
    """The beginning of one form of a dump."""
    path = folder / form
    whole = dump.folder / form
    with whole.open("rb") as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
        target.truncate(int(whole.stat().st_size * share))
    return path


def asked(path: Path, dump: Dump, *arguments: str) -> Ran:
    ran = run("leakscan", "-c", path, "-s", dump.vmlinux, *arguments)
    path.unlink()
    return ran


@pytest.mark.parametrize("form", ["vmcore", "vmcore.kdump", "vmcore.d31"])
def test_four_fifths_of_a_dump_have_a_verdict(tmp_path: Path, form: str) -> None:
    """A small guest's memory map is at the end of its memory, and its kernel may be."""
    dump = lab_dump("default")
    path = first(dump, form, 0.8, tmp_path)
    damage = examine(path).damage
    assert damage.startswith("truncated")
    ran = asked(path, dump, "--json")
    assert (ran.status, ran.err) == (0, "")
    assert {v["class"] for v in ran.document["verdicts"]} <= KINDS
    assert ran.document["facts"]["damage"] == damage
    said = [v["says"].count("headers describe") for v in ran.document["verdicts"]]
    assert max(said) <= 1, "once is enough"


def test_of_an_elf_file_without_the_memory_map_the_counters_speak(tmp_path: Path) -> None:
    dump = lab_dump("default")
    ends = lab_memory(dump)
    path = ending_before(dump.vmcore, [(ends - 8 * MIB, ends)], tmp_path / "vmcore")
    ran = asked(path, dump, "-v")
    assert ran.status == 0, ran.err
    lines = " ".join(ran.out.split())
    assert lines.startswith("cannot-tell")
    assert "struct pages are not in the dump" in lines
    assert "leaklab_leak_vmallocs [leaklab]" in lines  # areas are found without it


@pytest.mark.parametrize("name", ["default", "healthy"])
def test_a_dump_without_some_of_its_memory_accuses_only_the_guilty(
    tmp_path: Path, name: str
) -> None:
    """The second quarter, where nothing is that the others cannot be read without."""
    dump = lab_dump(name)
    size = lab_memory(dump) // 4
    lost = (size, 2 * size)
    ran = asked(ending_before(dump.vmcore, [lost], tmp_path / "vmcore"), dump, "--json")
    assert ran.status == 0, ran.err
    verdicts = ran.document["verdicts"]
    assert verdicts
    guilty = {part["cache"] for part in dump.truth()["parts"].values()}
    for verdict in verdicts:
        assert verdict["class"] in {*KINDS, "leak", "deferred-free"}
        if verdict["class"] == "leak":
            assert verdict["culprit"]["cache"] in guilty or "leaklab" in str(verdict["culprit"])


def test_a_part_of_a_split_dump_says_how_to_join_them(tmp_path: Path) -> None:
    dump = lab_dump("healthy")
    parts, whole = [tmp_path / "part1", tmp_path / "part2"], tmp_path / "whole"
    made: list[str | Path] = ["makedumpfile", "--split", "-l", "-d", "31", dump.vmcore, *parts]
    subprocess.run(made, check=True, capture_output=True)
    for part in parts:
        ran = run("leakscan", "-c", part, "-s", dump.vmlinux)
        assert ran.status == 2
        assert f"makedumpfile --reassemble {part} OTHERS... NEW" in ran.err
    subprocess.run(["makedumpfile", "--reassemble", *parts, whole], check=True, capture_output=True)
    ran = asked(whole, dump, "--json")
    assert (ran.status, ran.document["verdict"]["class"]) == (0, "healthy")
    assert ran.document["facts"]["damage"] == ""


def lab_memory(dump: Dump) -> int:
    """Where the guest's memory ends."""
    present = examine(dump.vmcore).present
    assert present is not None
    return next(end for start, end in present if start == 0)
