"""Walking a list_head list, with a bound and without trust.

It knows nothing of what is on the list.
"""

from __future__ import annotations

from collections.abc import Iterator

from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import u64


def entries(host: Host, head: int, offset: int, limit: int) -> Iterator[int]:
    """Addresses of the structures on the list at `head`, whose list_head is at `offset`.

    It ends where the list does, at `limit`, at a node seen before, or at one that cannot be read.
    """
    seen: set[int] = set()
    try:
        at = u64(host, head)
        while at and at != head and at not in seen and len(seen) < limit:
            seen.add(at)
            yield (at - offset) & (1 << 64) - 1
            at = u64(host, at)
    except ReadFault:
        return
