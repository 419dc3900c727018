"""Of a cache with very many slabs some stand for all, and most of a filtered dump is not read:
the answers are those of the whole, and say so.

A real machine of that size takes minutes; here the limits are lowered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crashext.kernel import byframe, memmap
from crashext.kernel.slab import thinning
from crashext.kernel.slab.thinning import Collector
from tests.conftest import Ran, lab_dump, run
from tests.giant import SHAPES, make


@pytest.fixture(scope="module")
def giant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    path = tmp_path_factory.mktemp("giant") / "filtered.vmcore"
    yield path, make(lab_dump("nodes"), replace(SHAPES["4G"], whole=False), path)
    path.unlink()


def asked(giant: tuple[Path, dict[str, Any]], *more: str) -> Ran:
    """With limits that make it one of the largest machines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byframe, "DENSE", 0)
        patch.setattr(memmap, "MANY_BLOCKS", 16)
        patch.setattr(memmap, "SOME_BLOCKS", 16)
        patch.setattr(thinning, "MOST", 4096)
        patch.setattr(thinning, "PENDING", 4096)
        return run("leakscan", "-c", giant[0], "-s", lab_dump("nodes").vmlinux, "--json", *more)


@pytest.fixture(scope="module")
def verdict(giant: tuple[Path, dict[str, Any]]) -> Ran:
    return asked(giant)


def test_what_unread_slabs_hold_is_no_orphan(giant: tuple[Path, dict[str, Any]]) -> None:
    """Of a million slabs some hundred have an object that the kernel uses, and those hold others:
    the orphans are those of the guest that the machine was made of."""
    found = asked(giant, "--orphans").document
    (lost,) = (g for g in found["orphans"] if not g["explanation"])
    assert lost["cache"] == giant[1]["leak"]["cache"]
    assert found["totals"]["objects"]["high"] >= giant[1]["leak"]["objects"]
    explained = sum(g["objects"] for g in found["orphans"] if g["explanation"])
    assert found["totals"]["objects"]["estimate"] == giant[1]["leak"]["objects"] + explained
    assert any("more, to which pointers lead" in n for n in found["reachability"]["notes"])


def test_the_verdict_is_that_of_the_whole(verdict: Ran, giant: tuple[Path, dict[str, Any]]) -> None:
    first, leak = verdict.document["verdict"], giant[1]["leak"]
    assert (first["class"], first["culprit"]["module"]) == ("leak", "leaklab"), first
    cache = next(c for c in verdict.document["facts"]["caches"] if c["name"] == leak["cache"])
    assert cache["unreachable"]["low"] <= leak["objects"] <= cache["unreachable"]["high"]
    assert 0 <= cache["allocated"] - leak["objects"] < 1000
    assert any("slabs were read" in line for line in first["against"])


def test_what_was_not_read_is_said(verdict: Ran, giant: tuple[Path, dict[str, Any]]) -> None:
    accounting, added = verdict.document["accounting"], giant[1]["added"]
    assert any("are not in the dump" in line for line in accounting["limits"])
    for check in accounting["checks"]:
        assert check["found"] == pytest.approx(check["counted"], abs=256 << 10), check
    free = next(p for p in verdict.document["facts"]["split"]["parts"] if p["name"] == "free")
    assert free["bytes"] == pytest.approx(added["free"] << 12, rel=0.4)  # the guest has 156 MiB
    assert added["slab"] << 12 < sum(c["bytes"] for c in verdict.document["facts"]["caches"])


def test_a_crowd_is_thinned_at_random_and_its_sums_stay() -> None:
    rng = np.random.default_rng(1)
    collector = Collector(3, seed=0, most=1000)
    address = np.uint64(1 << 40) + np.arange(200_000, dtype=np.uint64) * np.uint64(4096)
    cache = (np.arange(len(address)) % 100 == 0).astype(np.uint64) * np.uint64(2)
    inuse = rng.integers(1, 128, len(address)).astype(np.uint64)
    ones = np.ones(len(address), np.uint64)
    for at in range(0, len(address), 1024):
        some = slice(at, at + 1024)
        columns = (address, address, ones, cache, inuse, ones * np.uint64(128))
        collector.add(tuple(c[some] for c in columns))
    collector.thin()
    kept = collector.columns()
    # The cache that has 2,000 slabs keeps them all.
    assert (np.sort(kept[0][kept[3] == 2]) == address[cache == 2]).all()
    crowds = collector.crowds()
    assert list(crowds) == [0]
    assert crowds[0].slabs == int((cache == 0).sum())
    assert crowds[0].inuse == int(inuse[cache == 0].sum())
    some = kept[0][kept[3] == 0]
    assert 1000 <= len(some) <= 2000
    # From all over memory, and with the same use: five standard errors.
    assert abs(some.astype(float).mean() / address.astype(float).mean() - 1) < 0.05
    assert abs(kept[4][kept[3] == 0].mean() - 64) < 5 * 37 / len(some) ** 0.5
