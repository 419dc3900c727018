"""Who holds the objects of a machine's largest caches, as facts for the verdict."""

from __future__ import annotations

from collections import Counter

import numpy as np

from crashext.analysis.likeness.survey import make_classifier
from crashext.analysis.reach.holders import MOST_EXAMINED, Holders
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.types.candidates import Types, settled
from crashext.analysis.verdict.facts import Facts, HolderFact
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.objects import State
from crashext.progress import Progress

_TOP_CACHES = 12
"""Caches of which it is looked up who holds their objects: the largest."""
_TOP_ROOTS = 3
_LEAST_HELD = 0.1
_NAMED_SHARE = 0.02  # share of memory from which it is worth a moment to name a module
_TYPED = 512


def holder_facts(marked: Reach, facts: Facts, progress: Progress) -> tuple[HolderFact, ...]:
    """The roots of the largest caches' objects, most bytes first; shares are of a sample."""
    holders = Holders(marked)
    names = {cache.name: cache for cache in marked.view.caches.all}
    found = []
    for done, fact in enumerate(facts.caches[:_TOP_CACHES]):
        progress("holders", done, _TOP_CACHES)
        cache = names[fact.name]
        rows = marked.table.index.rows_of(marked.view.caches.index(cache))
        slots = np.concatenate(
            [
                np.zeros(0, np.int64),
                *(
                    np.arange(marked.table.first[r], marked.table.first[r + 1])
                    for r in _spread(rows)
                ),
            ]
        )
        slots = slots[marked.table.state[slots] == State.ALLOCATED]
        reached = marked.marks.reached[slots]
        share_reached = float(reached.mean()) if len(slots) else 0.0
        slots, known = holders.worth_counting(slots[reached]), len(slots)
        if not len(slots):
            continue
        exact = known == fact.allocated and len(slots) == np.count_nonzero(reached)
        tally: Counter[tuple[str, str]] = Counter()
        for place, count in holders.count(slots).items():
            tally[place.owner, place.module] += count
        for (root, module), count in tally.most_common(_TOP_ROOTS):
            share = count / len(slots) * share_reached
            if share >= _LEAST_HELD:
                size = share * fact.allocated * fact.slot_size
                if not module and size >= _NAMED_SHARE * facts.total:
                    module = _module_by_type(marked, cache, slots)
                objects = round(share * fact.allocated)
                size = objects * fact.slot_size
                found.append(HolderFact(fact.name, root, module, objects, size, share, exact))
    found.sort(key=lambda h: (-h.bytes, h.cache, h.root))
    return tuple(found)


def _module_by_type(
    marked: Reach, cache: SlabCache, slots: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> str:
    """The module whose struct the objects fit best; "" where none stands out."""
    view = marked.view
    addresses = marked.table.addresses(_spread(slots)[:_TYPED])
    content, ok = view.host.read_many(addresses, cache.object_size)
    addresses, content = addresses[ok], content[ok]
    if not len(addresses):
        return ""
    classifier = make_classifier(view)
    words = classifier.classify(content, addresses)
    found = Types(view, classifier).candidates(
        cache, words, np.arange(len(addresses)), int(addresses[0])
    )
    best = settled(found)
    return best.module if best is not None else ""


def _spread(
    values: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """At most so many of them, evenly."""
    if len(values) <= MOST_EXAMINED:
        return values
    return values[np.linspace(0, len(values) - 1, MOST_EXAMINED).astype(np.intp)]
