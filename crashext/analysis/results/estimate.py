"""Counts estimated from some of a cache's slabs, with their 95 % intervals.

Slabs are drawn at random and every object of a drawn slab is looked at, so objects come in
clusters, and objects of one slab, allocated together, are more alike than strangers. The
interval is that of a ratio estimate from clusters (Cochran, Sampling Techniques, 3rd ed., 6.3
and 9A), in Wilson's form so that it stays sane near 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.wording import about, percent

_Z = 1.959963984540054  # the normal distribution's 97.5th percentile


@dataclass(frozen=True, slots=True)
class Estimate:
    """A count with its 95 % interval; `low == estimate == high` when everything was counted."""

    estimate: int
    low: int
    high: int

    @classmethod
    def known(cls, count: int) -> Estimate:
        return cls(count, count, count)

    @classmethod
    def sum(cls, counts: Iterable[Estimate]) -> Estimate:
        """Of all of them; their errors add up."""
        every = list(counts)
        return cls(
            sum(c.estimate for c in every), sum(c.low for c in every), sum(c.high for c in every)
        )

    @property
    def exact(self) -> bool:
        return self.low == self.high


NONE = Estimate(0, 0, 0)


def count_text(count: Estimate, noun: str = "") -> str:
    """``200,000``, or ``~199,900 (199,500 to 200,200)`` where it is an estimate; of what, if told:
    ``1 object``, ``200,000 objects``."""
    text = about(count.estimate, count.low, count.high)
    return f"{text} {noun}" + ("s" if text != "1" else "") if noun else text


@dataclass(frozen=True, slots=True)
class Share:
    """A proportion with its 95 % interval."""

    value: float
    low: float
    high: float

    def of(self, total: Estimate) -> Estimate:
        """The count it stands for among `total` objects; both uncertainties add up."""
        if self.low == self.high and total.exact:
            count = round(self.value * total.estimate)
            return Estimate.known(count)
        return Estimate(
            round(self.value * total.estimate),
            math.floor(self.low * total.low),
            math.ceil(self.high * total.high),
        )

    def widened(self, unseen: float) -> Share:
        """The same share when a fraction `unseen` of the objects could be anything."""
        seen = 1 - unseen
        return Share(self.value, self.low * seen, self.high * seen + unseen)


def share_text(share: Share) -> str:
    """``99.5 %``"""
    return percent(share.value, exact=share.low == share.high)


def clustered_share(hits: NDArray[np.int64], sizes: NDArray[np.int64], clusters: int) -> Share:
    """Share of objects that are hits, from sampled clusters.

    `hits` and `sizes` are counts per sampled cluster, `clusters` is how many exist. When all of
    them were sampled the share is exact.
    """
    n, total = len(sizes), int(sizes.sum())
    if not total:
        return Share(0.0, 0.0, 1.0)
    share = float(hits.sum() / total)
    if n >= clusters:
        return Share(share, share, share)
    unseen = 1 - n / clusters
    independent = _independent_observations(hits, sizes, share)
    low, high = _wilson(share, independent)
    # The rule of three: what no sampled cluster showed may still fill three in n of them.
    unshown = min(1.0, 3 / n)
    low, high = min(low, share * (1 - unshown)), max(high, share + (1 - share) * unshown)
    shrink = math.sqrt(unseen)
    return Share(share, share - (share - low) * shrink, share + (high - share) * shrink)


def _independent_observations(
    hits: NDArray[np.int64], sizes: NDArray[np.int64], share: float
) -> float:
    """How many objects drawn one by one would know as much as these clusters."""
    n, total = len(sizes), int(sizes.sum())
    simple = share * (1 - share) / total
    if n < 2 or simple == 0:
        return float(n)  # every cluster agrees: each counts as one observation, not its objects
    residuals = hits - share * sizes
    mean = total / n
    variance = float((residuals**2).sum()) / (n - 1) / (n * mean**2)
    if variance <= 0:
        return float(total)
    effect = max(1.0, variance / simple)
    return max(1.0, total / effect)


def _wilson(share: float, n: float) -> tuple[float, float]:
    z2 = _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
