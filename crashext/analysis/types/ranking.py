"""Every struct that fits a cache, judged by the words of a group of its objects.

Three things speak for or against a struct: what kind of word each of its fields holds (`fit`), what
its pointers and functions lead to (`votes`), and, a little, the cache's name.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.words import Classifier, Kind, WordMap
from crashext.analysis.results.evidence import TypeCandidate
from crashext.analysis.results.texts import MOST_LINES
from crashext.analysis.types.fit import Observed
from crashext.analysis.types.lookups import Lookups, is_kmalloc, modules_at
from crashext.analysis.types.votes import TELLS, Note, Votes
from crashext.kernel.btf import Btf
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView

MOST_CANDIDATES = 5
_ROWS = 96
_JUDGED = 150  # candidates whose pointers are followed, best first
_WORDS = 1024  # of an object that are looked at: 8 KiB
# What is lost where a struct's size is not the cache's, in the unit of `fit`.
_NEAR, _MERGED, _OPEN_ENDED = -1.0, -2.0, -2.0


class Ranker:
    """Ranks structs for groups of one kernel's objects."""

    def __init__(self, view: KernelView, btf: Btf, classifier: Classifier) -> None:
        self.btf, self._look = btf, Lookups(view, btf, classifier)
        self._fields = self._look.fields

    def rank(
        self, cache: SlabCache, words: WordMap, rows: NDArray[np.intp], most: int = MOST_CANDIDATES
    ) -> tuple[TypeCandidate, ...]:
        """The best candidates for objects `rows` of `words`, at most `most`."""
        values = words.values[rows][words.kinds[rows] == Kind.MODULE]
        held = frozenset(modules_at(self._look.view.host, values))
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _ROWS)).astype(np.intp)]
        width = min(words.values.shape[1], _WORDS)
        seen = Observed(
            WordMap(
                words.values[rows, :width], words.kinds[rows, :width], words.details[rows, :width]
            ),
            min(cache.object_size, 8 * width),
        )
        votes = Votes(self._look, seen, held)
        priors = self._fitting(cache)
        first = {n: p + self._look.gain(self._fields.of(n), n, seen) for n, p in priors.items()}
        best = sorted(first, key=lambda n: -first[n])[:_JUDGED]
        total: dict[int, float] = {}
        most_explained = np.zeros(width)
        for number in best:
            notes: list[Note] = []
            total[number] = (
                priors[number]
                + votes.gain(self._fields.of(number), number, notes)
                + votes.about(cache, number)[0]
            )
            most_explained = np.maximum(most_explained, _by_word(notes, width))
        # What there is to explain: in every word as much as any of the structs does.
        most_to_gain = float(most_explained.sum())
        ranked = sorted(best, key=lambda n: (-total[n], self.btf.name(n)))
        result: list[TypeCandidate] = []
        names: set[str] = set()
        for number in ranked:
            name = self.btf.name(number)
            if name in names or total[number] <= 0 or len(result) == most:
                continue
            names.add(name)
            gain = total[number]
            score = min(1.0, gain / max(most_to_gain, gain))
            result.append(self._candidate(votes, cache, number, score, gain))
        return tuple(result)

    def _candidate(
        self, votes: Votes, cache: SlabCache, number: int, score: float, gain: float
    ) -> TypeCandidate:
        notes: list[Note] = []
        votes.gain(self._fields.of(number), number, notes, wordy=True)
        about = votes.about(cache, number)[1]
        good = [n for n in notes if n.gain >= TELLS]
        bad = [n for n in notes if n.gain <= -TELLS]
        return TypeCandidate(
            name=f"struct {self.btf.name(number)}",
            score=round(score, 4),
            agreements=_lines(good, about),
            disagreements=_lines(bad, []),
            module=self.btf.module(number),
            agree=len({n.offset // 8 for n in good}),
            disagree=len({n.offset // 8 for n in bad}),
            gain=round(gain, 2),
        )

    def _fitting(self, cache: SlabCache) -> dict[int, float]:
        """Structs that an object of the cache has room for, with what their size costs them."""
        btf, size = self.btf, cache.object_size
        result: dict[int, float] = {}

        def add(numbers: Iterable[int], prior: float) -> None:
            for number in numbers:
                if number not in result and btf.name(number):
                    result[number] = prior

        if is_kmalloc(cache):
            low = max((s for s in self._look.kmalloc_sizes if s < size), default=0)
            add(btf.structs(low + 1, size).tolist(), 0.0)
        else:
            add(btf.structs(size, size).tolist(), 0.0)
            low = size - 8
            add(btf.structs(low + 1, size - 1).tolist(), _NEAR)
            if cache.aliases:
                # A merged cache is as large as its first owner's objects; others had less.
                low = cache.slot_size - 64
                add(btf.structs(low + 1, size - 1).tolist(), _MERGED)
            # The kernel cuts the tail of some to what this machine needs (task_struct: x86 gives
            # it only as much of thread.fpu as the processor has).
            longer = btf.structs(size + 1, 2 * size)
            cut = (btf.last_member[longer] > size // 2) & (btf.last_member[longer] < size)
            add(longer[cut].tolist(), _OPEN_ENDED)
        shorter = btf.structs(max(1, size // 4), low)
        add((n for n in shorter.tolist() if btf.flexible(n)), _OPEN_ENDED)
        return result


def _lines(notes: list[Note], first: list[str]) -> tuple[str, ...]:
    """The most telling, in the order of the struct."""
    chosen = sorted(notes, key=lambda n: -abs(n.gain))[: MOST_LINES - len(first)]
    return (*first, *(n.text for n in sorted(chosen, key=lambda n: n.offset)))


def _by_word(notes: list[Note], width: int) -> NDArray[np.float64]:
    """Gains spread over the words they are about: float64[width]."""
    result = np.zeros(width)
    for note in notes:
        first, last = note.offset // 8, min(width, (note.offset + note.size + 7) // 8)
        if first < last:
            result[first:last] += note.gain / (last - first)
    return result
