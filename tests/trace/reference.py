"""The same pairing with a regular expression a line and a dictionary: slow, plain, the oracle."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

_EVENT = re.compile(
    rb" (kmalloc|kmem_cache_alloc|kfree|kmem_cache_free): call_site=([^ ]+)(?: \[\w+\])? "
    rb"ptr=([0-9a-f]+)(?: bytes_req=\d+ bytes_alloc=(\d+))?[ \n]"
)


@dataclass
class Reference:
    """What a dictionary knows after the last line."""

    outstanding: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    """Address -> function and bytes."""
    allocs: Counter[bytes] = field(default_factory=Counter)
    frees: Counter[bytes] = field(default_factory=Counter)
    reused: int = 0
    unknown: int = 0

    def take(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            match = _EVENT.search(line)
            if match is None:
                continue
            address = int(match[3], 16)
            site = match[2].split(b"/")[0]
            if match[1] in (b"kmalloc", b"kmem_cache_alloc"):
                self.reused += address in self.outstanding
                self.allocs[site] += 1
                self.outstanding[address] = (site, int(match[4]))
            elif address in self.outstanding:
                self.frees[self.outstanding.pop(address)[0]] += 1
            else:
                self.unknown += 1

    def table(self) -> dict[str, tuple[int, int, int, int]]:
        """Function -> outstanding, bytes, allocs, frees."""
        held: Counter[bytes] = Counter()
        size: Counter[bytes] = Counter()
        for site, amount in self.outstanding.values():
            held[site] += 1
            size[site] += amount
        return {
            site.decode(): (held[site], size[site], count, self.frees[site])
            for site, count in self.allocs.items()
        }
