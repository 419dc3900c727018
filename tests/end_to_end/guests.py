"""What is asked of every whole guest: what it allocated, lost and kept, as the lab and drgn say."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.survey import generator
from crashext.analysis.reach.reachability import Class, Reach, reach
from crashext.analysis.settings import Settings
from crashext.progress import silent
from tests.conftest import ask, few, lab_dump, lab_view, on
from tests.kernel.oracle import allocated_by_drgn, drgn_program
from tests.kernel.walked import allocated_addresses
from tests.lab import read_addresses

LOST = ("nodes", "private", "tasks", "chain")
LOST_SLAB = (*LOST, "sessions", "requests")
"""The same in any scenario: the latter two are in `twin`."""
RECALL = 0.98
_SETTINGS = Settings(250_000, 0, 0.7, "hamming", 1)
_BELOW_A_TASK = 6  # objects
_BELOW_A_FILE, _BELOW_ALL_FILES = 1, 3  # its security blob; the credentials of who opened them


@few
def marked(name: str) -> Reach:
    return reach(lab_view(name), silent, lambda c: generator(_SETTINGS, c))


@cache
def overview(name: str) -> dict[str, Any]:
    ran = ask("leakscan", *on(name), "--json")
    assert ran.status == 0, ran.err
    return ran.document


@cache
def census(name: str) -> dict[str, Any]:
    ran = ask("leakscan", *on(name), "--orphans", "--json")
    assert ran.status == 0, ran.err
    return ran.document


def addresses(name: str, part: str) -> NDArray[np.uint64]:
    return np.array(read_addresses(lab_dump(name).addresses(part)), np.uint64)


def classes(name: str, part: str) -> NDArray[np.uint8]:
    """What the mark says of each object of a part of the truth."""
    found = marked(name)
    return found.classes(found.table.at(addresses(name, part)))


def lost_share(name: str, part: str) -> float:
    """How much of what was lost the mark finds; each object of it must be judged."""
    judged = classes(name, part)
    assert (judged != Class.NOT_JUDGED).all()
    return float(np.isin(judged, (Class.ORPHAN, Class.STRUCTURE)).mean())


def compared_with_drgn(name: str) -> tuple[int, int]:
    """All objects of all caches must be drgn's; returns how many caches and objects those are."""
    view, checked, caches = lab_view(name), 0, 0
    for theirs, expected in allocated_by_drgn(drgn_program(name)):
        cache = next(c for c in view.caches.all if c.address == theirs.value_())
        assert allocated_addresses(view, cache) == expected, cache.name
        checked, caches = checked + len(expected), caches + 1
    assert caches == len(view.caches.all)
    return caches, checked


def unexplained(name: str) -> int:
    """Unreachable objects that are neither lost nor explained, nor below a lost task."""
    found, truth = marked(name), lab_dump(name).truth()["parts"]
    guilty = [addresses(name, p) for p in truth if p in LOST_SLAB]
    known = found.table.at(np.concatenate([np.zeros(0, np.uint64), *guilty]))
    others = len(np.setdiff1d(found.unreachable(), known))
    below = _BELOW_A_TASK * int(truth.get("tasks", {"count": 0})["count"])
    if files := asked_files(name):
        below += unreachable_files(name) + _BELOW_A_FILE * files + _BELOW_ALL_FILES
    return max(0, others - explained(name) - below)


def asked_files(name: str) -> int:
    """How many open files were lost; the module that did it does not know where they are."""
    return int(lab_dump(name).truth()["parameters"].get("lost_files", 0))


def unreachable_files(name: str) -> int:
    """How many open files the mark finds."""
    found, cache = marked(name), lab_view(name).caches.find("filp")
    assert cache is not None
    number = lab_view(name).caches.index(cache)
    return int((found.table.caches(found.unreachable()) == number).sum())


def explained(name: str) -> int:
    """Unreachable objects that the report says are none to worry about."""
    return sum(g["objects"] for g in census(name)["orphans"] if g["explanation"])
