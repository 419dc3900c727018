"""Huge page pools. Source: include/linux/hugetlb.h, mm/hugetlb.c (2.6.27 to 6.12)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Host
from crashext.kernel.access import column, variable
from crashext.kernel.addresses import page_size

_MAX_POOLS = 16
_MAX_ORDER = 30


@dataclass(frozen=True, slots=True)
class HugePool:
    """The huge pages of one size."""

    size: int
    """Bytes of a page."""
    pages: int
    free: int
    reserved: int
    surplus: int
    default: bool
    """The size that meminfo's HugePages_ lines speak of."""

    @property
    def bytes(self) -> int:
        return self.size * self.pages


def read_hugetlb(host: Host) -> tuple[HugePool, ...]:
    """Pools of every size; none where the kernel has no hugetlbfs."""
    layout, table = host.layout("struct hstate"), host.address_of("hstates")
    count = variable(host, "hugetlb_max_hstate", 4)
    names = ("order", "nr_huge_pages", "free_huge_pages", "resv_huge_pages", "surplus_huge_pages")
    if layout is None or table is None or not count or any(n not in layout for n in names):
        return ()
    default = variable(host, "default_hstate_idx", 4) or 0
    where = np.uint64(table) + np.arange(min(count, _MAX_POOLS), dtype=np.uint64) * np.uint64(
        layout.size
    )
    rows, ok = host.read_many(where, layout.size)
    columns = [column(rows, layout[name]).tolist() for name in names]
    return tuple(
        HugePool(page_size(host) << order, pages, free, reserved, surplus, i == default)
        for i, (order, pages, free, reserved, surplus) in enumerate(zip(*columns, strict=True))
        if ok[i] and order <= _MAX_ORDER
    )
