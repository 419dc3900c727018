"""SLUB's tracks in the form before 5.19, which keeps the stack inline, and in damaged caches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crashext.hosts.base import Layout
from crashext.kernel.access import UnknownLayout
from crashext.kernel.origin.tracks import Event, read_tracks, tracked
from crashext.kernel.slab.caches import SlabCache
from tests.fake import FakeHost, layout, slab_cache, word

CACHE = layout("struct kmem_cache", 200, inuse=(32, 4), offset=(40, 4))
# 4.19: addr, addrs[16], cpu, pid, when. 6.1: addr, handle, cpu, pid, when.
OLD = layout(
    "struct track", 152, addr=(0, 8), addrs=(8, 128), cpu=(136, 4), pid=(140, 4), when=(144, 8)
)
NEW = layout("struct track", 32, addr=(0, 8), handle=(8, 4), cpu=(12, 4), pid=(16, 4), when=(24, 8))
OBJECT = 0xFFFF888000900040
FRAMES = [0xFFFFFFFF81000100 + 16 * i for i in range(16)]


def debugged(offset: int, size: int = 512) -> SlabCache:
    plain = slab_cache(size=size, object_size=64, freelist_offset=offset)
    return replace(plain, flags=frozenset({"STORE_USER"}))


def machine(track: Layout, inuse: int) -> FakeHost:
    host = FakeHost(CACHE, track)
    host.put(debugged(0).address, bytes(32) + inuse.to_bytes(4, "little") + bytes(164))
    host.put(OBJECT, bytes(512))
    return host


def old_track(addr: int, pid: int) -> bytes:
    return word(addr, *FRAMES) + (3).to_bytes(4, "little") + pid.to_bytes(4, "little") + word(77)


@pytest.mark.parametrize(
    ("offset", "inuse", "end"),
    [
        pytest.param(0, 64, 64, id="free pointer inside, at the start (before 5.7)"),
        pytest.param(32, 64, 64, id="free pointer inside, in the middle (5.7)"),
        pytest.param(64, 64, 72, id="free pointer behind the object"),
        pytest.param(72, 72, 80, id="free pointer behind the red zone"),
    ],
)
def test_the_first_track_follows_the_free_pointer(offset: int, inuse: int, end: int) -> None:
    host = machine(OLD, inuse)
    host.put(OBJECT + end, old_track(FRAMES[0], 212))
    host.put(OBJECT + end + 152, old_track(FRAMES[5], 8))
    cache = debugged(offset)
    for event, pid, addr in ((Event.ALLOC, 212, FRAMES[0]), (Event.FREE, 8, FRAMES[5])):
        found = read_tracks(host, cache, np.array([OBJECT], np.uint64), event)
        assert (found.pid.tolist(), found.addr.tolist()) == ([pid], [addr])
        assert found.inline.tolist() == [FRAMES]
        assert (found.cpu.tolist(), found.when.tolist(), found.handle.tolist()) == ([3], [77], [0])
        assert found.ok.all()


def test_since_5_19_there_is_a_handle_instead() -> None:
    host = machine(NEW, 64)
    data = word(FRAMES[0]) + b"".join(v.to_bytes(4, "little") for v in (0xABCDEF01, 1, 212, 0))
    host.put(OBJECT + 64, data + word(99))
    found = read_tracks(host, debugged(32), np.array([OBJECT], np.uint64))
    assert (found.handle.tolist(), found.pid.tolist()) == ([0xABCDEF01], [212])
    assert found.inline.shape == (1, 0)


def test_a_track_never_written_or_not_in_the_dump_is_not_ok() -> None:
    host = machine(NEW, 64)
    found = read_tracks(host, debugged(32), np.array([OBJECT, OBJECT + (1 << 20)], np.uint64))
    assert found.ok.tolist() == [False, False]
    assert found.addr.tolist() == [0, 0]


@pytest.mark.parametrize("inuse", [0, 63, 449, 1 << 30])
def test_an_end_of_the_object_that_cannot_be_is_said(inuse: int) -> None:
    with pytest.raises(UnknownLayout, match="no room for tracks"):
        read_tracks(machine(NEW, inuse), debugged(32), np.array([OBJECT], np.uint64))


def test_a_cache_without_user_tracking_is_said() -> None:
    assert not tracked(slab_cache())
    with pytest.raises(UnknownLayout, match="STORE_USER"):
        read_tracks(machine(NEW, 64), slab_cache(), np.array([OBJECT], np.uint64))


def test_slab_notes_one_address_in_the_last_word_of_the_slot() -> None:
    """dbg_userword() in mm/slab.c: the slot is red zone, object, red zone, address."""
    host = FakeHost(layout("struct kmem_cache", 200, num=(32, 4), gfporder=(36, 4)))
    cache = replace(
        slab_cache(size=128, object_size=104, red_left_pad=8), flags=frozenset({"STORE_USER"})
    )
    host.put(OBJECT - 8, bytes(120) + word(FRAMES[2]) + bytes(120) + word(0))
    found = read_tracks(host, cache, np.array([OBJECT, OBJECT + 128, OBJECT + 256], np.uint64))
    assert found.ok.tolist() == [True, False, False]
    assert found.addr.tolist() == [FRAMES[2], 0, 0]
    assert not found.pid.any()
    assert not found.when.any()
    assert found.inline.shape == (3, 0)
