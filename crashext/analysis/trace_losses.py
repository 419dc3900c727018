"""Which call sites of a trace allocated objects that nothing reaches: evidence for the verdict."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from crashext.analysis.reach.reachability import Class, Reach
from crashext.analysis.results.joined import Traced
from crashext.analysis.verdict.facts import UnreachableFact

_LEAST = 8  # unreachable objects that a site must have allocated to be named


def named_by_trace(
    marked: Reach, traced: Traced | None, facts: tuple[UnreachableFact, ...]
) -> tuple[UnreachableFact, ...]:
    """The same facts, with the caller where the trace saw most of a cache's unreachable
    objects allocated.

    An object counts that begins where the trace says and is unreachable now. The caller that a
    record in the dump itself names is stronger and stays; one that is likely by the code does not.
    """
    if traced is None or traced.hashed or not len(traced):
        return facts
    table = marked.table
    slots = table.at(traced.address)
    gone = np.isin(marked.classes(slots), (Class.ORPHAN, Class.STRUCTURE))
    gone[gone] = table.addresses(slots[gone]) == traced.address[gone]
    sites: dict[str, Counter[int]] = {}
    caches = marked.view.caches.all
    for cache, site in zip(
        table.caches(slots[gone]).tolist(), traced.site[gone].tolist(), strict=True
    ):
        sites.setdefault(caches[cache].name, Counter())[site] += 1
    return tuple(_named(fact, traced, sites.get(fact.cache)) for fact in facts)


def _named(fact: UnreachableFact, traced: Traced, counts: Counter[int] | None) -> UnreachableFact:
    if not counts:
        return fact
    (number, count), *_ = counts.most_common(1)
    if count < _LEAST or 2 * count < counts.total():
        return fact
    site = traced.sites[number]
    by = site.function + (f" [{site.module}]" if site.module else "")
    said = (
        f"{by} allocated {count:,} of the {counts.total():,} unreachable {fact.cache} "
        f"objects that a trace of {traced.seconds:.1f} s saw"
    )
    seen = replace(fact, evidence=(said, *fact.evidence), traced=True)
    if fact.caller and not fact.likely:
        return seen
    return replace(seen, caller=site.function, module=site.module or fact.module, likely=False)
