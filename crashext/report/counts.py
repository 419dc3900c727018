"""Estimates as reports write them: counts and shares with their error."""

from __future__ import annotations

from crashext.analysis.results.estimate import Estimate, Share
from crashext.wording import about, percent


def count_text(count: Estimate) -> str:
    """``200,000``, or ``~199,900 (199,500 to 200,200)`` where it is an estimate."""
    return about(count.estimate, count.low, count.high)


def share_text(share: Share) -> str:
    """``99.5 %``"""
    return percent(share.value, exact=share.low == share.high)
