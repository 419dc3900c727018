"""How many memory cgroups the kernel keeps, and how many of them were removed but are not gone.

Sources: include/linux/cgroup-defs.h struct cgroup.nr_descendants and nr_dying_descendants
(0679dee03c6d, 4.14, to 6.12), mm/memcontrol.c mem_cgroup_alloc(), kernel/cgroup/cgroup.c
cgroup_create().
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import u32, u64

_STRUCTURES = ("mem_cgroup", "mem_cgroup_per_node", "cgroup")
"""Of each cgroup; all but the last have a cache of their own since 6.16."""
_MOST = 1 << 24


def memory_cgroups(host: Host) -> tuple[int | None, int | None]:
    """(kept, dying) below the root of the hierarchy that memory is in; None: not known."""
    of_root, of_cgroup = host.layout("struct cgroup_root"), host.layout("struct cgroup")
    subsystem, at = host.layout("struct cgroup_subsys"), host.address_of("memory_cgrp_subsys")
    if at is None or of_root is None or of_cgroup is None or subsystem is None:
        return None, None
    if "cgrp" not in of_root or "root" not in subsystem or "nr_dying_descendants" not in of_cgroup:
        return None, None
    try:
        top = u64(host, at + subsystem["root"].offset) + of_root["cgrp"].offset
        alive, dying = (
            u32(host, top + of_cgroup[name].offset)
            for name in ("nr_descendants", "nr_dying_descendants")
        )
    except (ReadFault, OverflowError):
        return None, None
    return (alive + dying, dying) if alive + dying < _MOST else (None, None)


def caches_of_cgroups(host: Host, names: Iterable[str]) -> tuple[str, ...]:
    """Of these caches those that the structures of a cgroup are from."""
    listed = set(names)
    sizes = sorted(
        (int(m[1]) << (10 if m[2] else 0), name)
        for name in listed
        if (m := re.fullmatch(r"kmalloc-(\d+)(k?)", name))
    )
    found = [name for name in _STRUCTURES if name in listed]
    for structure in _STRUCTURES:
        layout = host.layout(f"struct {structure}")
        if layout is not None and structure not in listed:
            found += [name for size, name in sizes if size > layout.size][:1]
    return tuple(dict.fromkeys(found))
