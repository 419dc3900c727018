"""Pairing against a dictionary, whatever the pieces that the text comes in."""

from __future__ import annotations

import random

import numpy as np
import pytest

from crashext.trace import pairing
from crashext.trace.pairing import NOT_PAIRED, Table
from tests.trace.generator import lines
from tests.trace.helpers import read, site, skipped
from tests.trace.reference import Reference


@pytest.mark.parametrize("small", [1, 1 << 16])
@pytest.mark.parametrize("seed", range(8))
def test_table_is_a_dictionary(seed: int, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "_SMALL", small)  # how many entries the new part may have
    rng = random.Random(seed)
    table = Table()
    known: dict[int, int] = {}
    for _ in range(40):
        n = rng.randrange(0, 60)
        keys = [rng.randrange(1, 30) << 6 for _ in range(n)]
        allocates = [rng.random() < 0.5 for _ in range(n)]
        flow = list(range(1, n + 1))
        matched = table.advance(
            np.array(keys, np.uint64),
            np.array(allocates, bool),
            np.array(flow, np.int32),
            *(np.zeros(n, np.int32), np.zeros(n, np.int32), np.arange(n, dtype=np.int64)),
        )
        paired, unknown, lost = [], [], []
        for key, allocate, number in zip(keys, allocates, flow, strict=True):
            paired.append(NOT_PAIRED if allocate else known.get(key, NOT_PAIRED))
            unknown.append(not allocate and key not in known)
            if allocate:
                lost += [known[key]] if key in known else []
                known[key] = number
            else:
                known.pop(key, None)
        assert matched.flow.tolist() == paired
        assert matched.unknown.tolist() == unknown
        assert sorted(matched.lost.tolist()) == sorted(lost)
        assert len(table) == len(known)
        if rng.random() < 0.2:
            held = table.entries()
            assert dict(zip(held.keys.tolist(), held.flow.tolist(), strict=True)) == known
            assert held.keys.tolist() == sorted(known)


@pytest.mark.parametrize("drop", [0.0, 0.01])
def test_a_long_trace_is_paired_as_by_a_dictionary(drop: float) -> None:
    """Also with lines lost: then frees are unknown, and addresses come back."""
    rng = random.Random(1)
    text = [line for line in lines(120_000) if line.startswith(b"#") or rng.random() >= drop]
    reference = Reference()
    reference.take(text)
    trace = read(b"".join(text))
    table = {s.function: (s.outstanding, s.bytes, s.allocs, s.frees) for s in trace.sites}
    assert table == reference.table()
    assert trace.outstanding.address.tolist() == sorted(reference.outstanding)
    assert skipped(trace, "no free seen") == reference.reused
    assert skipped(trace, "before the trace") + skipped(trace, "freed just before") == (
        reference.unknown
    )
    assert bool(reference.reused) == bool(drop)
    leak = site(trace, "leaky_function+0x21")
    assert leak.outstanding == leak.allocs
    assert min(leak.spread) > 0


def test_the_pieces_do_not_matter() -> None:
    text = b"".join(lines(3000))
    whole = read(text)
    for piece in (1, 7, 4096):
        parts = read(text, piece)
        assert (parts.sites, parts.caches, parts.skipped) == (
            whole.sites,
            whole.caches,
            whole.skipped,
        )
        assert np.array_equal(parts.outstanding.address, whole.outstanding.address)


def _event(number: int, what: str) -> str:
    return f" sh-1 [000] ..... 1.{number:06}: {what}\n"


def test_a_cache_is_learnt_from_its_frees() -> None:
    alloc = "kmem_cache_alloc: call_site=d_alloc+0x1/0x2 ptr={:x} bytes_req=192 bytes_alloc=192 "
    text = ""
    for i in range(10):
        text += _event(i, (alloc + "gfp_flags=GFP_KERNEL").format(0xFFFF888000000000 + 192 * i))
    for i in range(4):
        pointer = 0xFFFF888000000000 + 192 * i
        text += _event(
            20 + i, f"kmem_cache_free: call_site=d_free+0x1/0x2 ptr={pointer:x} name=dentry"
        )
    text += _event(30, "kmem_cache_free: call_site=d_free+0x1/0x2 ptr=ffff888000ffff00 name=dentry")
    trace = read(text)
    [dentry] = trace.caches
    assert (dentry.name, dentry.allocs, dentry.frees, dentry.outstanding) == ("dentry", 10, 5, 6)
    assert dentry.bytes == 6 * 192
    assert sum(dentry.growth) == 6
    assert dentry.per_hour == pytest.approx(5 * 192 / 30e-6 * 3600)
    assert trace.sites[0].frees == 4


def test_pages_pair_by_number_and_order() -> None:
    alloc = "mm_page_alloc: page=ffffea0000000000 pfn=0x{:x} order={} migratetype=0 gfp_flags="
    free = "mm_page_free: page=ffffea0000000000 pfn=0x{:x} order={}"
    text = "".join(
        _event(i, what)
        for i, what in enumerate(
            [alloc.format(256, 3), alloc.format(512, 0), free.format(512, 0), free.format(256, 0)]
        )
    )
    trace = read(text)
    assert trace.outstanding_pages.address.tolist() == [256]
    assert trace.outstanding_pages.size.tolist() == [8 * 4096]
    assert skipped(trace, "another order") == 1
