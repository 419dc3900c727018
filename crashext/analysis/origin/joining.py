"""Objects that a trace saw allocated and not freed, looked up in memory and compared with groups.

A place that allocates is guilty not by how often it allocates, nor by how much of it is
outstanding, but by how many of its outstanding objects are like those that are leaked: they are
*marked*. Where reachability is known it says which groups those are, and of each object itself
whether anything still points at it; that beats the group. Addresses are not identities: an object
that was freed after the trace may be another one's by now, which only its content can show.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.groups import Population
from crashext.analysis.likeness.similarity import Cluster, Features, scores
from crashext.analysis.likeness.words import Classifier, WordMap
from crashext.analysis.reach.on_demand import ReachOnDemand
from crashext.analysis.reach.reachability import Class
from crashext.analysis.results.evidence import Allocator
from crashext.analysis.results.joined import (
    JoinedTrace,
    MarkedCache,
    MarkedGroup,
    MarkedSite,
    Traced,
    TracedSite,
)
from crashext.analysis.results.reports import Group
from crashext.analysis.settings import Settings
from crashext.hosts.base import U64, Bytes
from crashext.kernel.access import Words
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress

MOST_CACHES = 3
"""Caches that are looked at where the user names none: those with the most outstanding bytes."""
MOST_OBJECTS = 1 << 18
"""Outstanding objects of a cache that are compared, spread over them."""
_WORTH = 0.02
"""Share of the outstanding bytes from which a cache that nobody named is looked at."""
_PIECE_BYTES = 8 << 20
_MOST_JUDGED_GROUPS = 16
_MASS = 0.1
"""Share of a cache's objects from which likeness to a group alone is a mark."""
_MOST_SITES = 8
_UNREACHABLE = 0.5
# Rungs that saw the very allocation of the object; a trace knows who allocated its like.
_STRONGER = ("alloc-tag", "slub-track", "kmemleak", "page-owner")

_NONE = -1


@dataclass(frozen=True)
class _Found:
    """What is at some traced addresses of one cache; arrays of one element each."""

    state: NDArray[np.uint8]
    """`State`; FREE also where no object begins at the address."""
    group: NDArray[np.int64]
    """Index of the cluster each is like, -1: none, or not compared."""
    judged: NDArray[np.uint8]
    """`Class` of each by itself."""


class Joiner:
    """One trace and one kernel; `view.scan` was called."""

    def __init__(self, view: KernelView, traced: Traced, settings: Settings) -> None:
        self._view, self._traced, self._settings = view, traced, settings
        self._cache = np.full(len(traced), _NONE, np.int64)
        self._offset = np.zeros(len(traced), np.uint64)
        self._base = np.zeros(len(traced), np.uint64)
        if not traced.hashed and len(traced):
            targets = view.pointers.resolve(traced.address)
            sizes = np.array([(c.slot_size, c.object_size) for c in view.caches.all], np.int64)
            fits = (sizes[np.maximum(targets.cache, 0)] == traced.size[:, None]).any(axis=1)
            self._cache = np.where(fits, targets.cache, _NONE)
            self._offset, self._base = targets.offset, targets.base
        self._named: dict[int, TracedSite] = {}
        self._joined: list[MarkedCache] = []

    def busiest(self) -> list[SlabCache]:
        """Caches with the most outstanding bytes, most first."""
        known = self._cache != _NONE
        caches = self._view.caches.all
        total = np.zeros(len(caches), np.int64)
        np.add.at(total, self._cache[known], self._traced.size[known])
        order = np.argsort(-total, kind="stable")[:MOST_CACHES]
        least = max(1, int(_WORTH * total.sum()))
        return [caches[i] for i in order.tolist() if total[i] >= least]

    def join(
        self,
        cache: SlabCache,
        population: Population,
        words: WordMap,
        clusters: tuple[Cluster, ...],
        groups: list[Group],
        judge: ReachOnDemand,
        classifier: Classifier,
        progress: Progress,
    ) -> list[Group]:
        """Compare the outstanding objects of `cache` with its sampled `clusters`.

        `groups` describes the first of them, and comes back with who allocated the like.
        """
        mine = np.flatnonzero(self._cache == self._view.caches.index(cache))
        chosen = mine
        if len(mine) > MOST_OBJECTS:
            chosen = mine[np.linspace(0, len(mine) - 1, MOST_OBJECTS).astype(np.intp)]
        found = self._look(cache, chosen, population, words, clusters, judge, classifier, progress)
        compared = found.state == State.ALLOCATED
        suspect = self._suspects(cache, population, clusters, groups, found, judge)
        marked = compared & np.isin(found.group, np.flatnonzero(suspect))
        marked &= found.judged != Class.HELD
        alike = np.bincount(found.group[found.group >= 0], minlength=len(clusters))
        sample = population.sample
        self._joined.append(
            MarkedCache(
                cache=cache.name,
                outstanding=len(mine),
                compared=int(compared.sum()),
                gone=int((found.state == State.FREE).sum()),
                unreadable=int(np.isin(found.state, (State.UNREADABLE, State.UNKNOWN)).sum()),
                not_compared=len(mine) - len(chosen),
                by_reach=judge.reachability is not None,
                judged=int((found.judged != Class.NOT_JUDGED).sum()),
                groups=tuple(
                    MarkedGroup(
                        number=i + 1,
                        exemplar=U64(sample.address[clusters[i].exemplar]),
                        objects=population.share(clusters[i].members).of(population.allocated),
                        alike=int(alike[i]),
                        suspect=bool(suspect[i]),
                    )
                    for i in np.flatnonzero(alike).tolist()
                ),
                sites=self._by_site(chosen, found, marked),
            )
        )
        return [self._attributed(group, chosen[found.group == i]) for i, group in enumerate(groups)]

    def result(self) -> JoinedTrace:
        """What was joined so far."""
        traced = self._traced
        looked = sum(c.outstanding for c in self._joined)
        known = int((self._cache != _NONE).sum())
        notes = []
        if traced.hashed:
            notes.append(
                "the trace's pointers are hashed: no object can be found by them. Trace with real "
                "ones: options/hash-ptr 0 in an own tracing instance (Linux 5.12 and newer), the "
                "boot option no_hash_pointers, or trace-cmd or perf, which record them"
            )
        elif len(traced) and not known:
            notes.append(
                "none of the outstanding addresses is in a slab of its size here: is this memory "
                "of the same boot, and later than the trace?"
            )
        return JoinedTrace(
            source=traced.source,
            seconds=traced.seconds,
            outstanding=len(traced),
            hashed=traced.hashed,
            elsewhere=known - looked,
            moved=0 if traced.hashed else len(traced) - known,
            caches=tuple(self._joined),
            notes=tuple(notes),
            remarks=traced.remarks,
        )

    def _look(
        self,
        cache: SlabCache,
        chosen: NDArray[np.intp],
        population: Population,
        words: WordMap,
        clusters: tuple[Cluster, ...],
        judge: ReachOnDemand,
        classifier: Classifier,
        progress: Progress,
    ) -> _Found:
        """States, likeness and reachability of the traced objects `chosen`."""
        address = self._traced.address[chosen]
        state = np.full(len(chosen), State.FREE, np.uint8)  # not at the start of an object
        group = np.full(len(chosen), _NONE, np.int64)
        own = _clusters_of(address, population.sample.address, clusters)
        exemplars = [Features.of(words.row(c.exemplar)) for c in clusters]
        starts = np.flatnonzero(self._offset[chosen] == 0)
        done = 0
        for where, states, content in self._read(cache, chosen, starts):
            state[where] = states
            live = where[states == State.ALLOCATED]
            sampled = own[live] != _NOT_SAMPLED
            group[live[sampled]] = own[live[sampled]]
            rest = ~sampled
            if rest.any():
                some = content[states == State.ALLOCATED][rest]
                features = Features.of(classifier.classify(some, address[live[rest]]))
                group[live[rest]] = _likest(exemplars, features, self._settings)
            done += len(where)
            progress(f"{cache.name}: traced objects", done, len(starts))
        group[state != State.ALLOCATED] = _NONE
        judged = np.full(len(chosen), Class.NOT_JUDGED, np.uint8)
        live = np.flatnonzero(state == State.ALLOCATED)
        classes = judge.classes(f"traced {cache.name}", address[live])
        if classes is not None:
            judged[live] = classes
        return _Found(state, group, judged)

    def _read(
        self, cache: SlabCache, chosen: NDArray[np.intp], starts: NDArray[np.intp]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8], Bytes]]:
        """(positions in `chosen`, `State` of each, content of each), in pieces; those that begin
        objects (`starts`) only. A slab whose struct page is missing is UNREADABLE."""
        reader = self._view.reader(cache)
        bases = self._base[chosen]
        order = starts[np.argsort(bases[starts], kind="stable")]
        where, states, contents, held = [], [], [], 0
        unique, first = np.unique(bases[order], return_index=True)
        edges = [*first.tolist(), len(order)]
        for base, (begin, end) in zip(unique.tolist(), pairwise(edges), strict=True):
            some = order[begin:end]
            batch = reader.read_one(base)
            slots = np.zeros(len(some), np.intp)
            got = np.full(len(some), State.UNREADABLE, np.uint8)
            content = np.zeros((len(some), cache.object_size), np.uint8)
            if batch is not None:
                slots = (
                    (self._traced.address[chosen[some]] - np.uint64(base))
                    // np.uint64(cache.slot_size)
                ).astype(np.intp)
                inside = slots < batch.state.shape[1]
                slots = np.where(inside, slots, 0)
                got = np.where(inside, batch.state[0, slots], np.uint8(State.FREE))
                content = batch.content[0, slots]
            where.append(some)
            states.append(got)
            contents.append(content)
            held += content.size
            if held >= _PIECE_BYTES:
                yield np.concatenate(where), np.concatenate(states), np.concatenate(contents)
                where, states, contents, held = [], [], [], 0
        if where:
            yield np.concatenate(where), np.concatenate(states), np.concatenate(contents)

    def _suspects(
        self,
        cache: SlabCache,
        population: Population,
        clusters: tuple[Cluster, ...],
        groups: list[Group],
        found: _Found,
        judge: ReachOnDemand,
    ) -> NDArray[np.bool_]:
        """Which clusters likeness to is a mark: those that outstanding objects are like."""
        suspect = np.zeros(len(clusters), np.bool_)
        alike = np.bincount(found.group[found.group >= 0], minlength=len(clusters))
        most = np.argsort(-alike, kind="stable")[:_MOST_JUDGED_GROUPS]
        reach = judge.reachability is not None
        for i in most[alike[most] > 0].tolist():
            members = clusters[i].members
            if not reach:
                suspect[i] = population.share(members).value >= _MASS
                continue
            exemplar = int(population.sample.address[clusters[i].exemplar])
            held = (
                groups[i].held
                if i < len(groups)
                else judge.held(cache, exemplar, population, members)
            )
            lost = 0.0 if held is None else held.orphan.value + held.structure.value
            suspect[i] = lost >= _UNREACHABLE
        return suspect

    def _by_site(
        self, chosen: NDArray[np.intp], found: _Found, marked: NDArray[np.bool_]
    ) -> tuple[MarkedSite, ...]:
        site = self._traced.site[chosen]
        n = len(self._traced.sites)

        def count(which: NDArray[np.bool_]) -> list[int]:
            counts: list[int] = np.bincount(site[which], minlength=n).tolist()
            return counts

        outstanding = count(np.ones(len(site), np.bool_))
        gone = count(found.state == State.FREE)
        compared = found.state == State.ALLOCATED
        unlike = count(compared & (found.group == _NONE))
        reachable = count(found.judged == Class.HELD)
        marks = count(marked)
        rows = []
        for i in np.flatnonzero(outstanding).tolist():
            numbers, times = np.unique(found.group[marked & (site == i)], return_counts=True)
            by_group = sorted(
                zip((numbers + 1).tolist(), times.tolist(), strict=True),
                key=lambda pair: (-pair[1], pair[0]),
            )
            rows.append(
                MarkedSite(
                    function=self._site(i).function,
                    module=self._site(i).module,
                    outstanding=outstanding[i],
                    marked=marks[i],
                    reachable=reachable[i],
                    unlike=unlike[i],
                    gone=gone[i],
                    allocs=self._site(i).allocs,
                    groups=tuple(by_group),
                )
            )
        rows.sort(key=lambda r: (-r.marked, -r.outstanding, -r.allocs, r.function))
        return tuple(rows)

    def _attributed(self, group: Group, objects: NDArray[np.intp]) -> Group:
        """The group with the trace's rung: who allocated the outstanding objects like it."""
        if not len(objects):
            return group
        counts = np.bincount(self._traced.site[objects], minlength=len(self._traced.sites))
        rungs = tuple(
            Allocator(
                rung="trace",
                site=self._site(i).function,
                module=self._site(i).module,
                stack=self._site(i).stack,
                objects=int(counts[i]),
                of=len(objects),
                note=f"of the {len(objects):,} alike that a trace of {self._traced.seconds:,.1f} s "
                "saw allocated and not freed",
            )
            for i in np.argsort(-counts, kind="stable")[:_MOST_SITES].tolist()
            if counts[i]
        )
        stronger = tuple(a for a in group.allocators if a.rung in _STRONGER)
        weaker = tuple(a for a in group.allocators if a.rung not in _STRONGER)
        return replace(group, allocators=(*stronger, *rungs, *weaker), unattributed="")

    def _site(self, number: int) -> TracedSite:
        if number not in self._named:
            self._named[number] = self._look_up(self._traced.sites[number])
        return self._named[number]

    def _look_up(self, site: TracedSite) -> TracedSite:
        """A site with what the kernel's symbols know of it: its name, its module."""
        host = self._view.host
        if not self._named:
            # A host may load the modules' symbols only when asked about a module's address.
            for module in host.modules()[:1]:
                host.symbol_at(module.ranges[0][0])
        if site.function.startswith("0x"):
            address = int(site.function, 16)
            symbol = host.symbol_at(address)
            if symbol is None:
                return site
            name = f"{symbol.name}+{address - symbol.address:#x}"
            return replace(site, function=name, module=symbol.module)
        if site.module:
            return site
        start = host.address_of(site.function.partition("+")[0])
        symbol = None if start is None else host.symbol_at(start)
        return site if symbol is None else replace(site, module=symbol.module)


_NOT_SAMPLED = -2


def _clusters_of(
    address: Words, sampled: Words, clusters: tuple[Cluster, ...]
) -> NDArray[np.int64]:
    """The cluster of each address that is in the sample: -1 alone, -2 not in the sample."""
    of = np.full(len(sampled) + 1, _NONE, np.int64)
    of[-1] = _NOT_SAMPLED
    for number, cluster in enumerate(clusters):
        of[cluster.members] = number
    order = np.argsort(sampled, kind="stable")
    at = np.searchsorted(sampled, address, sorter=order)
    row = np.append(order, len(sampled))[at]
    hit = row < len(sampled)
    hit[hit] = sampled[row[hit]] == address[hit]
    return of[np.where(hit, row, len(sampled))]


def _likest(exemplars: list[Features], features: Features, settings: Settings) -> NDArray[np.int64]:
    """The exemplar that each object scores highest against, -1 where none reaches the threshold."""
    best = np.full(len(features.content), settings.threshold)
    which = np.full(len(features.content), _NONE, np.int64)
    for number, exemplar in enumerate(exemplars):
        score = scores(exemplar, features, settings.metric)
        better = (score > best) | ((score == best) & (which == _NONE))
        best[better], which[better] = score[better], number
    return which
