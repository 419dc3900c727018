"""What would show that a verdict is wrong, though nothing that was seen speaks against it.

The sentences follow from how a verdict is come by, not from the numbers of one dump: what speaks
against it there is in `Verdict.against`.
"""

from __future__ import annotations

from collections.abc import Mapping

from crashext.analysis.verdict.facts import Facts
from crashext.analysis.verdict.verdict import Outcome, Verdict, Where

_UNSEEN = "in memory that could not be read, or kept as something other than an address"
_LEAK: Mapping[Where, str] = {
    "slab": f"a pointer to one of them that was not seen: {_UNSEEN}",
    "vmalloc": f"a pointer into one of the areas that was not seen: {_UNSEEN}",
    "pages": "an address of one of them that was not seen, virtual, physical or of its struct "
    f"page: {_UNSEEN}",
}
_KMEMLEAK = (
    "a pointer that kmemleak does not look at: in pages of alloc_pages(), or kept as something "
    "other than an address"
)
_OTHERS: Mapping[Outcome, str] = {
    "deferred-free": "a later dump in which the same objects still wait: what should free them "
    "does not run",
    "held-growth": "an owner that is meant to keep so much, or a later moment at which it has not "
    "grown",
    "fragmentation": "a later moment at which the slabs are full again",
    "known-holder": "statistics of the holder's own that give another size",
    "user-space": "memory that stays in use when the process has ended or the file is deleted",
    "reclaimable": "memory that stays in use when it is asked back "
    "(echo 3 > /proc/sys/vm/drop_caches)",
}


def overturned_by(facts: Facts, verdict: Verdict) -> str:
    """ "" where there is nothing to overturn."""
    if verdict.kind == "leak":
        seen = facts.reachability is not None or verdict.where != "slab"
        return _LEAK.get(verdict.where, "") if seen else _KMEMLEAK
    if verdict.kind == "healthy":
        if facts.growth is None or not facts.growth.judged:
            return "another moment of the machine at which something has grown (--before OLD)"
        return "a longer time between the two moments, in which something grows"
    return _OTHERS.get(verdict.kind, "")
