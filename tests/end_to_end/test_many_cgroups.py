"""4,000 memory cgroups of a real kernel, of which 2,000 were removed and are kept by their files.

Its guest takes minutes: it is booted where $CRASHEXT_KERNELS asks (`make test-kernels`).
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
from drgn import Program
from drgn.helpers.linux.cgroup import css_for_each_descendant_pre

from crashext.kernel.counters.cgroups import caches_of_cgroups, memory_cgroups
from tests.conftest import ask, lab_dump, lab_host, lab_view, on, only_if

NAME = "cgroups"
ASKED = os.environ.get("CRASHEXT_KERNELS")
slow = only_if(ASKED, "make test-kernels boots a guest with 4,000 memory cgroups")


@cache
def program() -> Program:
    opened, dump = Program(), lab_dump(NAME)
    opened.set_core_dump(str(dump.vmcore))
    opened.load_debug_info([str(dump.vmlinux)])
    return opened


def verdicts() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask("leakscan", *on(NAME), "--json").document["verdicts"]
    return found


@slow
def test_nobody_is_accused_and_the_dying_are_counted() -> None:
    (found,) = verdicts()
    assert (found["class"], found["where"]) == ("held-growth", "slab")
    assert "4,001 memory cgroups, 2,000 of them removed and not gone" in found["says"]
    assert not found["culprit"]["module"]


@slow
def test_they_are_counted_as_drgn_counts_them() -> None:
    root = program()["root_mem_cgroup"].css.address_of_()
    alive = list(css_for_each_descendant_pre(root))
    kept, dying = memory_cgroups(lab_host(NAME))
    assert kept is not None
    assert dying is not None
    assert len(alive) - 1 == kept
    flag = int(program().constant("CSS_DYING"))
    assert sum(1 for css in alive if int(css.flags) & flag) == dying


@slow
def test_the_caches_are_those_of_the_objects_themselves() -> None:
    view, root = lab_view(NAME), program()["root_mem_cgroup"].value_()
    kept = caches_of_cgroups(view.host, [c.name for c in view.caches.all])
    row = view.index.locate(np.array([root], np.uint64), view.caches)[0]
    assert view.caches.all[int(view.index.cache[row])].name in kept


@slow
def test_none_of_their_objects_is_unreachable() -> None:
    found = ask("leakscan", *on(NAME), "--orphans", "--json").document
    assert all(g["explanation"] for g in found["orphans"])
