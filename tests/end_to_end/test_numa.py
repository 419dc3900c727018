"""16 NUMA nodes of a real kernel, with a hole of 128 MiB that has no page structures at all.

Its guest is booted where $CRASHEXT_KERNELS asks (`make test-kernels`).
"""

from __future__ import annotations

import os

import numpy as np
from drgn import Program

from crashext.analysis.reach.reachability import Class
from crashext.analysis.reach.selfcheck import misgivings
from tests.conftest import lab_dump, lab_view, only_if
from tests.end_to_end.guests import (
    addresses,
    classes,
    compared_with_drgn,
    marked,
    overview,
    unexplained,
)

NAME = "numa"
NODES = 16
HOLE = range(384 << 20, 512 << 20)
ASKED = os.environ.get("CRASHEXT_KERNELS")
pytestmark = only_if(ASKED, "make test-kernels boots a guest with 16 NUMA nodes")


def test_it_has_its_nodes_and_its_hole() -> None:
    program, dump = Program(), lab_dump(NAME)
    program.set_core_dump(str(dump.vmcore))
    program.load_debug_info([str(dump.vmlinux)])
    assert program["nr_online_nodes"].value_() == NODES
    nodes = [program["node_data"][n] for n in range(NODES)]
    end = max(int(n.node_start_pfn + n.node_spanned_pages) for n in nodes)
    assert end << 12 > HOLE.stop
    assert sum(int(n.node_present_pages) for n in nodes) <= end - (len(HOLE) >> 12)


def test_slabs_lie_on_several_nodes_and_none_in_the_hole() -> None:
    view = lab_view(NAME)
    physical = view.index.page - np.uint64(view.space.direct.start)
    below, above = physical < HOLE.start, physical >= HOLE.stop
    assert below.any()
    assert above.any()
    assert (below | above).all()


def test_allocated_objects_are_drgns_in_every_cache() -> None:
    caches, objects = compared_with_drgn(NAME)
    assert caches > 50
    assert objects > 20_000


def test_what_was_lost_is_unreachable_and_nothing_else_is() -> None:
    assert misgivings(marked(NAME)) == ()
    lost = classes(NAME, "nodes")
    assert len(lost) == len(addresses(NAME, "nodes")) == 20_000
    assert (lost != Class.HELD).mean() >= 0.98
    assert (classes(NAME, "living") == Class.HELD).all()
    assert unexplained(NAME) == 0


def test_the_verdict_is_this_one_leak() -> None:
    (found,) = overview(NAME)["verdicts"]
    assert (found["class"], found["where"]) == ("leak", "slab")
    assert found["culprit"]["module"] == "leaklab"
