"""The list that a group's objects are all on, by the name of its head.

Who puts an object on a list mostly made it, and names the list to do so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from crashext.analysis.results.evidence import Chain
from crashext.hosts.base import Host

_NAMED = re.compile(r"(?P<name>[\w.$]+)(?:\+0x[0-9a-f]+)?(?: \[(?P<module>[\w-]+)\])?", re.ASCII)
_LEFT_OUT = "... "


@dataclass(frozen=True)
class Head:
    """A variable that holds the first of them, and the others through it."""

    name: str
    module: str
    """"" for the kernel image."""
    address: int


def list_head(host: Host, cache: str, chains: Sequence[Chain]) -> Head | None:
    """What the objects of `cache` at the ends of `chains` all hang at by objects of their own kind.

    None where another object comes between: that may hold anything.
    """
    if not chains or len({c.steps[0].partition("+")[0] for c in chains}) > 1:
        return None
    for chain in chains:
        between = [s.rpartition("+0x")[0] or s for s in chain.steps[1:]]
        if any(s != cache and not s.startswith(_LEFT_OUT) for s in between):
            return None
    named = _NAMED.fullmatch(chains[0].steps[0])
    address = None if named is None else host.address_of(named["name"])
    if named is None or address is None:
        return None
    symbol = host.symbol_at(address)
    module = named["module"] or ""
    if symbol is None or (symbol.name, symbol.module) != (named["name"], module):
        return None
    return Head(named["name"], module, address)
