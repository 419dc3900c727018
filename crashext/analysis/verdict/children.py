"""Caches of memory cgroups, summed under their parents: kernels before 5.9 gave every cgroup slab
caches of its own, ``kmalloc-32(6:b)``, and a leak or waste is spread over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from crashext.analysis.verdict.facts import CacheFact, HolderFact
from crashext.kernel.slab.families import parent


@dataclass(frozen=True, slots=True)
class Summed:
    """A cache with its children."""

    whole: CacheFact
    """By the parent's name."""
    largest: str
    """The one of them that has most memory: the one to look at."""
    caches: int


def by_parent(caches: Iterable[CacheFact]) -> Iterator[Summed]:
    """Every cache that is nobody's child, its children added; in the order of the first of each."""
    families: dict[str, list[CacheFact]] = {}
    for cache in caches:
        families.setdefault(parent(cache.name), []).append(cache)
    for name, members in families.items():
        most = max(members, key=lambda c: c.bytes)
        if len(members) == 1:
            yield Summed(most, most.name, 1)
            continue
        whole = CacheFact(
            name,
            sum(c.bytes for c in members),
            sum(c.slabs for c in members),
            sum(c.allocated for c in members),
            sum(c.slots for c in members),
            max(c.slot_size for c in members),
            members[0].reclaimable,
            counted=all(c.counted for c in members),
        )
        yield Summed(whole, most.name, len(members))


def holders_by_parent(
    holders: Iterable[HolderFact], caches: Iterable[CacheFact]
) -> list[HolderFact]:
    """What each root holds of a cache and its children together; the share is of all of them."""
    whole = {s.whole.name: s for s in by_parent(caches)}
    found: dict[tuple[str, str], list[HolderFact]] = {}
    for holder in holders:
        found.setdefault((holder.root, parent(holder.cache)), []).append(holder)
    summed = []
    for (root, name), some in found.items():
        if len(some) == 1:
            summed += some
            continue
        objects, size = sum(h.objects for h in some), sum(h.bytes for h in some)
        of = whole[name].whole.allocated if name in whole else 0
        share = min(1.0, objects / of) if of else max(h.share for h in some)
        exact = all(h.exact for h in some)
        summed.append(HolderFact(name, root, some[0].module, objects, size, share, exact))
    return summed
