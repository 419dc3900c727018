"""Who holds an object: the chain from a named root down to it."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.nodes import NodeKind
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.results.evidence import Chain, Head
from crashext.hosts.base import U64, ReadFault
from crashext.kernel.access import Words
from crashext.kernel.roots.places import Place, PlaceKind, symbolic
from crashext.kernel.slab.slots import Slots
from crashext.store import NoRoom
from crashext.wording import plural

MOST_EXAMINED = 4096
_MOST_COUNTED = 1 << 20
_MAX_STEPS = 1 << 24
_PIECE, _SCATTERED = 1 << 20, 1 << 14
_MOST_READ = 1 << 20  # bytes of an area or block that are looked through for a pointer
_HEAD_STEPS, _TAIL_STEPS = 6, 2
_NEARLY_ALL = 0.95
_LEAST = 0.1
"""Share that has to hang at a variable by what is known, where stacks hold the rest."""
_ORDER = {kind: i for i, kind in enumerate(PlaceKind)}


class Holders:
    """Names the roots of one marked kernel."""

    def __init__(self, reach: Reach) -> None:
        self.marked = reach
        self._places = reach.places
        self._roots: dict[int, Place] = {}

    @cached_property
    def _by_target(self) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
        targets = self.marked.references.root_target
        order = np.argsort(targets, kind="stable")
        return targets[order], order

    @cached_property
    def _starts(self) -> NDArray[np.int32]:
        """The node directly under the root of each; what is left of each path halves each round."""
        via, store = self.marked.marks.via, self.marked.marks.store
        try:
            start = store.filled(len(via), np.int32, 0)
        except NoRoom:
            start = np.zeros(len(via), np.int32)
        pieces = [slice(at, at + _PIECE) for at in range(0, len(via), _PIECE)]
        for some in pieces:
            own = np.arange(some.start, min(some.stop, len(via)), dtype=np.int32)
            start[some] = np.where(via[some] >= 0, via[some], own)
            store.release()
        changed = True
        while changed:
            changed = False
            for some in pieces:
                further = start[start[some]]
                changed |= not np.array_equal(further, start[some])
                start[some] = further
                store.release()
        return start

    def starts_of(self, nodes: NDArray[Any]) -> NDArray[np.int32]:
        """`_starts` of some."""
        found = np.empty(len(nodes), np.int32)
        for begin in range(0, len(nodes), _SCATTERED):
            found[begin : begin + _SCATTERED] = self._starts[nodes[begin : begin + _SCATTERED]]
            self.marked.marks.store.release()
        return found

    def start_of(self, node: int) -> int:
        """The node directly under the root through which `node` was reached."""
        return int(self._starts[node])

    def worth_counting(self, nodes: Slots) -> Slots:
        """All of `nodes` where few words hold them, so that few need a name; else some, spread."""
        if len(nodes) <= MOST_EXAMINED:
            return nodes
        if len(nodes) <= _MOST_COUNTED and len(np.unique(self.starts_of(nodes))) <= MOST_EXAMINED:
            return nodes
        return nodes[np.linspace(0, len(nodes) - 1, MOST_EXAMINED).astype(np.intp)]

    def count(self, nodes: NDArray[Any]) -> Counter[Place]:
        """How many of `nodes` are reached through each root."""
        starts, counts = np.unique(self.starts_of(nodes), return_counts=True)
        found: Counter[Place] = Counter()
        for place, total in zip(self.roots_of(starts), counts.tolist(), strict=True):
            found[place] += total
        return found

    def roots_of(self, starts: NDArray[Any]) -> list[Place]:
        """Of each starting node the most telling of the words outside nodes that point at it."""
        numbers = starts.tolist()
        self._look_up(np.array([n for n in numbers if n not in self._roots], np.int32))
        return [self._roots[n] for n in numbers]

    def root_of(self, start: int) -> Place:
        """The same for one."""
        if start not in self._roots:
            self._look_up(np.array([start], np.int32))
        return self._roots[start]

    def _look_up(self, starts: NDArray[np.int32]) -> None:
        targets, order = self._by_target
        low = np.searchsorted(targets, starts, side="left")
        count = np.searchsorted(targets, starts, side="right") - low
        first = np.cumsum(count) - count
        at = np.repeat(low - first, count) + np.arange(count.sum())
        places = self._places_of(self.marked.references.root_at[order[at]])
        for start, begin, number in zip(
            starts.tolist(), first.tolist(), count.tolist(), strict=True
        ):
            some = places[begin : begin + number]
            best = min(some, key=lambda p: _ORDER[p.kind]) if some else self._without_words(start)
            self._roots[start] = best

    def name(self, offset: int) -> str:
        """The word at a direct-map offset, outside nodes, by name."""
        return self._places_of(np.array([offset], np.uint64))[0].name

    def word_name(self, offset: int) -> str:
        """``kmalloc-96 object ffff...+0x8``: the word at a direct-map offset, wherever it is."""
        at = np.array([offset], np.uint64)
        node = self.marked.nodes.at_offsets(at)
        if node[0] < 0 or self.marked.nodes.kind(int(node[0])) is NodeKind.AREA:
            return self.name(offset)
        (start,) = self.marked.nodes.addresses(node).tolist()
        inside = offset + self.marked.view.space.direct.start - start
        return f"{self._called(int(node[0]))} {start:x}+{inside:#x}"

    def owners_of(self, offsets: Words) -> list[str]:
        """What many words have in common, wherever they are: ``kmalloc-96 objects``."""
        nodes = self.marked.nodes.at_offsets(offsets)
        outside = iter(self._places_of(offsets[nodes < 0]))
        return [next(outside).owner if n < 0 else self._kind_of(n) for n in nodes.tolist()]

    def _kind_of(self, node: int) -> str:
        if self.marked.nodes.kind(node) is NodeKind.PAGES:
            return "pages without a counter"
        what = self._label(None, node)
        return f"{what} objects" if self.marked.nodes.kind(node) is NodeKind.OBJECT else what

    def _called(self, node: int) -> str:
        what = self._label(None, node)
        return f"{what} object" if self.marked.nodes.kind(node) is NodeKind.OBJECT else what

    def whole_name(self, node: int, target: int) -> str:
        """``kmalloc-96 object ffff...+0x8``: a node, and where in it a pointer to `target` is."""
        nodes = self.marked.nodes
        start, begin = nodes.addresses(np.array([node, target], np.int64)).tolist()
        length = int(nodes.bytes(np.array([target], np.int64))[0])
        words = self._words_of(node)
        hits = np.flatnonzero(words - np.uint64(begin) < np.uint64(max(length, 1)))
        where = f"+{8 * int(hits[0]):#x}" if len(hits) else ""
        return f"{self._called(node)} {start:x}{where}"

    def _places_of(self, offsets: Words) -> list[Place]:
        """Names of words at direct-map offsets."""
        places = self._places.names(offsets)
        if not self.marked.giants:
            return places
        # With a memory budget, some slabs are outside the table, and speak as roots.
        view, whole = self.marked.view, self.marked.whole
        addresses = np.uint64(view.space.direct.start) + offsets
        rows = whole.locate(addresses, view.caches)
        for at in np.flatnonzero(rows >= 0).tolist():
            cache = view.caches.all[int(whole.cache[rows[at]])]
            base = int(whole.address[rows[at]])
            slot = (int(addresses[at]) - base) // cache.slot_size
            start = base + slot * cache.slot_size + cache.red_left_pad
            what = f"{cache.name} object {start:#x}, not followed further"
            of = f"objects of {cache.name} that were not followed further"
            places[at] = Place(PlaceKind.PAGE, what, variable=of)
        return places

    def _without_words(self, start: int) -> Place:
        """What holds a node that no word of memory points at."""
        block = start - self.marked.nodes.first_block
        if block >= 0 and self.marked.weak.blocks[block]:
            at = self.marked.weak.at[self.marked.weak.names == block][:1].tolist()
            word = f"a physical address in {self.word_name(at[0])}"
            return Place(PlaceKind.WEAK, word, variable="a physical address")
        if block >= 0 and self.marked.split_blocks[block]:
            return Place(PlaceKind.WEAK, "the pages before them")
        return Place(PlaceKind.STACK, "a CPU's register")

    def chain(self, slot: int) -> Chain:
        """From the root to `slot`; the middle of a long chain is counted, not listed."""
        path = self._path(slot)
        steps = [self.root_of(path[0]).name]
        steps += self.labels(path)
        (address,) = self.marked.nodes.addresses(np.array([slot], np.int64)).tolist()
        return Chain(U64(address), tuple(steps))

    def _path(self, node: int) -> list[int]:
        """The nodes from the root to `node`."""
        via = self.marked.marks.via
        path = [node]
        while (above := int(via[path[-1]])) >= 0 and len(path) < _MAX_STEPS:
            path.append(above)
        path.reverse()
        return path

    def labels(self, path: list[int]) -> list[str]:
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

    def _label(self, above: int | None, node: int) -> str:
        """``kmalloc-64+0x8``, ``vmalloc area of f [m]``, ``4 pages``."""
        nodes, view = self.marked.nodes, self.marked.view
        kind = nodes.kind(node)
        if kind is NodeKind.PAGES:
            return plural(int(nodes.blocks.pages[node - nodes.first_block]), "page")
        if kind is NodeKind.AREA:
            row = nodes.area_row[node - nodes.first_area]
            caller = int(nodes.areas.caller[row])
            by = f" of {symbolic(view.host.symbol_at(caller), caller)}" if caller else ""
            return f"vmalloc area{by}"
        one = np.array([node], np.int64)
        cache = view.caches.all[int(self.marked.table.caches(one)[0])]
        landing = self._landing(above, int(nodes.addresses(one)[0]), cache.object_size)
        return cache.name + ("" if landing is None else f"+{landing:#x}")

    def _landing(self, above: int | None, start: int, size: int) -> int | None:
        """Where in [start, start + size) the node above points."""
        if above is None:
            return None
        inside = self._words_of(above) - np.uint64(start)
        hits = inside[inside < np.uint64(size)]
        return int(hits[0]) if len(hits) else None

    def _words_of(self, node: int) -> Words:
        """What is in a node; of a large one its beginning, of one that cannot be read nothing."""
        nodes = self.marked.nodes
        one = np.array([node], np.int64)
        length = min(int(nodes.bytes(one)[0]), _MOST_READ)
        try:
            data = self.marked.view.host.read(int(nodes.addresses(one)[0]), length & ~7)
        except ReadFault:
            return np.zeros(0, np.uint64)
        return np.frombuffer(data, "<u8")

    def tally(self, slots: Slots) -> tuple[tuple[tuple[str, int], ...], tuple[Chain, ...]]:
        """Roots by name with how many of `slots` each holds, most first, and a chain of each."""
        names: Counter[str] = Counter()
        example: dict[str, int] = {}
        starts, first = np.unique(self.starts_of(slots), return_index=True)
        self.roots_of(starts)  # all at once
        of_root = dict(zip(starts.tolist(), slots[first].tolist(), strict=True))
        counts = np.bincount(np.searchsorted(starts, self.starts_of(slots)), minlength=len(starts))
        # In the order of the first object of each, which is the one that is shown.
        for start in sorted(of_root, key=lambda s: of_root[s]):
            name = self.root_of(start).owner
            names[name] += int(counts[np.searchsorted(starts, start)])
            example.setdefault(name, of_root[start])
        most = tuple(names.most_common(_HEAD_STEPS))
        return most, tuple(self.chain(example[name]) for name, _ in most[:3])

    def head(self, slots: Slots) -> Head | None:
        """The variable at which nearly all of `slots`, held objects of one cache, hang.

        Where another object comes between there is none: that may be of anybody. A stack that holds
        one in the middle of a list reaches others through it: where those hang is not known.
        """
        if not len(slots):
            return None
        starts, which = np.unique(self.starts_of(slots), return_inverse=True)
        places = self.roots_of(starts)
        begin = [self._begin(*one) for one in zip(starts.tolist(), places, strict=True)]
        variable = np.array(begin, np.uint64)[which]
        by_stack = np.array([place.kind is PlaceKind.STACK for place in places])[which]
        variables, counts = np.unique(variable[~by_stack], return_counts=True)
        start, most = (int(variables[counts.argmax()]), counts.max()) if len(counts) else (0, 0)
        if not start or most < max(_NEARLY_ALL * counts.sum(), _LEAST * len(slots)):
            return None
        # One path as a whole, and of the others the last step.
        mine = slots[variable == start]
        above = self.marked.marks.via[mine]
        last = self._of_cache(above[above >= 0], slots[0])
        if (~last).sum() > (1 - _NEARLY_ALL) * len(mine):
            return None
        path = self._path(int(mine[0]))
        if not self._of_cache(np.array(path), slots[0]).all():
            return None
        symbol = self.marked.view.host.symbol_at(start)
        if symbol is None:
            module = next(p.module for p, at in zip(places, begin, strict=True) if at == start)
            return Head("", module, U64(start))
        return Head(symbol.name, symbol.module, U64(start))

    def _begin(self, node: int, place: Place) -> int:
        """Where the variable begins that holds `node`."""
        if place.inside >= 0 or not place.start:
            return place.start
        # Of a list whose head has no name, what hangs first and last points back at it.
        words = self._words_of(node)
        back = (place.start - at for at in (0, 8) if place.start - at in words)
        return next(back, place.start)

    def _of_cache(self, nodes: NDArray[Any], like: int) -> NDArray[np.bool_]:
        """Which nodes are objects of the same cache as the object `like`."""
        table = self.marked.table
        found = nodes < table.count
        found[found] = table.caches(nodes[found]) == table.caches(np.array([like], np.int64))[0]
        return found
