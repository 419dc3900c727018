"""Whose objects these look like: modules and symbols named inside them, or one pointer away.

It tells whom the objects serve, which is often but not always who allocated them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.decode import symbolic
from crashext.analysis.likeness.words import Classifier, Kind, WordMap
from crashext.analysis.results.evidence import Allocator
from crashext.kernel.access import Words
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView

RUNG = "content"
BEYOND = " -> "
"""In the note of an owner: the names are in what the objects point at."""
_MOST = 0.5
_COLUMNS = 64  # words of an object that are looked at, and pointers of it that are followed
_TARGETS = 512  # different objects that one word may lead to
_TARGET_BYTES = 1024


def content_owners(
    view: KernelView, classifier: Classifier, words: WordMap
) -> tuple[Allocator, ...]:
    """The module, or failing that the kernel symbol, that more than half of the objects name.

    `words` are the group's members alone. Words of the objects come before pointers' targets.
    """
    n = len(words.values)
    if not n:
        return ()
    modules = _Modules(view)
    columns = range(min(words.values.shape[1], _COLUMNS))
    by_word = {f"+{8 * i:#x}": _named(words, i) for i in columns}
    best = _best(modules, by_word, n)
    if best is None:
        beyond: dict[str, Words] = {}
        for i in columns:
            beyond |= _beyond(view, classifier, words, i)
        best = _best(modules, beyond, n)
    if best is not None:
        place, module, value, count = best
        return (_owner(view, place, module, value, count, n),)
    symbols = {f"+{8 * i:#x}": _image(words, i) for i in columns}
    image = _most_common(symbols)
    if image is None or image[2] <= _MOST * n:
        return ()
    place, value, count = image
    return (_owner(view, place, "", value, count, n),)


class _Modules:
    """Which module's code or data an address is in, for many at once."""

    def __init__(self, view: KernelView) -> None:
        areas = sorted((a, b, m.name) for m in view.host.modules() for a, b in m.ranges)
        self.names = sorted({name for _, _, name in areas})
        self._starts = np.array([a for a, _, _ in areas], np.uint64)
        self._ends = np.array([b for _, b, _ in areas], np.uint64)
        self._which = np.array([self.names.index(name) for _, _, name in areas], np.int64)

    def of(self, values: Words) -> NDArray[np.int64]:
        """Index into `names`, -1 where the value is in no module."""
        if not len(self._starts):
            return np.full(len(values), -1, np.int64)
        at = np.searchsorted(self._starts, values, side="right").astype(np.int64) - 1
        inside = (at >= 0) & (values < self._ends[np.maximum(at, 0)])
        return np.where(inside, self._which[np.maximum(at, 0)], -1)


def _named(words: WordMap, i: int) -> Words:
    """The column's values where they are in a module, else 0."""
    return np.where(words.kinds[:, i] == Kind.MODULE, words.values[:, i], np.uint64(0))


def _image(words: WordMap, i: int) -> Words:
    kinds = words.kinds[:, i]
    named = (kinds == Kind.TEXT_SYMBOL) | (kinds == Kind.DATA_SYMBOL)
    return np.where(named, words.values[:, i], np.uint64(0))


def _best(modules: _Modules, columns: dict[str, Words], n: int) -> tuple[str, str, int, int] | None:
    """(place, module, most common value there, objects that name the module) above a half."""
    votes = np.zeros((len(modules.names), n), np.bool_)
    owners = {place: modules.of(values) for place, values in columns.items() if values.any()}
    for owner in owners.values():
        known = np.flatnonzero(owner >= 0)
        votes[owner[known], known] = True
    counts = votes.sum(axis=1)
    if not len(counts) or counts.max() <= _MOST * n:
        return None
    winner = int(counts.argmax())
    inside = {
        place: np.where(owner == winner, columns[place], np.uint64(0))
        for place, owner in owners.items()
    }
    common = _most_common(inside)
    assert common is not None
    return common[0], modules.names[winner], common[1], int(counts[winner])


def _most_common(columns: dict[str, Words]) -> tuple[str, int, int] | None:
    """(place, value, times) of the value that is most often at one place; 0 does not count."""
    best: tuple[str, int, int] | None = None
    for place, values in columns.items():
        found, counts = np.unique(values[values != 0], return_counts=True)
        if len(found) and (best is None or counts.max() > best[2]):
            best = place, int(found[counts.argmax()]), int(counts.max())
    return best


def _beyond(view: KernelView, classifier: Classifier, words: WordMap, i: int) -> dict[str, Words]:
    """Per word of the objects that the column's slab pointers lead to: module addresses there."""
    slab = np.flatnonzero(words.kinds[:, i] == Kind.SLAB)
    if len(slab) <= _MOST * len(words.values):
        return {}
    details = words.details[slab, i]
    starts = words.values[slab, i] - (details & np.uint64(0xFFFFFFFF))
    caches = (details >> np.uint64(32)).astype(np.int64)
    which, counts = np.unique(caches, return_counts=True)
    cache = view.caches.all[int(which[counts.argmax()])]
    same = caches == which[counts.argmax()]
    targets, inverse = np.unique(starts[same], return_inverse=True)
    if len(targets) > _TARGETS:
        targets = targets[np.linspace(0, len(targets) - 1, _TARGETS).astype(np.int64)]
        inverse = np.searchsorted(targets, starts[same])
        inverse = np.minimum(inverse, len(targets) - 1)
    known = targets[inverse] == starts[same]
    inner = _module_words(view, classifier, cache, targets)
    result = {}
    for j in np.flatnonzero(inner.any(axis=0)).tolist():
        values = np.zeros(len(words.values), np.uint64)
        values[slab[same][known]] = inner[inverse[known], j]
        if len(targets) == _TARGETS:
            # A sample of the targets speaks for the rest of the group.
            values[slab[same][~known]] = _fill(inner[:, j])
        result[f"+{8 * i:#x}{BEYOND}{cache.name}+{8 * j:#x}"] = values
    return result


def _fill(values: Words) -> int:
    """The value of more than nine tenths of some targets, 0 where there is none."""
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()]) if counts.max() > 0.9 * len(values) else 0


def _module_words(
    view: KernelView, classifier: Classifier, cache: SlabCache, targets: Words
) -> Words:
    """Words of target objects that are module addresses, others 0: uint64[n, w]."""
    data, ok = view.host.read_many(targets, min(cache.object_size, _TARGET_BYTES))
    inner = classifier.classify(data, targets)
    return np.where((inner.kinds == Kind.MODULE) & ok[:, None], inner.values, np.uint64(0))


def _owner(view: KernelView, place: str, module: str, value: int, count: int, n: int) -> Allocator:
    name = symbolic(view.host, value)
    site = name.removesuffix(f" [{module}]") if module else name
    return Allocator(
        rung=RUNG,
        site=site,
        module=module,
        stack=(),
        objects=count,
        of=n,
        note=f"at {place}: no proof that it allocated them",
    )
