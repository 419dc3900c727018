"""The mark checks itself: on kernels it reads right, and on ones it is made to misread."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crashext.analysis.likeness.survey import generator
from crashext.analysis.overview import look_over
from crashext.analysis.reach import reachability, references
from crashext.analysis.reach.group_reach import reachability_of
from crashext.analysis.reach.reachability import reach
from crashext.analysis.reach.selfcheck import misgivings
from crashext.analysis.verdict.rules import judge
from crashext.kernel.pages.frames import FrameUse
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from tests.conftest import lab_host

from .test_orphans import SETTINGS, marked


@pytest.mark.parametrize("name", ["default", "healthy", "chain", "tasks", "nodes-debug"])
def test_a_kernel_that_is_read_right_raises_no_misgivings(name: str) -> None:
    """However much of it is leaked: of `tasks`, most tasks with all they own are."""
    assert misgivings(marked(name)) == ()
    assert reachability_of(marked(name)).misgivings == ()


def test_a_sample_raises_none_either() -> None:
    sampled = marked("default", 64)
    assert sampled.giants
    assert misgivings(sampled) == ()


@pytest.mark.parametrize(
    "seen", [(FrameUse.SLAB,), (FrameUse.KERNEL, FrameUse.RESERVED)], ids=["no roots", "no objects"]
)
def test_memory_that_is_taken_for_something_else_accuses_nobody(
    monkeypatch: pytest.MonkeyPatch, seen: tuple[FrameUse, ...]
) -> None:
    """Registers lead to a task, and a task to all others: without roots they must lead nowhere."""
    monkeypatch.setattr(references, "KERNEL_USES", seen)
    monkeypatch.setattr(reachability, "_from_elsewhere", lambda *_: None)
    found = look_over(KernelView(lab_host("healthy")), SETTINGS, silent)
    assert found.facts.reachability is not None
    assert found.facts.reachability.misgivings
    verdicts = judge(found.facts)
    assert "cannot-tell" in {v.kind for v in verdicts}
    assert "leak" not in {v.kind for v in verdicts}
    # Slab frames that are taken for something else look like pages that the dump lacks, too.
    believed = replace(found.facts.reachability, misgivings=(), slab_pages_missing=0)
    assert "leak" in {v.kind for v in judge(replace(found.facts, reachability=believed))}


def test_one_missed_descriptor_of_many_is_no_misgiving_and_a_tenth_of_them_is() -> None:
    whole = reach(KernelView(lab_host("default")), silent, lambda name: generator(SETTINGS, name))

    at = np.array([c.address for c in whole.view.caches.all], np.uint64)
    slots = whole.table.at(at)
    slots = slots[slots >= 0]
    assert len(slots) > 40
    whole.marks.reached[slots[:1]] = False
    assert misgivings(whole) == ()
    whole.marks.reached[slots[: len(slots) // 10]] = False
    (doubt,) = misgivings(whole)
    assert doubt.startswith(f"{len(slots) // 10} of {len(slots)} cache descriptors")
