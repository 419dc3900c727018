"""Whether and when to look for who points at objects: once a run, and only where it is wanted.

The pass over memory is made for the first group that asks. A session keeps its answers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.groups import Population
from crashext.analysis.reach.group_reach import of_group, reachability_of
from crashext.analysis.reach.holders import Holders
from crashext.analysis.reach.marked import marked
from crashext.analysis.reach.one import node_at, standing, state_of
from crashext.analysis.reach.reachability import Class, Reach
from crashext.analysis.reach.totals import cache_reach, unreachable_of
from crashext.analysis.reach.weak import WeakObjects, weakly_held
from crashext.analysis.results.evidence import CacheReach, Held, Reachability
from crashext.analysis.results.standing import Standing
from crashext.analysis.settings import Settings
from crashext.hosts.derived import DerivingHost
from crashext.hosts.keeping import keep
from crashext.hosts.plain import answered, no_answer
from crashext.kernel.access import Words
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.slabs import MAP_BUDGET
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress

T = TypeVar("T")

_QUICK_BYTES = 2 << 30  # of slabs; most other kernel memory is less


class ReachOnDemand:
    """Answers for the groups of one run."""

    def __init__(
        self,
        view: KernelView,
        settings: Settings,
        progress: Progress,
        memory: int,
        wanted: bool | None,
    ) -> None:
        """`wanted` None: yes, where the machine is small enough for it to take seconds."""
        self._view, self._settings, self._progress = view, settings, progress
        self._memory = memory
        self._weak: dict[int, WeakObjects] = {}
        self.wanted = _quick(view) and not view.host.info().live if wanted is None else wanted

    @cached_property
    def _marked(self) -> Reach:
        # A view of its own: a session must not miss what was read, unrecorded, for this.
        recorded = isinstance(self._view.host, DerivingHost)
        view = KernelView(self._view.host) if recorded else self._view
        return marked(view, self._settings, self._progress, self._memory)

    @cached_property
    def _holders(self) -> Holders:
        key = ("holders", self._settings.seed, self._memory)
        return keep(self._view.host, key, lambda: Holders(self._marked), large=True)

    @cached_property
    def reachability(self) -> Reachability | None:
        """What the pass saw; None where none was wanted, or where a session has none."""
        if not self.wanted:
            return None
        return answered(
            self._view.host, "reachability", Reachability, lambda: reachability_of(self._marked)
        )

    def held(
        self,
        cache: SlabCache,
        exemplar: int,
        population: Population,
        members: NDArray[np.intp],
    ) -> Held | None:
        """Who points at the sampled `members` of the group around `exemplar`.

        None where nobody looked, and where the mark is not to be believed.
        """
        if not self.wanted:
            return None
        seen = self.reachability
        if seen is not None and seen.misgivings:
            return None
        return answered(
            self._view.host,
            f"held {cache.name} {exemplar:#x}",
            Held,
            lambda: of_group(
                self._marked,
                self._holders,
                population,
                members,
                self._weak_ones(cache).addresses,
            ),
        )

    def of_cache(self, cache: SlabCache) -> CacheReach | None:
        """What became of all objects of the cache; None where `held` is."""
        seen = self.reachability
        if seen is None or seen.misgivings:
            return None

        def compute() -> CacheReach:
            weak = self._marked.table.at(self._weak_ones(cache).addresses)
            return cache_reach(self._marked, self._own(cache), weak)

        return answered(self._view.host, f"reach of {cache.name}", CacheReach, compute)

    def ask(self, key: str, kind: type[T], compute: Callable[[Reach], T | None]) -> T | None:
        """What the marked kernel tells; a session keeps it under `key`. None where nobody looked.

        It need not be believed of who is reached, as `standing` and `held` are.
        """
        if not self.wanted:
            return None
        return answered(self._view.host, key, kind, lambda: compute(self._marked))

    def standing(self, address: int, cache: SlabCache | None = None) -> Standing | None:
        """What became of the thing that begins at `address`, an object of `cache` or none.

        None where nobody looked, and where the mark is not to be believed.
        """
        seen = self.reachability
        if seen is None or seen.misgivings:
            return None

        def compute(marked: Reach) -> Standing | None:
            node = node_at(marked, address)
            if node < 0:
                return None
            lost = state_of(marked, node) in (Class.ORPHAN, Class.STRUCTURE)
            weak = None
            if lost and cache is not None:
                weak = self._weak_ones(cache).words_of(address)
            return standing(marked, self._holders, node, weak)

        return self.ask(f"standing of {address:#x}", Standing, compute)

    def _own(self, cache: SlabCache) -> SlabCache:
        """The same cache in the view that was marked."""
        return next(c for c in self._marked.view.caches.all if c.address == cache.address)

    def classes(self, what: str, addresses: Words) -> NDArray[np.uint8] | None:
        """`Class` of the objects at `addresses` by themselves: uint8[n]; None where nobody knows.

        Weakly held ones pass for unreachable here. A session keeps the answer under `what`.
        """
        if not self.wanted or not len(addresses):
            return None
        key = f"classes {what}"
        known = answered(
            self._view.host,
            key,
            str,
            lambda: "".join(map(str, self._marked.classes(self._marked.table.at(addresses)))),
        )
        if known is None:
            return None
        if len(known) != len(addresses) or known.strip("01234"):
            raise no_answer(key)
        return np.frombuffer(known.encode(), np.uint8) - np.uint8(ord("0"))

    def _weak_ones(self, cache: SlabCache) -> WeakObjects:
        """The cache's objects that are weakly held: one pass for them all."""

        def look() -> WeakObjects:
            slots = unreachable_of(self._marked, self._own(cache))
            return weakly_held(self._marked, slots, self._progress)

        if cache.address not in self._weak:
            key = ("weak", cache.address, self._settings.seed, self._memory)
            self._weak[cache.address] = keep(self._view.host, key, look)
        return self._weak[cache.address]


def _quick(view: KernelView) -> bool:
    """Whether the pass takes seconds: the map is read whole anyway, and slabs are not too many."""
    if view.memory.pages * view.memory.page_size > MAP_BUDGET or not view.index.complete:
        return False
    sizes = np.array([c.slot_size for c in view.caches.all])
    return int(sizes[view.index.cache] @ view.index.objects.astype(np.int64)) <= _QUICK_BYTES
