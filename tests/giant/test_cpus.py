"""512 CPUs, of which the last has slabs of its own and holds objects that nobody else knows.

Its guest has the per-CPU memory of 512 CPUs: it is booted where $CRASHEXT_KERNELS asks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Ran, lab_dump, only_if, run
from tests.giant import Shape, make
from tests.giant.shape import GIB, SECTION

ASKED = os.environ.get("CRASHEXT_KERNELS")
pytestmark = only_if(ASKED, "make test-kernels boots a guest with 512 possible CPUs")

SHAPE = Shape(GIB, 2 * SECTION, 2 * SECTION, cpus=True)


@pytest.fixture(scope="module")
def giant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("giant") / "cpus.vmcore"
    make(lab_dump("cpus"), SHAPE, path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def truth(giant: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(giant.with_suffix(".json").read_text())["last_cpu"]
    return parsed


@pytest.fixture(scope="module")
def verdict(giant: Path) -> Ran:
    return run("leakscan", "-c", giant, "-s", lab_dump("cpus").vmlinux, "--json")


def fact(ran: Ran, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in ran.document["facts"]["caches"] if c["name"] == name)
    return found


def test_it_is_a_machine_of_512(truth: dict[str, Any]) -> None:
    assert truth["cpus"] == 512


def test_what_the_last_cpu_knows_is_held_and_the_rest_is_not(
    verdict: Ran, truth: dict[str, Any]
) -> None:
    lost = fact(verdict, truth["caches"][0])["unreachable"]
    assert lost["low"] == lost["high"] == len(truth["lost"]) == len(truth["held"])


def test_free_objects_on_its_lists_are_free(verdict: Ran, truth: dict[str, Any]) -> None:
    """Nobody points at the others of its two slabs; what it has to give out is none of them."""
    assert fact(verdict, truth["caches"][1])["unreachable"]["estimate"] == len(truth["used"])


def test_memory_adds_up(verdict: Ran) -> None:
    for check in verdict.document["accounting"]["checks"]:
        assert check["found"] == pytest.approx(check["counted"], abs=256 << 10), check
