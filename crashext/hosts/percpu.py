"""Names of per-CPU variables: their symbols are offsets from 0, in no module's range.

So it is on x86-64 until 6.14; later they are in the kernel image like others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise

from crashext.hosts.base import Symbol

PERCPU_END = 1 << 24
"""Offsets of static per-CPU variables are below."""


def percpu_table(symbols: Iterable[tuple[int, str]], end: int) -> list[Symbol]:
    """(address, name) of any symbols to those below `end`, sorted; each reaches to the next.

    Of several names for one address the first by the alphabet is kept, on every host the same.
    """
    names: dict[int, str] = {}
    for address, name in symbols:
        if address < end and name and name[0] not in ".$" and not name.startswith("__per_cpu"):
            names[address] = min(name, names.get(address, name))
    order = [*sorted(names), end]
    return [Symbol(names[a], a, b - a) for a, b in pairwise(order) if a in names]


def symbol_in(table: list[Symbol], address: int) -> Symbol | None:
    """The symbol that `address` falls in."""
    at = bisect_right(table, address, key=lambda s: s.address) - 1
    symbol = table[at] if at >= 0 else None
    return symbol if symbol and address < symbol.address + symbol.size else None
