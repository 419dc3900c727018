"""Memory allocation profiling: the source line that allocated each object, since 6.10.

The kernel needs CONFIG_MEM_ALLOC_PROFILING and the switch sysctl.vm.mem_profiling; no debug
option of the cache is needed. Page allocations are not looked up here.

Sources: include/linux/codetag.h, alloc_tag.h, memcontrol.h struct slabobj_ext (6.10, 6.12).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Addresses, Host, ReadFault
from crashext.kernel.access import Words, column, string
from crashext.kernel.origin.slabexts import entry_words, object_entries, vector_member
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView

_EMPTY = 1  # CODETAG_EMPTY: allocated without a tag, on purpose
_MAX_TAGS = 4096
_MAX_TAG = 4096  # bytes of struct codetag: 32 in the kernels known


@dataclass(frozen=True)
class Tag:
    """One line of source code that allocates."""

    file: str
    line: int
    function: str
    module: str
    """"" for the kernel image."""


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
