"""What a group's objects may be: the candidates, how sure one may be, and how a session keeps them.

They need BTF in the dump. Where two structs explain the words equally well, `rivals` has both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.words import Classifier, WordMap
from crashext.analysis.results.evidence import TypeCandidate
from crashext.analysis.types.ranking import MOST_CANDIDATES, MOST_LINES, Ranker
from crashext.hosts.derived import derived
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.view import KernelView

_WEAK_SCORE, _WEAK_GAIN = 0.25, 3.0
_TIE, _TIE_SHARE = 2.0, 0.05  # of a gain: what chance may well add to one of two structs
_MAX_TEXT = 300


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

        def compute() -> list[dict[str, Any]] | None:
            if self._view.btf is None:
                return None
            self._ranker = self._ranker or Ranker(self._view, self._view.btf, self._classifier)
            return [_to_plain(found) for found in self._ranker.rank(cache, words, rows)]

        return _from_plain(derived(self._view.host, f"types {cache.name} {exemplar:#x}", compute))


def inconclusive(best: TypeCandidate) -> bool:
    """Does even the best candidate explain too little of the words to be believed?"""
    return best.score < _WEAK_SCORE or best.gain < _WEAK_GAIN


def rivals(types: tuple[TypeCandidate, ...]) -> tuple[TypeCandidate, ...]:
    """The best candidate, and those that nothing but chance may set apart from it."""
    least = types[0].gain - max(_TIE, _TIE_SHARE * types[0].gain)
    return tuple(t for t in types if t.gain >= least)


def _to_plain(candidate: TypeCandidate) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "module": candidate.module,
        "score": candidate.score,
        "agree": candidate.agree,
        "disagree": candidate.disagree,
        "gain": candidate.gain,
        "agreements": list(candidate.agreements),
        "disagreements": list(candidate.disagreements),
    }


def _from_plain(answer: Any) -> tuple[TypeCandidate, ...]:
    """An answer that may come from a stranger's session: what makes no sense is left out."""
    if not isinstance(answer, list):
        return ()
    result = []
    for item in answer[:MOST_CANDIDATES]:
        try:
            score, gain = float(item["score"]), float(item["gain"])
            agree, disagree = int(item["agree"]), int(item["disagree"])
            good, bad = (
                tuple(str(line)[:_MAX_TEXT] for line in item[key][:MOST_LINES])
                for key in ("agreements", "disagreements")
            )
            name, module = (str(item[key])[:_MAX_TEXT] for key in ("name", "module"))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if 0 <= score <= 1 and min(agree, disagree) >= 0 and math.isfinite(gain):
            result.append(TypeCandidate(name, score, good, bad, module, agree, disagree, gain))
    return tuple(result)
