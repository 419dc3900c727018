"""The vector that a slab keeps beside its objects: one entry an object, for the memory cgroup or
the allocation tag that pays for it.

It finds the entries. What is in them is for `memcg` and `allocprofile` to say.

Sources: mm/slab.h slab_obj_exts() (6.12), slab_objcgs() (6.1), include/linux/memcontrol.h.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Addresses, Host, Layout, Mask
from crashext.kernel.access import column, words_at
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.descriptors import slab_fields
from crashext.kernel.slab.view import KernelView

_LEAST_FLAGS = 7  # low bits of the pointer that are flags; a vector is aligned to 8 anyway


@dataclass(frozen=True)
class ObjectEntries:
    """Where each of n objects has its entry; `ok` is False where its slab has no vector."""

    address: Addresses
    ok: Mask


def vector_member(host: Host) -> tuple[Layout, str] | None:
    """The structure and member that point to a slab's vector; None: this kernel has none.

    page.obj_cgroups since 286e04b8ed7a (5.9), memcg_data since bcfe06bf2622 (5.11), both of
    obj_cgroup pointers; slab.obj_exts of struct slabobj_ext since 21c690a349ba (6.10).
    """
    for name, members in (
        ("struct slab", ("obj_exts", "memcg_data")),
        ("struct page", ("memcg_data", "obj_cgroups")),
    ):
        layout = host.layout(name)
        for member in members:
            if layout is not None and member in layout:
                return layout, member
    return None


def slab_bases(view: KernelView, objects: Addresses) -> tuple[Addresses, Mask]:
    """First slot of the slab of each object, by the index: ``(uint64[n], ok[n])``."""
    rows = view.index.locate(objects, view.caches)
    if not len(view.index.address):
        return np.zeros(len(objects), np.uint64), np.zeros(len(objects), np.bool_)
    return view.index.address[np.maximum(rows, 0)], rows >= 0


def object_entries(
    view: KernelView, cache: SlabCache, objects: Addresses, entry_size: int
) -> ObjectEntries:
    """Entries of `objects` of `cache`, `entry_size` bytes each; `view.scan` was called."""
    found = vector_member(view.host)
    none = ObjectEntries(np.zeros(len(objects), np.uint64), np.zeros(len(objects), np.bool_))
    if found is None or not len(objects):
        return none
    layout, member = found
    bases, ok = slab_bases(view, objects)
    unique, inverse = np.unique(bases, return_inverse=True)
    rows, _, rows_ok = slab_fields(view.host).rows_of(view.memory, view.space, unique)
    flags = max(_LEAST_FLAGS, (view.host.enumerator("__NR_OBJEXTS_FLAGS") or 0) - 1)
    vector = (column(rows, layout[member]) & ~np.uint64(flags))[inverse]
    # Entries may be further apart than they are long: slab.stride, 7.0.
    stride = np.full(len(unique), entry_size, np.uint64)
    if "stride" in layout:
        given = column(rows, layout["stride"])
        stride = np.where(given >= entry_size, given, stride)
    first = bases + np.uint64(cache.red_left_pad)
    number = (objects - first) // np.uint64(cache.slot_size)
    return ObjectEntries(vector + number * stride[inverse], ok & rows_ok[inverse] & (vector != 0))


def entry_words(view: KernelView, entries: ObjectEntries, offset: int) -> tuple[Addresses, Mask]:
    """The word at `offset` of each entry: ``(uint64[n], ok[n])``; zeros where not ok."""
    values = np.zeros(len(entries.ok), np.uint64)
    ok = entries.ok.copy()
    if ok.any():
        values[ok], ok[entries.ok] = words_at(
            view.host, entries.address[entries.ok] + np.uint64(offset)
        )
    values[~ok] = 0
    return values, ok
