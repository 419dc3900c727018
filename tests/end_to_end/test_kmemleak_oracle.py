"""`--orphans` of a dump beside the report that its kernel's own kmemleak wrote just before it.

Both ways: all that kmemleak reported is unreachable for us, and what only we find is explained.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import lab_dump, on, run
from tests.lab import read_addresses
from tests.lab.kmemleak_report import Unreferenced, read_report

from .test_orphans import LOST, census, listed, marked

NAMES = ("kmemleak", "kmemleak-chain")


def reported(name: str) -> list[Unreferenced]:
    return read_report(lab_dump(name).proc / "kmemleak")


def in_slabs(name: str) -> dict[int, Unreferenced]:
    """What kmemleak reported, without vmalloc areas, which are no slab objects."""
    report = reported(name)
    slots = marked(name).table.at(np.array([u.address for u in report], np.uint64))
    return {u.address: u for u, slot in zip(report, slots.tolist(), strict=True) if slot >= 0}


@pytest.fixture(params=NAMES)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, set[int], set[int]]:
    """The dump's name, what `--orphans --list` wrote, and what kmemleak reported."""
    name = str(request.param)
    theirs = {u.address for u in reported(name)}
    out = tmp_path / "orphans"
    ran = run("leakscan", *on(name), "--orphans", "--list", out)
    assert ran.status == 0, ran.err
    return name, set(listed(out)), theirs


def test_all_that_kmemleak_reported_is_unreachable(both: tuple[str, set[int], set[int]]) -> None:
    _, ours, theirs = both
    assert len(theirs) > 9_000
    assert not theirs - ours


def test_what_only_we_find_is_explained(both: tuple[str, set[int], set[int]]) -> None:
    """By a rule of the report, or as leaked and named by a stack's dead word, which it reads."""
    name, ours, theirs = both
    found = marked(name)
    explained = {
        int(a, 16) for g in census(name)["orphans"] if g["explanation"] for a in g["examples"]
    }
    assert explained <= ours
    assert len(explained) == 3
    dead = np.unique(found.references.dead_target).astype(np.int64)
    dead = dead[dead < found.table.count]
    hidden = set(found.table.addresses(dead).tolist())
    dump, truth = lab_dump(name), lab_dump(name).truth()["parts"]
    lost = {a for p in truth if p in LOST for a in read_addresses(dump.addresses(p))}
    # Of the areas that the module lost, the one that begins where a free one ends: kmemleak takes
    # that vmap_area's va_end for a pointer to it.
    areas = set(read_addresses(dump.addresses("vmalloc"))) if "vmalloc" in truth else set()
    assert len(areas - theirs) <= 1
    theirs |= areas
    for address in ours - theirs - explained:
        assert address in lost, hex(address)
        assert address in hidden, hex(address)
    assert len(ours - theirs - explained) <= len(ours) / 1000


def test_the_rest_of_its_report_is_areas() -> None:
    slabs = in_slabs("kmemleak")
    rest = {u.address for u in reported("kmemleak") if u.address not in slabs}
    areas = set(read_addresses(lab_dump("kmemleak").addresses("vmalloc")))
    assert rest
    assert rest <= areas


def test_kmemleaks_own_records_are_not_judged_by_us() -> None:
    for name in NAMES:
        assert "kmemleak_object" not in {g["cache"] for g in census(name)["orphans"]}
