"""Frees that wait for an RCU grace period: callbacks of call_rcu(), objects of kfree_rcu().

Sources: kernel/rcu/tree.h (rcu_data.cblist), include/linux/rcu_segcblist.h, kernel/rcu/tree.c
(struct kfree_rcu_cpu; 5.x to 6.12); mm/slub.c __kfree_rcu_sheaf() (7.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Addresses, Host, Layout, Member, ReadFault
from crashext.kernel.access import column, u64
from crashext.kernel.addresses import AddressSpace

_MOST_CACHED = 1 << 12  # pages a CPU; the kernel keeps five, rcu_min_cached_objs
_MOST = 1 << 40  # more waiting frees than any machine has memory for


@dataclass(frozen=True)
class Backlog:
    """Summed over all CPUs."""

    callbacks: int
    frees: int
    sheaves: bool = False
    """Whether one callback may free a sheaf of objects, which kfree_rcu() fills since 6.18."""


def read_backlog(host: Host, space: AddressSpace) -> Backlog | None:
    """Count them; None where this kernel keeps them elsewhere."""
    callbacks = _sum(host, space, "rcu_data", "struct rcu_data", _callbacks(host))
    frees = _sum(host, space, "krc", "struct kfree_rcu_cpu", _frees(host))
    if callbacks is None and frees is None:
        return None
    sheaves = host.layout("struct slub_percpu_sheaves")
    return Backlog(callbacks or 0, frees or 0, sheaves is not None and "rcu_free" in sheaves)


def cached_pages(host: Host, space: AddressSpace) -> Addresses:
    """Pages that kfree_rcu() keeps for later: uint64[n] of direct-map addresses.

    Only their first word, the link to the next, means anything; the rest are objects long freed.
    53c72b590b3a (5.9) brought `bkvcache`.
    """
    symbol, layout = host.address_of("krc"), host.layout("struct kfree_rcu_cpu")
    found: list[int] = []
    if symbol is None or layout is None or "bkvcache" not in layout:
        return np.zeros(0, np.uint64)
    for offset in space.percpu_offsets:
        at = symbol + offset + layout["bkvcache"].offset & (1 << 64) - 1
        seen: set[int] = set()
        while len(seen) < _MOST_CACHED:
            try:
                at = u64(host, at)
            except ReadFault:
                break
            if not space.direct.start <= at < space.direct.end or at in seen:
                break
            seen.add(at)
        found += seen
    return np.array(sorted(found), np.uint64)


def _callbacks(host: Host) -> list[Member]:
    data, lists = host.layout("struct rcu_data"), host.layout("struct rcu_segcblist")
    if data is None or lists is None or "cblist" not in data or "len" not in lists:
        return []
    return [Member(data["cblist"].offset + lists["len"].offset, 8)]


def _frees(host: Host) -> list[Member]:
    layout = host.layout("struct kfree_rcu_cpu")
    if layout is None:
        return []
    # 8fc5494ad5fa (6.3) split count into head_count and bulk_count[].
    if "count" in layout:
        return [layout["count"]]
    members = []
    if "head_count" in layout:
        members.append(Member(layout["head_count"].offset, 4))
    if "bulk_count" in layout:
        bulk = layout["bulk_count"]
        members += [Member(bulk.offset + 4 * i, 4) for i in range(min(bulk.size // 4, 4))]
    return members


def _sum(
    host: Host, space: AddressSpace, variable: str, kind: str, members: list[Member]
) -> int | None:
    symbol = host.address_of(variable)
    layout: Layout | None = host.layout(kind)
    if symbol is None or layout is None or not members:
        return None
    where = np.uint64(symbol) + np.array(space.percpu_offsets, np.uint64)
    size = max(m.offset + m.size for m in members)
    rows, ok = host.read_many(where, size)
    total = 0
    for member in members:
        values = column(rows[ok], member)
        total += int(values[values < _MOST].sum())
    return total
