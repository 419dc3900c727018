"""Who holds an object: the chain from a named root down to it."""

from __future__ import annotations

from collections import Counter
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.pointed import PointedAt
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.results.evidence import Chain
from crashext.hosts.base import U64, ReadFault
from crashext.kernel.addresses import PAGE_SHIFT
from crashext.kernel.roots.places import Place, PlaceKind
from crashext.kernel.slab.slots import Slots

MOST_EXAMINED = 4096
_MAX_STEPS = 1 << 24
_MAX_PAGES = 4096  # pages on a chain of pages, such as kfree_rcu()'s
_HEAD_STEPS, _TAIL_STEPS = 6, 2
_ORDER = {kind: i for i, kind in enumerate(PlaceKind)}


class Holders:
    """Names the roots of one marked kernel."""

    def __init__(self, reach: Reach, named: PointedAt | None = None) -> None:
        """With `named`, a root in a page without a name is followed to what points at the page."""
        self._reach, self._page_names = reach, named
        self._places = reach.places
        self._named: dict[int, Place] = {}
        self._start: dict[int, int] = {}
        self._of_page: dict[int, Place] = {}

    @cached_property
    def _by_target(self) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
        targets = self._reach.references.root_target
        order = np.argsort(targets, kind="stable")
        return targets[order], order

    def start_of(self, slot: int) -> int:
        """The object directly under the root through which `slot` was reached."""
        via = self._reach.marks.via
        path: list[int] = []
        at = slot
        while at not in self._start and len(path) < _MAX_STEPS:
            path.append(at)
            above = int(via[at])
            if above < 0:
                break
            at = above
        start = self._start.get(at, at)
        for step in path:
            self._start[step] = start
        return start

    def root_of(self, start: int) -> Place:
        """The most telling of the words outside objects that point at a starting slot."""
        if start not in self._named:
            targets, order = self._by_target
            low, high = np.searchsorted(targets, [start, start + 1]).tolist()
            words = self._reach.references.root_at[order[low:high]].tolist()
            places = [self._place(w) for w in words]
            self._named[start] = min(
                places,
                key=lambda p: _ORDER[p.kind],
                default=Place(PlaceKind.STACK, "a CPU's register"),
            )
        return self._named[start]

    def _place(self, offset: int) -> Place:
        # With a memory budget, some slabs are outside the table, and speak as roots.
        view = self._reach.view
        address = view.space.direct.start + offset
        found = view.slot(address) if self._reach.giants else None
        if found is not None:
            what = f"{found.cache.name} object {found.address:#x}, not followed further"
            of = f"objects of {found.cache.name} that were not followed further"
            return Place(PlaceKind.PAGE, what, variable=of)
        place = self._places.name(offset)
        path: list[int] = []
        while place.kind is PlaceKind.PAGE and self._page_names is not None:
            frame = offset >> PAGE_SHIFT
            if frame in self._of_page:
                place = self._of_page[frame]
                break
            path.append(frame)
            above = self._page_names.word_to(frame)
            if above is None or above >> PAGE_SHIFT in path or len(path) > _MAX_PAGES:
                break
            place, offset = self._owner_of(above), above
        self._of_page.update(dict.fromkeys(path, place))
        return place

    def _owner_of(self, offset: int) -> Place:
        """What a word is in."""
        slot, _ = self._reach.table.locate(np.array([offset], np.uint64))
        if slot[0] < 0:
            return self._places.name(offset)
        cache = self._reach.view.caches.all[int(self._reach.table.caches(slot)[0])]
        return Place(PlaceKind.OBJECT, f"pages of {cache.name} objects")

    def chain(self, slot: int) -> Chain:
        """From the root to `slot`; the middle of a long chain is counted, not listed."""
        via = self._reach.marks.via
        path = [slot]
        while (above := int(via[path[-1]])) >= 0 and len(path) < _MAX_STEPS:
            path.append(above)
        path.reverse()
        steps = [self.root_of(path[0]).name]
        steps += self._labels(path)
        (address,) = self._reach.table.addresses(np.array([slot], np.int64)).tolist()
        return Chain(U64(address), tuple(steps))

    def _labels(self, path: list[int]) -> list[str]:
        """``cache+0x8`` of each object, 0x8 being where the pointer to it leads."""
        hidden = len(path) - _HEAD_STEPS - _TAIL_STEPS
        if hidden > 1:
            shown = [*range(_HEAD_STEPS), *range(len(path) - _TAIL_STEPS, len(path))]
        else:
            shown, hidden = list(range(len(path))), 0
        labels: list[str] = []
        for i in shown:
            if hidden and i == len(path) - _TAIL_STEPS:
                labels.append(f"... {hidden:,} more ...")
            labels.append(self._label(path[i - 1] if i else None, path[i]))
        return labels

    def _label(self, above: int | None, slot: int) -> str:
        table = self._reach.table
        one = np.array([slot], np.int64)
        cache = self._reach.view.caches.all[int(table.caches(one)[0])]
        start = int(table.addresses(one)[0])
        landing = self._landing(above, start, cache.object_size)
        return cache.name + ("" if landing is None else f"+{landing:#x}")

    def _landing(self, above: int | None, start: int, size: int) -> int | None:
        """Where in [start, start + size) the object above points."""
        table, view = self._reach.table, self._reach.view
        if above is None:
            return None
        one = np.array([above], np.int64)
        cache = view.caches.all[int(table.caches(one)[0])]
        try:
            data = view.host.read(int(table.addresses(one)[0]), cache.object_size & ~7)
        except ReadFault:
            return None
        inside = np.frombuffer(data, "<u8") - np.uint64(start)
        hits = inside[inside < np.uint64(size)]
        return int(hits[0]) if len(hits) else None

    def tally(self, slots: Slots) -> tuple[tuple[tuple[str, int], ...], tuple[Chain, ...]]:
        """Roots by name with how many of `slots` each holds, most first, and a chain of each."""
        names: Counter[str] = Counter()
        example: dict[str, int] = {}
        for slot in slots.tolist():
            name = self.root_of(self.start_of(slot)).owner
            names[name] += 1
            example.setdefault(name, slot)
        most = tuple(names.most_common(_HEAD_STEPS))
        return most, tuple(self.chain(example[name]) for name, _ in most[:3])
