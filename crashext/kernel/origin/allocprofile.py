"""Memory allocation profiling: the source line that allocated each object, since 6.10.

The kernel needs CONFIG_MEM_ALLOC_PROFILING and the switch sysctl.vm.mem_profiling; no debug
option of the cache is needed. Of pages it notes the first of each allocation, in page_ext, or in
the flags of its struct page (tagnumbers.py).

Sources: include/linux/codetag.h, alloc_tag.h, pgalloc_tag.h, memcontrol.h struct slabobj_ext,
lib/alloc_tag.c (6.10, 6.12).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Addresses, Host, ReadFault
from crashext.kernel.access import Words, column, string, words_at
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.memmap import MemoryMap
from crashext.kernel.origin.pageext import client_offset, page_exts
from crashext.kernel.origin.slabexts import entry_words, object_entries, vector_member
from crashext.kernel.origin.tagnumbers import numbered_tags
from crashext.kernel.pages.shifted import page_ext_size
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView

_EMPTY = 1  # CODETAG_EMPTY: allocated without a tag, on purpose
_MAX_TAGS = 4096
_MAX_TAG = 4096  # bytes of struct codetag: 32 in the kernels known
_MAX_EXT = 4096
_WORD = 8
_KERNEL_SPACE = 1 << 63


@dataclass(frozen=True)
class Tag:
    """One line of source code that allocates."""

    file: str
    line: int
    function: str
    module: str
    """"" for the kernel image."""

    @property
    def site(self) -> str:
        """``mm/slub.c:4150 kmalloc_large_node``"""
        return f"{self.file}:{self.line} {self.function}"


@dataclass(frozen=True)
class Outstanding:
    """What one line of source allocated and nobody freed, exactly, by its own counters."""

    calls: int
    bytes: int


def profiled(host: Host) -> bool:
    """Whether this kernel was built to note tags."""
    found = vector_member(host)
    entry = host.layout("struct slabobj_ext")
    return (
        found is not None
        and found[1] == "obj_exts"
        and entry is not None
        and "ref" in entry
        and host.layout("struct codetag") is not None
    )


def object_tags(view: KernelView, cache: SlabCache, objects: Addresses) -> Words:
    """Address of each object's struct codetag; 0 where none is noted. uint64[n]."""
    entry = view.host.layout("struct slabobj_ext")
    if not profiled(view.host) or entry is None:
        return np.zeros(len(objects), np.uint64)
    entries = object_entries(view, cache, objects, entry.size)
    # struct slabobj_ext.ref is union codetag_ref, whose only member is the pointer.
    values, _ = entry_words(view, entries, entry["ref"].offset)
    return np.where(values > _EMPTY, values, np.uint64(0))


def page_tags(memory: MemoryMap, pfns: Words) -> Words:
    """Address of the struct codetag of the allocation that each page frame begins; 0 where none is
    noted. uint64[n]."""
    numbered = numbered_tags(memory, pfns) if len(pfns) else None
    return _beside(memory.host, pfns) if numbered is None else numbered


def _beside(host: Host, pfns: Words) -> Words:
    """The same from page_ext."""
    none = np.zeros(len(pfns), np.uint64)
    ext, offset = host.layout("struct page_ext"), client_offset(host, "page_alloc_tagging_ops")
    if ext is None or offset is None or not len(pfns):
        return none
    size = page_ext_size(host, ext.size)
    if not 0 <= offset <= size - _WORD or size > _MAX_EXT:
        return none
    entries, ok = page_exts(host, pfns, size)
    none[ok], good = words_at(host, entries[ok] + np.uint64(offset))
    none[np.flatnonzero(ok)[~good]] = 0
    # The offset is 0 too where this part is not needed: then page_ext's flags are there, small
    # numbers. They are left out themselves where nobody needs them.
    return np.where(none >= _KERNEL_SPACE, none, np.uint64(0))


def outstanding(host: Host, space: AddressSpace, tags: Words) -> dict[int, Outstanding]:
    """What the counters of some tags say, summed over all CPUs; none of those that cannot be read.

    Each counts from when profiling was switched on; it counts a slab's pages at the line that makes
    slabs, not at those whose objects are in them.
    """
    tag, counters = host.layout("struct alloc_tag"), host.layout("struct alloc_tag_counters")
    where = np.unique(tags[tags != 0])[:_MAX_TAGS]
    if tag is None or counters is None or not len(where):
        return {}
    pointer, ok = words_at(host, where + np.uint64(tag["counters"].offset - tag["ct"].offset))
    sums = {}
    for name in ("calls", "bytes"):
        at = pointer + np.uint64(counters[name].offset)
        sums[name] = np.zeros(len(where), np.uint64)
        for offset in space.percpu_offsets:
            values, good = words_at(host, at + np.uint64(offset))
            sums[name] += values
            ok &= good
    # Freed on another CPU than allocated: only the sum is no negative number.
    calls, size = sums["calls"].view(np.int64), sums["bytes"].view(np.int64)
    ok &= (calls >= 0) & (size >= 0) & (pointer != 0)
    return {int(where[i]): Outstanding(int(calls[i]), int(size[i])) for i in np.flatnonzero(ok)}


def read_tags(host: Host, addresses: Words) -> dict[int, Tag]:
    """The tags at some addresses, without those that cannot be read."""
    layout = host.layout("struct codetag")
    where = np.unique(addresses[addresses != 0])[:_MAX_TAGS]
    if layout is None or layout.size > _MAX_TAG or not len(where):
        return {}
    rows, ok = host.read_many(where, layout.size)
    line = column(rows, layout["lineno"])
    names = {n: column(rows, layout[n]) for n in ("modname", "function", "filename")}
    tags = {}
    for i in np.flatnonzero(ok).tolist():
        try:
            tags[int(where[i])] = Tag(
                file=string(host, int(names["filename"][i])),
                line=int(line[i]),
                function=string(host, int(names["function"][i])),
                module=_module(host, int(names["modname"][i])),
            )
        except ReadFault:
            continue
    return tags


def _module(host: Host, name: int) -> str:
    """KBUILD_MODNAME, which built-in code has too: only a loaded module's name counts."""
    try:
        text = string(host, name) if name else ""
    except ReadFault:
        return ""
    text = text.replace("-", "_")
    return text if any(m.name == text for m in host.modules()) else ""
