"""What keeps an address where the pointers to a group are, and what that says of its place."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from crashext.analysis.origin.holder import Holder, Keeps
from crashext.analysis.origin.pointed import Pointed
from crashext.analysis.reach.pointers import RESERVE
from crashext.analysis.results.callsites import Keeping
from crashext.analysis.results.evidence import Pointer
from crashext.hosts.base import U64
from crashext.kernel.origin.bases import Base, Bases
from crashext.kernel.origin.keepers import Keepers
from crashext.kernel.origin.kept import Kept
from crashext.kernel.origin.requests import requests_of
from tests.conftest import lab_view

CACHE = 0xFFFF888000001000
TASK = Pointer("task_struct", 0x78, 0, 10, 10, size=9000)
CRED = Pointer("cred_jar", 0x78, 0, 10, 10, size=176)
SLAB = Pointer("kmalloc-192", 0x78, 0, 10, 10, size=192)
LIST = Pointer("kmalloc-192", 0x20, 0x18, 10, 10, own=True, size=192)
AREA = Pointer("vmap_area", 0x78, 0, 10, 10, size=72)
RESERVED = Pointer("kmalloc-256", -1, 0, 10, 10, struct=RESERVE)
MEMBER = Kept("member", 0x78, 0, 1, "rbx")


class Known(Bases):
    """One that knows what it is told of any place."""

    def __init__(self, base: Base | None) -> None:
        self._base = base

    def of(self, kept: Kept) -> Base | None:
        return self._base

    def wholes(self, base: Base, offset: int, size: int) -> tuple[str, ...]:
        if base.name == "xarray":  # in a struct that the cache is named after, at this offset
            return ("task_struct_of_some",) if (offset, size) == (0x70, 9000) else ("other",)
        return ("whole",) if base.name == "part" else ()

    def known(self, name: str, size: int) -> bool:
        return (name, size) == ("vmap_area", 72)

    def flexible(self, base: Base) -> bool:
        return base.name == "growing"


@pytest.mark.parametrize(
    ("pointer", "kept", "base", "keeps"),
    [
        (TASK, MEMBER, None, Keeps.PERHAPS),
        (TASK, MEMBER, Base("task_struct", 4000, 0), Keeps.YES),
        (TASK, MEMBER, Base("other", 4000, 0), Keeps.NO),
        (TASK, MEMBER._replace(inside=8), Base("task_struct", 4000, 0), Keeps.NO),
        (TASK, MEMBER._replace(at=0x70), Base("task_struct", 4000, 8), Keeps.YES),
        (TASK, MEMBER._replace(at=0x70), Base("part", 400, 0), Keeps.FITS),
        (TASK, MEMBER._replace(at=8), Base("xarray", 16, 0), Keeps.FITS),
        (TASK, MEMBER._replace(at=0), Base("xarray", 16, 8), Keeps.FITS),
        (TASK, MEMBER._replace(at=0), Base("xarray", 16, 0), Keeps.NO),
        (CRED, MEMBER._replace(at=8), Base("xarray", 16, 0), Keeps.NO),
        (CRED, MEMBER, Base("cred", 176, 0), Keeps.YES),
        (CRED, MEMBER, Base("other", 176, 0), Keeps.FITS),
        (AREA, MEMBER, Base("vmap_area", 72, 0), Keeps.YES),
        (AREA, MEMBER, Base("hv_ring_buffer_info", 72, 0), Keeps.PERHAPS),
        (CRED, MEMBER, Base("", 0, 0, CACHE), Keeps.MADE),
        (CRED, MEMBER, Base("", 0, 0, CACHE + 8), Keeps.NO),
        (SLAB, MEMBER, Base("any", 136, 0), Keeps.FITS),
        (SLAB, MEMBER, Base("any", 128, 0), Keeps.NO),  # that is for kmalloc-128
        (SLAB, MEMBER, Base("growing", 128, 0), Keeps.FITS),
        (SLAB, MEMBER, Base("any", 200, 0), Keeps.NO),
        (replace(SLAB, struct="vm_struct"), MEMBER, Base("vm_struct", 64, 0), Keeps.YES),
        (replace(SLAB, struct="vm_struct"), MEMBER, Base("any", 136, 0), Keeps.NO),
        (LIST, Kept("member", 8, 0x18, 1, "rdx"), None, Keeps.PERHAPS),
        (Pointer("kmalloc-256", -1, 0, 10, 10), Kept("array", 0, 0), None, Keeps.PERHAPS),
        (Pointer("kmalloc-256", -1, 0, 10, 10), MEMBER, None, Keeps.NO),
        (Pointer("kmalloc-256", -1, 0, 10, 10), Kept("reserve", 0, 0), None, Keeps.NO),
        (RESERVED, Kept("reserve", 0, 0), None, Keeps.YES),
        (RESERVED, Kept("array", 0, 0), None, Keeps.NO),
        (RESERVED, MEMBER, None, Keeps.NO),
        (Pointer("variables", 0x78, 0, 10, 10), MEMBER, Base("any", 8, 0), Keeps.FITS),
    ],
)
def test_what_is_the_member_that_points_at_them(
    pointer: Pointer, kept: Kept, base: Base | None, keeps: Keeps
) -> None:
    below = 128 if pointer.holder.startswith("kmalloc") else -1
    assert Holder(pointer, below, CACHE).of([kept], Known(base)) is keeps


def _pointed(
    pointer: Pointer, monkeypatch: pytest.MonkeyPatch, exactly: tuple[int, ...]
) -> Pointed:
    keeping = Keeping(100, tuple(U64(c) for c in exactly), (), (U64(9),), "task_struct", ())
    monkeypatch.setattr("crashext.analysis.origin.pointed._find", lambda *_: (keeping,))
    view = lab_view("default")
    return Pointed(view, view.caches.all[0], (pointer,))


def test_who_writes_a_member_is_lifted_above_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pointed = _pointed(TASK, monkeypatch, (7,))
    weights = pointed.lifted([5, 6, 7], [0.0, 0.0, -3.0], 1.0)
    assert math.exp(weights[2]) / (3 + math.exp(weights[2])) == pytest.approx(0.75)
    assert weights[:2] == [0.0, 0.0]
    # One that leads anyway is left where it is.
    assert pointed.lifted([5, 7], [0.0, 9.0], 1.0) == [0.0, 9.0]


def test_nobody_is_lifted_where_a_member_may_hold_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    anything = Pointer("task_struct", 0x78, 0, 10, 10, size=9000, others=True)
    pointed = _pointed(anything, monkeypatch, (7,))
    assert pointed.lifted([5, 7], [0.0, -3.0], 1.0) == [0.0, -3.0]


def test_what_is_kept_speaks_for_a_place_and_what_is_not_against_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pointed = _pointed(TASK, monkeypatch, (7,))
    known, perhaps, other = (pointed.of(call)[0] for call in (7, 9, 5))
    assert known > perhaps > 0 > other


def test_a_real_kernel_s_function_keeps_the_signals_of_a_task() -> None:
    view = lab_view("default")
    known = requests_of(view.host, view.caches)
    cache, layout = view.caches.find("signal_cache"), view.host.layout("struct task_struct")
    assert cache is not None
    assert layout is not None
    (request,) = (r for r in known.from_cache(cache) if r.function.name == "copy_process")
    member = layout["signal"].offset
    kept = [
        k for k in Keepers(known).of(request) if (k.where, k.at, k.inside) == ("member", member, 0)
    ]
    assert kept
    bases = [Bases(known, view.btf).of(k) for k in kept]
    task = view.caches.find("task_struct")
    assert task is not None
    # dup_task_struct(), inlined there, has just allocated it.
    assert {b.cache for b in bases if b is not None} == {task.address}


def test_types_of_a_real_kernel_tell_what_a_register_leads_to() -> None:
    view = lab_view("default")
    known = requests_of(view.host, view.caches)
    keepers, bases = Keepers(known), Bases(known, view.btf)
    cache, layout = view.caches.find("lsm_inode_cache"), view.host.layout("struct inode")
    assert cache is not None
    assert layout is not None
    found = {
        (base.name, k.at + base.offset)
        for r in known.from_cache(cache)
        if r.function.name == "security_inode_alloc"
        for k in keepers.of(r)
        if (base := bases.of(k)) is not None
    }
    assert ("inode", layout["i_security"].offset) in found
