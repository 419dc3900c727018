"""SLUB's slabs in the structures of each generation: a made-up cache is read back exactly."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.kernel.pages.frames import FrameUse, frames
from crashext.kernel.slab.freelist import Encoding
from crashext.kernel.slab.objects import State
from crashext.progress import silent
from tests.kernel.machine import VMEMMAP
from tests.kernel.maker import PG_HEAD, PG_TAIL
from tests.kernel.slubmaker import GENERATIONS, PAGES, Generation, Made, Maker

EACH = pytest.mark.parametrize("how", GENERATIONS, ids=lambda g: g.name)


def read_back(maker: Maker, of: Made) -> list[int]:
    """Allocated objects as the product finds them; none of its slabs may be damaged."""
    found: list[int] = []
    index = maker.index()
    rows = np.flatnonzero(index.cache == [c.name for c in maker.read_caches().all].index(of.name))
    assert index.address[rows].tolist() == sorted(first for first, _ in of.slabs)
    for batch in maker.reader(of.name).read(index, rows):
        assert not batch.broken.any()
        assert not batch.mismatched.any()
        found += batch.address[batch.state == State.ALLOCATED].tolist()
    return sorted(found)


@EACH
def test_a_made_up_cache_is_read_back_exactly(how: Generation) -> None:
    maker = Maker(how)
    small = maker.cache("kmalloc-64", 64, 64)
    large = maker.cache("large", 1088, 7, order=1, link=512)
    rng = np.random.default_rng(3)
    for n in (0, 2, 30, 63, 64):
        maker.slab(small, rng.permutation(64)[:n].tolist())
    order = rng.permutation(64).tolist()
    maker.slab(small, order[:9], on_cpu=order[9:20])
    for n in (0, 3, 7):
        maker.slab(large, rng.permutation(7)[:n].tolist())
    index = maker.index()
    assert (len(index.address), index.unknown, index.impossible) == (9, 0, 0)
    for cache in (small, large):
        assert read_back(maker, cache) == cache.allocated()


@EACH
def test_the_freelists_say_how_they_are_encoded(how: Generation) -> None:
    maker = Maker(how)
    cache = maker.cache("kmalloc-64", 64, 64)
    for n in range(3, 11):
        maker.slab(cache, range(n, n + 20))
    index = maker.index()
    proof = maker.reader(cache.name).prove(index, np.arange(len(index.address)))
    if how.encoding is Encoding.PLAIN:
        assert proof.lists == 0  # nothing is hardened
    else:
        assert proof.encoding is how.encoding
        assert proof.failures[0 if how.encoding is Encoding.XOR_SWAPPED else 1] == 0


@EACH
def test_pages_are_what_their_struct_pages_of_then_say(how: Generation) -> None:
    maker = Maker(how)
    count = next(m for m in ("_count", "_refcount") if m in how.page)
    for pfn in range(PAGES):
        maker.page(pfn, _mapcount=0xFFFFFFFF, **{count: 1})
    # A free block: no reference, its order in `private`, and a mark where mappings are counted.
    mark = 0xFFFFFF7F if "page_type" in how.page else 0xFFFFFF80
    for pfn in range(64, 68):
        maker.page(pfn, **{count: 0})
    maker.host.put(VMEMMAP + 64 * 64 + how.page["_mapcount"][0], mark.to_bytes(4, "little"))
    maker.page(64, private=2)
    maker.page(70, flags=1 << 10)
    cache = maker.cache("large", 1088, 7, order=1)
    first = maker.slab(cache, [1])
    slab = (first - maker.space.direct.start) >> 12
    link = VMEMMAP + 64 * 80
    maker.page(80, flags=1 << PG_HEAD)
    if "compound_head" in how.page:
        maker.page(81, compound_head=link | 1)
    else:
        maker.page(81, flags=1 << PG_TAIL, first_page=link)
    for tail in (slab + 1, 81):
        maker.host.put(VMEMMAP + 64 * tail + how.page[count][0], bytes(4))
    use = frames(maker.host, maker.memory, maker.space, silent).use
    assert (use[64:68] == FrameUse.FREE).all()
    assert use[70] == FrameUse.RESERVED
    assert (use[slab : slab + 2] == FrameUse.SLAB).all()
    rest = np.setdiff1d(np.arange(PAGES), [64, 65, 66, 67, 70, slab, slab + 1])
    assert (use[rest] == FrameUse.KERNEL).all()
