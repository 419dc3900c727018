"""The ladder: strongest record first, one histogram, and advice that fits the kernel."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from crashext.analysis.likeness.words import Classifier, WordMap
from crashext.analysis.origin.ladder import MAX_OBJECTS, Attribution, Ladder
from crashext.hosts.base import Module, Symbol
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView
from tests.fake import FakeHost, layout, slab_cache, word
from tests.kernel.origin.test_kmemleak import NEW as KMEMLEAK
from tests.kernel.origin.test_kmemleak import OBJECT as LEAKED
from tests.kernel.origin.test_kmemleak import OLD, Table
from tests.kernel.origin.test_slabexts import CODETAG, TEXTS, VECTOR, Slab, put_tag
from tests.kernel.origin.test_tracks import CACHE as KMEM_CACHE
from tests.kernel.origin.test_tracks import OLD as TRACK

TEXT, MODULE = 0xFFFFFFFF81000000, 0xFFFFFFFFC0000000
OBJECTS = 0xFFFF888000900000
SYMBOLS = {"kmalloc_trace": TEXT, "d_alloc": TEXT + 0x100, "leak_one": MODULE, "probe": TEXT + 512}
BOND = Module("bond", ((MODULE, MODULE + 0x1000),))
PLAIN = slab_cache(size=512, object_size=64, freelist_offset=32)
TRACKED = replace(PLAIN, flags=frozenset({"STORE_USER"}))


def view_of(host: FakeHost) -> KernelView:
    index = SimpleNamespace(
        address=np.zeros(0, np.uint64), locate=lambda objects, caches: np.full(len(objects), -1)
    )
    return cast(KernelView, SimpleNamespace(host=host, caches=None, index=index))


def ask(view: KernelView, cache: SlabCache, *objects: int) -> Attribution:
    at = np.array(objects, np.uint64)
    values = np.zeros((len(at), 1), np.uint64)
    words = WordMap(values, values.astype(np.uint8), values)
    return Ladder(view, Classifier()).attribute(cache, at, words)


class NamedHost(FakeHost):
    """One whose symbols know their module, as those of real hosts do."""

    def symbol_at(self, address: int) -> Symbol | None:
        found = super().symbol_at(address)
        inside = any(a <= address < b for a, b in BOND.ranges)
        return replace(found, module="bond") if found and inside else found


def traced(*tracks: tuple[int, int, int]) -> FakeHost:
    """Objects 512 bytes apart with (caller's address, pid, when); allocated through kmalloc."""
    host = NamedHost(KMEM_CACHE, TRACK, symbols=dict(SYMBOLS), modules=(BOND,))
    host.put(PLAIN.address, bytes(32) + (64).to_bytes(4, "little") + bytes(164))
    for name, address, value in (
        ("jiffies_64", TEXT + 0x10000, (1 << 32) + 5000),
        ("tick_length", TEXT + 0x10008, 4_000_000 << 32),
    ):
        host.symbols[name] = address
        host.put(address, word(value))
    for i, (caller, pid, when) in enumerate(tracks):
        stack = word(TEXT + 4, TEXT + 4, caller, TEXT + 516, *(0,) * 13)
        data = stack + (0).to_bytes(4, "little") + pid.to_bytes(4, "little") + word(when)
        host.put(OBJECTS + 512 * i, bytes(64) + data + bytes(512 - 64 - len(data)))
    return host


def test_sites_by_number_of_objects_with_pids_and_ages() -> None:
    late, early = (1 << 32) + 4000, (1 << 32) - 5000
    host = traced(
        (MODULE + 4, 7, early),
        (TEXT + 0x104, 1, late),
        (MODULE + 4, 7, late),
        (MODULE + 4, 9, late),
    )
    found = ask(view_of(host), TRACKED, *(OBJECTS + 512 * i for i in range(4)))
    first, second = found.allocators
    assert (first.rung, first.site, first.module) == ("slub-track", "leak_one+0x4", "bond")
    assert (first.objects, first.of) == (3, 4)
    assert first.stack == ("kmalloc_trace+0x4", "leak_one+0x4 [bond]", "probe+0x4")
    assert first.note == "pids 7, 9, 4.0 to 40 s before the dump"
    assert (second.site, second.module, second.objects) == ("d_alloc+0x4", "", 1)
    assert second.note == "pid 1, 4.0 s before the dump"
    assert found.unknown == ""


def test_an_object_whose_track_is_not_in_the_dump_counts_as_looked_at() -> None:
    host = traced((MODULE + 4, 7, 1 << 32))
    found = ask(view_of(host), TRACKED, OBJECTS, OBJECTS + 0x100000)
    assert [(a.objects, a.of) for a in found.allocators] == [(1, 2)]


def test_many_objects_are_a_spread_of_them() -> None:
    host = traced(*[(MODULE + 4, 7, 1 << 32)] * 3)
    wanted = [OBJECTS + 512 * (i % 3) for i in range(3 * MAX_OBJECTS)]
    (only,) = ask(view_of(host), TRACKED, *wanted).allocators
    assert (only.objects, only.of) == (MAX_OBJECTS, MAX_OBJECTS)


def test_a_tag_is_stronger_than_a_track() -> None:
    slab = Slab("6.10", CODETAG)
    put_tag(slab, TEXTS, 1394, "ext4")
    put_tag(slab, TEXTS + 0x400, 77, "ext4")
    for i in range(8):
        slab.host.put(VECTOR + 16 * i + 8, word(TEXTS if i < 6 else TEXTS + 0x400))
    cache = replace(slab.machine.caches.all[0], flags=frozenset({"STORE_USER"}))
    found = ask(slab.view, cache, *slab.objects.tolist())
    assert [(a.rung, a.site, a.objects) for a in found.allocators] == [
        ("alloc-tag", "fs/ext4/super.c:1394 ext4_alloc_inode", 6),
        ("alloc-tag", "fs/ext4/super.c:77 ext4_alloc_inode", 2),
    ]


def test_kmemleak_knows_where_no_track_is() -> None:
    table = Table(8, OLD)
    table.host.symbols |= {"leak": 0x10, "probe": 0x20}
    found = ask(view_of(table.host), PLAIN, *(LEAKED + 64 * i for i in range(8)))
    (only,) = found.allocators
    assert (only.rung, only.site, only.objects) == ("kmemleak", "leak+0x1", 8)
    assert only.stack == ("leak+0x1", "probe+0x2")
    assert "100 (modpr)" in only.note
    assert "kmemleak itself reported 4 of them as leaked" in only.note
    assert [a.split(":")[0] for a in found.absent] == ["alloc-tag", "slub-track"]


def test_a_layout_that_is_not_understood_is_a_rung_that_is_absent() -> None:
    host = traced((MODULE + 4, 7, 1 << 32))
    del host.layouts["struct track"]
    found = ask(view_of(host), TRACKED, OBJECTS)
    assert found.allocators == ()
    assert any(a.startswith("slub-track: ") and "struct track" in a for a in found.absent)


@pytest.mark.parametrize(
    ("built", "options"),
    [
        (("struct track",), ["slub_debug=U,kmalloc-64"]),
        (("struct track", "struct page_owner"), ["slub_debug=U,kmalloc-64", "page_owner=on"]),
        (("struct kmemleak_object",), ["kmemleak=on"]),
        ((), []),
    ],
)
def test_the_advice_is_what_this_kernel_can_do(built: tuple[str, ...], options: list[str]) -> None:
    host = FakeHost(KMEM_CACHE, *(KMEMLEAK if "kmemleak" in n else layout(n, 64) for n in built))
    found = ask(view_of(host), PLAIN, OBJECTS)
    assert found.allocators == ()
    assert found.unknown.startswith("cannot tell who allocated them: no record in this dump")
    known = ("slub_debug=U,kmalloc-64", "page_owner=on", "kmemleak=on", "sysctl.vm.mem_profiling=1")
    assert [o for o in known if o in found.unknown] == [o for o in known if o in options]
    assert ("built without SLUB_DEBUG," in found.unknown) == (not options)


def test_slab_has_an_option_of_its_own() -> None:
    host = FakeHost(layout("struct kmem_cache", 200, num=(32, 4), gfporder=(36, 4)))
    found = ask(view_of(host), PLAIN, OBJECTS)
    assert "built without DEBUG_SLAB," in found.unknown
    assert any("has no user tracking (CONFIG_DEBUG_SLAB)" in a for a in found.absent)
