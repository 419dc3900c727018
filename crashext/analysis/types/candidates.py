"""What a group's objects may be: the candidates, and how sure one may be.

They need BTF in the dump. Where two structs explain the words equally well, `rivals` has both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.words import Classifier, Kind, WordMap
from crashext.analysis.results.evidence import TypeCandidate
from crashext.analysis.types.lookups import modules_at
from crashext.analysis.types.ranking import MOST_CANDIDATES, Ranker
from crashext.hosts.plain import answered
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView

_WEAK_SCORE, _WEAK_GAIN = 0.25, 3.0
_TIE, _TIE_SHARE = 2.0, 0.05  # of a gain: what chance may well add to one of two structs


class Types:
    """Candidate types for groups of one kernel's objects."""

    def __init__(self, view: KernelView, classifier: Classifier) -> None:
        self._view, self._classifier = view, classifier
        self._ranker: Ranker | None = None

    def candidates(
        self, cache: SlabCache, words: WordMap, rows: NDArray[np.intp], exemplar: int
    ) -> tuple[TypeCandidate, ...]:
        """The structs that objects `rows` of `words` may be, best first; none without BTF.

        `exemplar` is the address that names the group. The whole of BTF is needed, so a session
        holds the answer.
        """

        def compute() -> tuple[TypeCandidate, ...] | None:
            values = words.values[rows][words.kinds[rows] == Kind.MODULE]
            btf = self._view.types.with_modules(modules_at(self._view.host, values))
            if btf is None:
                return None
            if self._ranker is None or self._ranker.btf is not btf:
                self._ranker = Ranker(self._view, btf, self._classifier)
            return tuple(self._ranker.rank(cache, words, rows))

        key = f"types {cache.name} {exemplar:#x}"
        found = answered(self._view.host, key, tuple[TypeCandidate, ...], compute)
        return (found or ())[:MOST_CANDIDATES]


def inconclusive(best: TypeCandidate) -> bool:
    """Does even the best candidate explain too little of the words to be believed?"""
    return best.score < _WEAK_SCORE or best.gain < _WEAK_GAIN


def rivals(types: tuple[TypeCandidate, ...]) -> tuple[TypeCandidate, ...]:
    """The best candidate, and those that nothing but chance may set apart from it."""
    least = types[0].gain - max(_TIE, _TIE_SHARE * types[0].gain)
    return tuple(t for t in types if t.gain >= least)


def settled(types: tuple[TypeCandidate, ...]) -> TypeCandidate | None:
    """What the objects are, where a guess may stand as evidence: neither weak nor one of equals."""
    if not types or inconclusive(types[0]) or len(rivals(types)) > 1:
        return None
    return types[0]
