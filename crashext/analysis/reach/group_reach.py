"""Who points at the objects of a group, in shares with intervals and examples with names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.groups import Population
from crashext.analysis.reach.holders import MOST_EXAMINED, Holders
from crashext.analysis.reach.pointers import pointers
from crashext.analysis.reach.reachability import Class, Reach
from crashext.analysis.reach.selfcheck import misgivings
from crashext.analysis.results.estimate import Share, clustered_share
from crashext.analysis.results.evidence import Held, Reachability
from crashext.kernel.access import Words
from crashext.kernel.slab.objects import State
from crashext.kernel.tested import untested
from crashext.store import folder
from crashext.wording import percent, percent_of, plural, size_text


def _of_crowd(marked: Reach, number: int, slabs: int) -> str:
    """How much of a cache with very many slabs was read, and what that leaves open."""
    rows = marked.table.index.rows_of(number)
    drawn = np.isin(marked.table.index.address[rows], marked.whole.address[marked.drawn])
    read, more = int(drawn.sum()), int((~drawn).sum())
    said = f"of {marked.view.caches.all[number].name} {read:,} of {slabs:,} slabs were read"
    if marked.followed and more:
        said += f", and {more:,} more, to which pointers lead"
    if not marked.spared:
        said += ": what they hold is held by others, too"
    if marked.searched:
        return f"{said}; the rest was searched for pointers to what is unreachable"
    return f"{said}; at most {percent(_unseen(read), False)} of the rest hold anything else (95 %)"


def _unseen(read: int) -> float:
    """The largest share of slabs that may hold something of which none of so many drawn ones had
    any, at 95 per cent confidence: about three in `read`."""
    return float(1 - 0.05 ** (1 / max(1, read)))


def held(
    marked: Reach,
    holders: Holders,
    addresses: Words,
    slab: NDArray[np.int64],
    slabs: int,
    weak: Words,
) -> Held:
    """Judge sampled members of a group: objects at `addresses`, each in sampled slab `slab`.

    `slabs` is how many slabs the cache has, 0 where all were sampled; shares carry the interval
    of a sample of slabs. `weak` has the addresses of unreachable objects that are weakly held.
    """
    slots = marked.table.at(addresses)
    classes = marked.classes(slots)
    classes[np.isin(addresses, weak)] = Class.WEAK
    judged = classes != Class.NOT_JUDGED
    numbers, where = np.unique(slab[judged], return_inverse=True)
    sizes = np.bincount(where, minlength=len(numbers))
    hidden = int((~judged).sum()) / max(1, len(judged))

    def share(kind: Class) -> Share:
        hits = np.bincount(where[classes[judged] == kind], minlength=len(numbers))
        found = clustered_share(hits, sizes, max(slabs, len(numbers)))
        return found.widened(hidden) if hidden else found

    reached = slots[classes == Class.HELD]
    if len(reached) > MOST_EXAMINED:
        reached = reached[np.linspace(0, len(reached) - 1, MOST_EXAMINED).astype(np.intp)]
    most, chains = holders.tally(reached)
    lost, reachable = share(Class.STRUCTURE), share(Class.HELD)
    # What only objects outside the sample point at may be of a leaked structure, or an orphan
    # where those may be free.
    orphan, some = share(Class.ORPHAN), slots[judged]
    unsure, doubtful = (
        float(found[some].mean()) if len(some) else 0.0
        for found in (marked.unsure, marked.doubtful)
    )
    return Held(
        orphan=replace(orphan, high=min(1.0, orphan.high + doubtful)),
        structure=replace(lost, high=min(1.0, lost.high + unsure)),
        held=replace(reachable, low=max(0.0, reachable.low - unsure)),
        weak=share(Class.WEAK),
        examined=int(judged.sum()),
        chains=chains,
        holders=most,
        head=holders.head(reached),
        pointers=pointers(marked, slots),
    )


def of_group(
    marked: Reach,
    holders: Holders,
    population: Population,
    members: NDArray[np.intp],
    weak: Words,
) -> Held:
    """Judge the sampled members of one group."""
    sample = population.sample
    complete = sample.slabs_examined >= population.slabs
    slabs = 0 if complete else population.slabs
    return held(marked, holders, sample.address[members], sample.slab[members], slabs, weak)


def reachability_of(marked: Reach) -> Reachability:
    """What the pass saw, and how it limits the answer."""
    coverage, references = marked.references.coverage, marked.references
    total = coverage.present + coverage.missing
    doubts = misgivings(marked)
    notes = [f"do not believe it: {doubt}" for doubt in doubts]
    live = marked.view.host.info().live
    if coverage.missing and coverage.missing >= total // 200:
        lack = "was not given by the running kernel" if live else "is not in this dump"
        of_zeros = "level 1 of makedumpfile leaves out pages of zeros, which point at nothing"
        notes.append(
            f"{percent_of(coverage.missing, total)} of kernel memory "
            f"({plural(coverage.missing, 'page')}) {lack}: what only they point at looks like an "
            "orphan" + ("" if live else f" ({of_zeros})")
        )
    if coverage.missing_slab:
        notes.append(
            f"{coverage.missing_slab:,} of the missing pages are slab pages: what their objects "
            "point at may look orphaned"
        )
    if marked.table.broken:
        notes.append(
            f"the freelist of {plural(marked.table.broken, 'slab')} is broken: what is in them "
            "counts as pointing, and is not judged"
        )
    if marked.giants:
        names = ", ".join(marked.view.caches.all[i].name for i in marked.giants)
        notes.append(
            f"too many objects for the memory budget: of {names} only random slabs are judged, "
            "and what they hold is followed upwards"
        )
        if marked.short:
            notes.append(
                f"more of them would be judged whole with {size_text(marked.short)} of disk to "
                f"spare in {folder()} (TMPDIR, else /var/tmp), neither memory nor btrfs or ZFS"
            )
    for number, crowd in marked.whole.crowds.items():
        notes.append(_of_crowd(marked, number, crowd.slabs))
    if marked.spared:
        notes.append(
            f"{', '.join(marked.spared)} are not judged: slabs that were not read may hold them"
        )
    if newer := untested(marked.view.host.info().release):
        notes.append(newer)
    if live:
        notes.append("memory changed while it was read: an orphan may be an object on the move")
    return Reachability(
        pages_present=coverage.present,
        pages_missing=coverage.missing,
        roots=references.roots,
        edges=len(references.source),
        objects=int(marked.table.in_state(State.ALLOCATED, len(marked.view.caches.all)).sum()),
        bytes_read=coverage.bytes_read,
        sampled=bool(marked.giants),
        notes=tuple(notes),
        misgivings=doubts,
        slab_pages_missing=coverage.missing_slab,
    )
