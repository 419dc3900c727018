"""A group of alike objects with all that is known of it: described, attributed, typed.

Every question that shows groups asks here, so that each says the same of the same objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.decode import Decoder
from crashext.analysis.likeness.groups import describe
from crashext.analysis.likeness.similarity import Cluster
from crashext.analysis.likeness.words import Classifier, WordMap
from crashext.analysis.origin.callers import as_allocator, rank_callers
from crashext.analysis.origin.content import RUNG as CONTENT
from crashext.analysis.origin.ladder import Ladder
from crashext.analysis.results.estimate import Estimate, Share
from crashext.analysis.results.reports import Group
from crashext.analysis.settings import Settings
from crashext.analysis.types.candidates import Types
from crashext.kernel.access import Words
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView


class Described:
    """Groups of some objects of one cache, whose classified content is `words`."""

    def __init__(
        self,
        view: KernelView,
        classifier: Classifier,
        cache: SlabCache,
        words: WordMap,
        addresses: Words,
        settings: Settings,
    ) -> None:
        self._view = view
        self._cache, self._words, self._addresses = cache, words, addresses
        self._settings = settings
        self._decoder = Decoder(view.host, view, classifier)
        self._ladder, self._types = Ladder(view, classifier), Types(view, classifier)

    def group(
        self,
        cluster: Cluster,
        share: Share,
        total: Estimate,
        residue: float | None = None,
        attributed: bool = True,
        typed: bool = True,
        asked: Callable[[Group], bool] | None = None,
    ) -> Group:
        """The group of a cluster, which is `share` of `total` objects.

        `asked` says of one that is described whether anybody wants to know whose it is.
        """
        members = cluster.members
        found = describe(
            self._decoder,
            self._words,
            self._addresses,
            self._cache.object_size,
            cluster,
            share,
            total,
            residue,
            self._settings,
        )
        if asked is not None and not asked(found):
            return found
        if attributed:
            who = self._ladder.attribute(
                self._cache, self._addresses[members], self._words.rows(members)
            )
            found = replace(
                found,
                allocators=who.allocators,
                unattributed=who.unknown,
                absent_rungs=who.absent,
            )
        if typed:
            types = self._types.candidates(self._cache, self._words, members, found.exemplar)
            found = replace(found, types=types)
        # No record names the code: then it is asked itself.
        return self._by_code(found, members) if found.unattributed else found

    def by_holders(self, group: Group, members: NDArray[np.intp]) -> Group:
        """Who holds them may tell who made them, where nothing in them does."""
        untold = group.callers is not None and not group.callers.clear
        if not untold or group.held is None or not (group.held.head or group.held.pointers):
            return group
        return self._by_code(group, members)

    def _by_code(self, group: Group, members: NDArray[np.intp]) -> Group:
        """With whom the code itself names, where no record does: below memcg, above content."""
        callers = rank_callers(
            self._view,
            self._cache,
            self._addresses[members],
            self._words.rows(members),
            group.allocators,
            group.types,
            None if group.held is None else group.held.head,
            () if group.held is None else group.held.pointers,
        )
        named = as_allocator(callers, len(members))
        weaker = tuple(a for a in group.allocators if a.rung == CONTENT)
        stronger = tuple(a for a in group.allocators if a.rung != CONTENT)
        return replace(
            group,
            allocators=(*stronger, *named, *weaker),
            unattributed="" if named else group.unattributed,
            callers=callers,
        )
