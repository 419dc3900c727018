"""Groups of alike objects: exact, then by shape, then by rapidfuzz's score.

Objects that differ only in where their pointers lead collapse first; one object of each kind is
scored against the leader of each group. Shapes choose the leaders, but do not decide alone: four
random words have a shape in common and nothing else. Zeros agree with everything and so say
nothing: positions where both objects are zero do not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import Hamming, Indel, Levenshtein

from crashext.analysis.likeness.words import WordMap, count_distinct, row_hash
from crashext.analysis.settings import METRICS
from crashext.hosts.base import Bytes
from crashext.kernel.access import Words

_SCORERS: dict[str, Any] = dict(zip(METRICS, (Hamming, Indel, Levenshtein), strict=True))
_MAX_GROUPS = 64
_MEDOID_CANDIDATES = 256


@dataclass(frozen=True)
class Cluster:
    """One group of the sample."""

    members: NDArray[np.intp]
    """Rows of the sample, ascending."""
    exemplar: int
    """The member most like the others (its medoid)."""
    shapes: int
    distinct: int
    """Different contents among the members."""
    similarity: float
    """Mean score of the members against the exemplar, 0 to 1."""


@dataclass(frozen=True)
class Grouping:
    """All clusters, largest first, and what stayed alone."""

    clusters: tuple[Cluster, ...]
    alone: NDArray[np.intp]
    """Rows that are like too few others to make a group."""
    exhausted: bool
    """More groups could be made, but `alone` was not looked at further."""


@dataclass(frozen=True)
class Features:
    """What is compared of n objects."""

    content: Bytes
    """uint8[n, 8w]: `WordMap.canonical`"""
    structure: Words
    """uint64[n, w]: `WordMap.structure`"""

    @classmethod
    def of(cls, words: WordMap) -> Features:
        return cls(words.canonical(), words.structure())

    def take(self, rows: NDArray[np.intp] | slice) -> Features:
        """Some of the objects."""
        return Features(self.content[rows], self.structure[rows])

    def words(self) -> Words:
        """The content a word at a time: uint64[n, w]."""
        return np.ascontiguousarray(self.content).view("<u8")

    def columns(self, keep: NDArray[np.bool_]) -> Features:
        """Some of the words of every object."""
        kept = self.content.reshape(len(self.content), -1, 8)[:, keep]
        return Features(kept.reshape(len(kept), -1), self.structure[:, keep])


def scores(one: Features, many: Features, metric: str = "hamming") -> NDArray[np.float64]:
    """Likeness of one object to many, 0 to 1: float64[n].

    The mean of two agreements. Content: agreeing bytes, as rapidfuzz counts them, positions that
    are zero in both left out. Structure: words of the same kind (and cache, or symbol), words
    that are mere numbers in both left out; two objects of numbers only go by content alone.
    """
    content = _content_scores(one.content[0], many.content, metric)
    mine = one.structure[0]
    telling = np.count_nonzero((many.structure != 0) | (mine != 0), axis=1)
    agreeing = np.count_nonzero((many.structure == mine) & (mine != 0), axis=1)
    structure = np.divide(agreeing, telling, out=content.copy(), where=telling > 0)
    return np.asarray((content + structure) / 2, np.float64)


def _content_scores(one: NDArray[np.uint8], many: Bytes, metric: str) -> NDArray[np.float64]:
    size = len(one)
    if not len(many) or not size:
        return np.ones(len(many))
    agreement = process.cdist(
        [one.tobytes()],
        [row.tobytes() for row in many],
        scorer=_SCORERS[metric].normalized_similarity,
        dtype=np.float64,
    )[0]
    silent = np.flatnonzero(one == 0)
    both_zero = np.count_nonzero(many[:, silent] == 0, axis=1)
    counted = size - both_zero
    agreeing = agreement * size - both_zero
    result = np.divide(agreeing, counted, out=np.ones(len(many)), where=counted > 0)
    return np.asarray(np.clip(result, 0.0, 1.0), np.float64)


def group(
    words: WordMap,
    threshold: float,
    metric: str,
    rng: np.random.Generator,
    minimum: int = 2,
) -> Grouping:
    """Group n objects. A group has at least `minimum` members; at most 64 groups are made.

    An object of the most common shape leads the first group, takes everything that scores
    `threshold` or more against it, and so on with what is left.
    """
    n = len(words.values)
    if not n:
        return Grouping((), np.zeros(0, np.intp), False)
    _, shape_of, shape_counts = np.unique(words.shapes(), return_inverse=True, return_counts=True)
    features = Features.of(words)
    _, first, inverse, counts = np.unique(
        words.representatives(features.content),
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    heads = features.take(first) if len(first) < n else features
    if heads is features:  # no two alike: leave them in their order
        first = inverse = np.arange(n)
    owner = np.full(len(first), -1, np.int64)
    # Ties are settled by the first object, not by the hash.
    left = np.lexsort((first, -counts, -shape_counts[shape_of[first]]))
    for number in range(_MAX_GROUPS):
        if not len(left):
            break
        near = scores(heads.take(left[:1]), heads.take(left), metric) >= threshold
        near[0] = True
        owner[left[near]] = number
        left = left[~near]
    owners = owner[inverse]
    hashes = row_hash(words.values)
    clusters = []
    alone = [np.flatnonzero(owners < 0)]
    for number in range(int(owner.max(initial=-1)) + 1):
        members = np.flatnonzero(owners == number)
        if len(members) < minimum:
            alone.append(members)
            continue
        exemplar = _medoid(features.content, members, metric, rng)
        some = _some(members, rng)
        clusters.append(
            Cluster(
                members=members,
                exemplar=exemplar,
                shapes=count_distinct(shape_of[members].astype(np.uint64)),
                distinct=count_distinct(hashes[members]),
                similarity=float(
                    scores(
                        features.take(slice(exemplar, exemplar + 1)), features.take(some), metric
                    ).mean()
                ),
            )
        )
    clusters.sort(key=lambda c: (-len(c.members), c.members[0]))
    return Grouping(tuple(clusters), np.sort(np.concatenate(alone)), len(left) > 0)


def _some(members: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    if len(members) <= _MEDOID_CANDIDATES:
        return members
    return np.sort(rng.choice(members, _MEDOID_CANDIDATES, replace=False))


def _medoid(
    canonical: Bytes, members: NDArray[np.intp], metric: str, rng: np.random.Generator
) -> int:
    """The member with the highest total score against (some of) the others; ties: the first."""
    some = _some(members, rng)
    texts = [canonical[i].tobytes() for i in some.tolist()]
    matrix = process.cdist(
        texts, texts, scorer=_SCORERS[metric].normalized_similarity, dtype=np.float32
    )
    totals = np.round(matrix.sum(axis=1, dtype=np.float64), 6)
    return int(some[int(totals.argmax())])
