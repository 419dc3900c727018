"""The code beside the kernel's own record of who allocated, on a guest booted with slub_debug=U.

All groups of all caches are compared by `python -m tests.end_to_end.by_record`, which takes half a
minute; here are those of some caches, and what the index of calls has to hold of the largest. The
weights were counted on the everyday kernel; `make test-kernels` asks guests of others, too.
"""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest

from crashext.kernel.origin.entrypoints import Kind
from crashext.kernel.origin.requests import requests_of
from crashext.kernel.origin.tracks import tracked
from crashext.kernel.slab.objects import State
from tests.conftest import lab_view, only_if
from tests.end_to_end.by_record import Record, Stack, compared, through_pointer
from tests.end_to_end.guests import marked

_ASKED = os.environ.get("CRASHEXT_KERNELS")
TRACED = "traced"
SOME = ("leaklab_obj", "kmalloc-32", "kmalloc-64", "kmalloc-256", "dentry", "trace_event_file")
LARGEST, MOST = 30, 2000
COVERED = 0.99
LEAST = {"traced@trixie": 0.9, "traced@sid": 0.9, "traced@arm64-trixie": 0.9}
"""Share of the groups, objects aside, but for those that __init code made, which no dump has."""


def test_of_what_one_place_allocated_the_code_says_so_or_that_it_cannot_tell() -> None:
    view = lab_view(TRACED)
    caches = [c for c in view.caches.all if c.name in SOME]
    found = list(compared(view, caches, 4, marked(TRACED)))
    counted = Counter(one.outcome for one in found)
    assert len(found) >= 16
    assert counted["right"] >= 0.7 * len(found)
    assert not counted["wrong"], [one for one in found if one.outcome == "wrong"]
    assert {one.cache for one in found if one.outcome == "right"} >= {*SOME} - {"kmalloc-64"}


@only_if(_ASKED, "make test-kernels compares other kernels' guests")
@pytest.mark.parametrize("name", LEAST)
def test_so_it_is_on_kernels_that_no_weight_was_counted_on(name: str) -> None:
    single = [one for one in compared(lab_view(name), marked=marked(name)) if one.single]
    assert not [one for one in single if one.outcome == "wrong"]
    found = [one for one in single if not one.gone]
    assert len(single) - len(found) <= 5
    objects: Counter[str] = Counter()
    for one in found:
        objects[one.outcome] += one.objects
    assert len(found) >= 90
    assert objects["right"] >= 0.98 * objects.total()
    assert sum(one.outcome == "right" for one in found) >= LEAST[name] * len(found)


@pytest.mark.parametrize("name", [TRACED, *(LEAST if _ASKED else ())])
def test_the_recorded_places_are_in_the_index(name: str) -> None:
    view = lab_view(name)
    record, known = Record(view), requests_of(view.host, view.caches)
    asking = known.of((Kind.SLAB, Kind.SIZED))
    returns = {r.call + r.length for r in asking if not r.jump}
    # Who calls a function that ends in the allocator is in the stack, that function is not.
    ending = {r.function.address for r in asking if r.jump}
    caches = [c for c in view.caches.all if tracked(c)]
    sizes = np.bincount(view.index.cache, minlength=len(view.caches.all))
    caches.sort(key=lambda c: -int(sizes[view.caches.index(c)]))
    absent: Counter[tuple[str, Stack]] = Counter()
    total = 0
    for cache in caches[:LARGEST]:
        rows = view.index.rows_of(view.caches.index(cache))
        batches = view.reader(cache).read(view.index, rows)
        objects = np.concatenate([b.address[b.state == State.ALLOCATED] for b in batches])
        some = objects[:: max(1, len(objects) // MOST)]
        weight = len(objects) / max(1, len(some))
        stacks = Counter(s for s in record.stacks(cache, some) if s is not None)
        for stack, times in stacks.items():
            total += round(times * weight)
            asked = stack[: record.asked(stack) + 1]
            found = returns & set(asked) or any(record.called(a) in ending for a in asked)
            if not found and through_pointer(view.host, asked[-1]):
                # What was called so jumped: it is in the index, with this cache.
                found = any(cache.address in r.caches for r in asking if r.jump)
            if not found:
                absent[cache.name, asked] += round(times * weight)
    named = {
        (cache, *(getattr(view.host.symbol_at(a - 1), "name", hex(a)) for a in stack)): times
        for (cache, stack), times in absent.most_common()
    }
    assert sum(absent.values()) <= (1 - COVERED) * total, named
    assert total > 50_000
