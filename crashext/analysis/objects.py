"""`objsim`: what is at an address, who holds it and who allocated it, and what else is like it.

With several addresses: how alike the objects there are.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np

from crashext.analysis.beyond_slabs import beyond_slabs
from crashext.analysis.kin import Alike, alike
from crashext.analysis.likeness.similarity import Features, scores
from crashext.analysis.likeness.survey import (
    kernel_of,
    make_classifier,
    map_gaps,
    slabs_wanted,
)
from crashext.analysis.likeness.words import Classifier, WordMap
from crashext.analysis.no_leak import no_leak
from crashext.analysis.origin.callers import as_allocator, rank_callers
from crashext.analysis.origin.content import RUNG as CONTENT
from crashext.analysis.origin.ladder import Attribution, Ladder
from crashext.analysis.reach.on_demand import ReachOnDemand
from crashext.analysis.reach.one import node_at
from crashext.analysis.reach.pointers import pointers
from crashext.analysis.results.evidence import Pointer
from crashext.analysis.results.reports import Kin, Pair, SimilarityReport, Subject
from crashext.analysis.results.standing import Beyond, Thing
from crashext.analysis.settings import MEMORY_BUDGET, Settings
from crashext.analysis.subjects import look, no_object, whole_words, with_members
from crashext.analysis.types.candidates import Types, settled
from crashext.analysis.types.members import Structure, find_structure
from crashext.analysis.whatis import WhatIs
from crashext.hosts.base import HostError
from crashext.hosts.plain import answered
from crashext.kernel.access import Words
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slabs import MAP_BUDGET
from crashext.kernel.slab.view import KernelView, Slot
from crashext.progress import Progress
from crashext.skipped import Skipped


def compare(
    view: KernelView,
    addresses: list[int],
    settings: Settings,
    want_list: bool,
    progress: Progress,
    budget: int = MAP_BUDGET,
    as_type: str | None = None,
    refs: bool | None = None,
    memory: int = MEMORY_BUDGET,
) -> SimilarityReport:
    """Look at what is at `addresses`; at one alone, look closely.

    With `as_type` members are listed too; raises `HostError` where there is no such type. `refs`
    says whether to look for who points there (None: where that takes seconds); `memory` is what
    the pass for it may use.
    """
    structure = None if as_type is None else find_structure(view, as_type)
    subjects: list[Subject] = []
    pairs: list[Pair] = []
    skipped: list[Skipped] = []
    kin: Kin | None = None
    interrupted = False
    one: _Look | None = None
    try:
        view.scan({}, settings.seed, progress, budget)
        skipped += map_gaps(view)
        judge = ReachOnDemand(view, settings, progress, memory, refs)
        one = _Look(view, settings, judge, structure, progress, len(addresses) > 1)
        found = [one.at(address) for address in addresses]
        subjects = [subject for subject, _ in found]
        known = [(s, w) for s, w in found if w is not None]
        pairs = compare_pairs(known, settings)
        if len(addresses) == 1:
            closely = _Closely(one, budget, want_list)
            subjects = [closely.at(subjects[0], found[0][1])]
            kin, interrupted = closely.kin, closely.interrupted
            skipped += closely.gaps
    except KeyboardInterrupt:
        interrupted = True
        if one is None:
            raise
        if not subjects:
            subjects = [one.by_itself(address) for address in addresses]
    return SimilarityReport(
        kernel_of(view.host),
        settings.seed,
        settings.threshold,
        settings.metric,
        tuple(subjects),
        tuple(pairs),
        kin,
        (),
        tuple(skipped),
        interrupted,
    )


def compare_pairs(known: list[tuple[Subject, WordMap]], settings: Settings) -> list[Pair]:
    """Score every pair over the words that both have."""
    pairs = []
    for (a, words_a), (b, words_b) in combinations(known, 2):
        common = min(words_a.values.shape[1], words_b.values.shape[1])
        keep = np.arange(common)
        one, two = (Features.of(w.columns(keep)) for w in (words_a, words_b))
        differing = np.flatnonzero((one.words() != two.words())[0])
        pairs.append(
            Pair(
                a.address,
                b.address,
                float(scores(one, two, settings.metric)[0]),
                tuple(8 * int(i) for i in differing),
                8 * common,
            )
        )
    return pairs


class _Look:
    """What is at each address, by itself."""

    def __init__(
        self,
        view: KernelView,
        settings: Settings,
        judge: ReachOnDemand,
        structure: Structure | None,
        progress: Progress,
        pairs: bool,
    ) -> None:
        """`pairs`: whether they are to be compared."""
        self.view, self.settings, self.judge = view, settings, judge
        self.structure, self.progress, self.pairs = structure, progress, pairs
        self.classifier: Classifier = make_classifier(view)
        self.things: dict[int, Thing] = {}

    def at(self, address: int) -> tuple[Subject, WordMap | None]:
        found = look(self.view, self.classifier, address, self.settings.hops)
        if found is None:
            self.things[address] = thing = self._thing(address)
            subject = no_object(self.view, self.classifier, address, thing, self.settings.hops)
            found = subject, whole_words(self.view, self.classifier, thing) if self.pairs else None
        if self.structure is None:
            return found
        return with_members(self.view, self.classifier, found[0], self.structure), found[1]

    def by_itself(self, address: int) -> Subject:
        """What single structures tell of it, without a look through memory."""
        found = look(self.view, self.classifier, address, self.settings.hops)
        if found is not None:
            return found[0]
        thing = WhatIs(self.view, self.classifier, None).at(address)
        return no_object(self.view, self.classifier, address, thing, self.settings.hops)

    def _thing(self, address: int) -> Thing:
        known = self.judge.ask(
            f"what is at {address:#x}",
            Thing,
            lambda marked: WhatIs(marked.view, self.classifier, marked).at(address),
        )
        return known or WhatIs(self.view, self.classifier, None).at(address)


class _Closely:
    """All that is known of the one address that was asked about."""

    def __init__(self, one: _Look, budget: int, want_list: bool) -> None:
        self._one, self._view, self._settings = one, one.view, one.settings
        self._budget, self._want_list = budget, want_list
        self._ladder = Ladder(one.view, one.classifier)
        self.kin: Kin | None = None
        self.gaps: list[Skipped] = []
        self.interrupted = False

    def at(self, subject: Subject, words: WordMap | None) -> Subject:
        try:
            slot = self._view.slot(subject.address) if words is not None else None
            if slot is None or words is None:
                return self._beyond(subject)
            return self._object(subject, slot, words)
        except KeyboardInterrupt:
            self.interrupted = True
            return subject

    def _beyond(self, subject: Subject) -> Subject:
        """An area or a block of pages; of anything else there is no more to say."""
        thing = self._one.things.get(int(subject.asked))
        if thing is None or not thing.memory:
            return subject
        judge, at = self._one.judge, int(thing.memory)
        subject = replace(subject, standing=judge.standing(at))
        known = judge.ask(
            f"memory at {at:#x}",
            Beyond,
            lambda marked: beyond_slabs(marked, self._ladder, node_at(marked, at)),
        )
        return replace(subject, beyond=known)

    def _object(self, subject: Subject, slot: Slot, words: WordMap) -> Subject:
        view, settings, cache = self._view, self._settings, slot.cache
        subject = replace(subject, standing=self._one.judge.standing(slot.address, slot.cache))
        if subject.standing is not None and subject.standing.state == "orphan":
            why = no_leak(subject.words)
            subject = replace(subject, details=(f"no leak: {why}",) if why else ())
        if not view.index.complete:
            wanted = {view.caches.index(cache): slabs_wanted(settings, cache)}
            view.scan(wanted, settings.seed, self._one.progress, self._budget)
        found = alike(
            view,
            self._one.classifier,
            slot,
            words,
            settings,
            self._want_list,
            self._one.progress,
        )
        self.kin, self.interrupted = found.kin, found.interrupted
        self.gaps += found.gaps
        if slot.state is State.FREE:
            # Whoever wrote what is left in it need not be whoever has the others.
            found = replace(found, members=words, addresses=np.array([slot.address], np.uint64))
        return self._attributed(self._typed(subject, slot, words, found), slot, words, found)

    def _typed(self, subject: Subject, slot: Slot, words: WordMap, found: Alike) -> Subject:
        members = found.members if len(found.addresses) else words
        types = Types(self._view, self._one.classifier).candidates(
            slot.cache, members, np.arange(len(members.values)), slot.address
        )
        subject = replace(subject, types=types)
        best = settled(types)
        if best is None or subject.members or self._one.structure is not None:
            return subject
        try:
            guess = find_structure(self._view, best.name, best.module)
        except HostError:
            return subject  # a session that was recorded before it kept them
        return with_members(self._view, self._one.classifier, subject, guess, claimed=False)

    def _pointers(self, slot: Slot, addresses: Words) -> tuple[Pointer, ...]:
        """Where those to the objects at `addresses` are, which are like the one in a slot."""
        found = self._one.judge.ask(
            f"pointers to those like {slot.address:#x}",
            tuple[Pointer, ...],
            lambda marked: pointers(marked, marked.table.at(addresses)),
        )
        return found or ()

    def _attributed(self, subject: Subject, slot: Slot, words: WordMap, found: Alike) -> Subject:
        cache, one = slot.cache, np.array([slot.address], np.uint64)
        who = answered(
            self._view.host,
            f"allocators of {slot.address:#x}",
            Attribution,
            lambda: self._ladder.attribute(cache, one, words),
        )
        if who is None:
            return subject  # a session of another question
        subject = replace(subject, allocators=who.allocators, unattributed=who.unknown)
        if not who.unknown:
            return subject
        members, addresses = found.members, found.addresses
        if not len(addresses):
            members, addresses = words, one
        asked = self._view, cache, addresses, members, who.allocators, subject.types
        callers = rank_callers(*asked)
        standing = subject.standing
        if standing is not None and callers is not None and not callers.clear:
            callers = rank_callers(*asked, standing.head, self._pointers(slot, addresses))
        if self.kin is not None:
            self.kin = replace(self.kin, callers=callers)
        named = as_allocator(callers, len(addresses))
        weaker = tuple(a for a in who.allocators if a.rung == CONTENT)
        stronger = tuple(a for a in who.allocators if a.rung != CONTENT)
        return replace(
            subject,
            allocators=(*stronger, *named, *weaker),
            unattributed="" if named else who.unknown,
        )
