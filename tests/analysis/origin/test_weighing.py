"""What speaks for a place and against it: stores that are not there, and where objects hang."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from crashext.analysis.origin.callers import telling
from crashext.analysis.origin.group import Group
from crashext.analysis.origin.mentions import HEAD, HOLDERS, Symbols, Told
from crashext.analysis.origin.pointed import Pointed
from crashext.analysis.origin.weighing import Hints, said, weigh
from crashext.analysis.results.callsites import Allocating, CallSite, Candidate
from crashext.analysis.results.evidence import Head
from crashext.hosts.base import U64
from crashext.kernel.origin.stores import Store
from tests.fake import slab_cache
from tests.kernel.whole import DATA, Kernel

CALL, OTHER = 0xFFFFFFFF81001000, 0xFFFFFFFF81002000
SIZE, SIZES = 72, range(65, 97)
UNSEEN = math.log(0.5)
"""Of a place that names nothing where another one does."""
COUNT = Store(0, 4, "value", U64(1), False)  # behind a branch, as a reference is first counted
NUMBER = Store(0x20, 8, "value", U64(0x1234), True)


def objects(first: int = 0) -> Group:
    """A hundred, of which all have `first` in their first word, and something in the last one."""
    words = np.zeros((100, 12), np.uint64)
    words[:, 0], words[:, 8] = first, np.arange(1, 101)
    content = words.view(np.uint8).reshape(100, -1)
    return Group(content, words, SIZE, frozenset({8}), frozenset())


def place(call: int = CALL, *stores: Store, module: str = "") -> Allocating:
    site = CallSite("some", 0x34, module, U64(call), "kmalloc_trace", False, (SIZE,))
    return Allocating(site, stores, True, "")


def names(offset: int, *calls: int, word: int = DATA) -> Told:
    return Told(word, offset, 5.0, frozenset(calls), False)


@pytest.fixture(scope="module", name="hints")
def _hints() -> Hints:
    pointed = Pointed(Kernel().view(), slab_cache("kmalloc-96", 96), ())
    return Hints("", False, None, Symbols(), pointed, SIZES)


@pytest.mark.parametrize("store", [COUNT, NUMBER, replace(NUMBER, certain=False)])
def test_what_only_holders_have_does_not_outweigh_a_store_that_is_not_there(
    store: Store, hints: Hints
) -> None:
    """Areas of arm64's 6.12 were laid to sched_autogroup_create_attach(): it names
    root_task_group, as the tasks do whose stacks they are, and sets a count to 1 that is 0."""
    view, told = Kernel().view(), replace(hints, symbols=Symbols((names(HOLDERS, CALL),)))
    weight, reasons = weigh(view, place(CALL, store), objects(), told)
    plain, _ = weigh(view, place(CALL, store), objects(), hints)
    assert weight == pytest.approx(plain + UNSEEN)
    another, _ = weigh(view, place(OTHER), objects(), told)
    assert weight < another
    assert not any("what points at them has" in reason for reason in said(reasons))
    assert not telling(Candidate(place().site, 0.9, said(reasons)), SIZES)


@pytest.mark.parametrize(
    ("stores", "first"),
    [
        ((), 0),
        ((COUNT,), 1),  # as it was written
        ((replace(NUMBER, doubtful=True),), 0),  # it says nothing where it is not there
        ((Store(0x40, 8, "value", U64(0), True),), 0),  # members are cleared before they are used
    ],
)
def test_it_does_count_where_nothing_contradicts(
    stores: tuple[Store, ...], first: int, hints: Hints
) -> None:
    view, told = Kernel().view(), replace(hints, symbols=Symbols((names(HOLDERS, CALL),)))
    group = objects(first)
    weight, reasons = weigh(view, place(CALL, *stores), group, told)
    plain, _ = weigh(view, place(CALL, *stores), group, hints)
    assert weight == pytest.approx(plain + 5.0)
    assert any("what points at them has" in reason for reason in said(reasons))


@pytest.mark.parametrize("offset", [0x10, HEAD])
def test_what_they_hold_themselves_counts_against_a_contradiction(
    offset: int, hints: Hints
) -> None:
    """A state that changed since is no reason to forget the ops that the place alone names."""
    symbols = Symbols((names(offset, CALL), names(HOLDERS, CALL, word=DATA + 8)))
    weight, named = symbols.of(CALL, set(), contradicted=True)
    assert (weight, [told.offset for told in named]) == (5.0, [offset])
    assert symbols.of(CALL, set())[0] == 10.0 - 1.0  # no more than `_MOST`
    told = replace(hints, symbols=symbols)
    view = Kernel().view()
    with_names, _ = weigh(view, place(CALL, COUNT), objects(), told)
    assert with_names > weigh(view, place(OTHER), objects(), told)[0]


@pytest.mark.parametrize(
    ("module", "head", "more"),
    [
        ("leaklab", Head("leaklab_clients", "leaklab", U64(DATA)), True),
        ("leaklab", Head("clients", "other", U64(DATA)), False),
        ("leaklab", None, False),
        ("", Head("clients", "", U64(DATA)), False),  # the kernel's own: that says nothing
    ],
)
def test_what_hangs_at_a_module_s_variable_is_the_module_s(
    module: str, head: Head | None, more: bool, hints: Hints
) -> None:
    """`clients` of the lab: a text and two links, in which nothing says whose they are."""
    view, told = Kernel().view(), replace(hints, head=head)
    weight, reasons = weigh(view, place(module=module), objects(), told)
    plain, _ = weigh(view, place(module=module), objects(), hints)
    assert (weight - plain > 2) is more
    assert weight - plain < 6  # less than a symbol in the objects themselves
    assert ("in leaklab, at whose leaklab_clients they hang" in said(reasons)) is more


def test_a_symbol_in_the_objects_is_told_instead(hints: Hints) -> None:
    told = replace(hints, contained="leaklab", head=Head("clients", "leaklab", U64(DATA)))
    _, reasons = weigh(Kernel().view(), place(module="leaklab"), objects(), told)
    words = said(reasons)
    assert "in leaklab, whose symbols the objects contain" in words
    assert not any("hang" in reason for reason in words)
