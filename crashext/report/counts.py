"""Numbers as reports write them: counts and shares with their error, sizes, plurals."""

from __future__ import annotations

from crashext.analysis.results.estimate import Estimate, Share
from crashext.analysis.sizes import size_text as bytes_text

__all__ = ["bytes_text", "count_text", "plural", "share_text"]


def plural(n: int, noun: str) -> str:
    """``1 object``, ``2 objects``."""
    return f"{n:,} {noun}" + ("s" if n != 1 else "")


def count_text(count: Estimate) -> str:
    """``200,000``, or ``~199,900 (199,500 to 200,200)`` where it is an estimate."""
    if count.exact:
        return f"{count.estimate:,}"
    if count.high >= 1 << 62:
        return f"~{count.estimate:,} (at least {count.low:,})"
    return f"~{count.estimate:,} ({count.low:,} to {count.high:,})"


def share_text(share: Share) -> str:
    if share.value in (0.0, 1.0) and share.low == share.high:
        return f"{100 * share.value:.0f} %"
    if share.value < 0.001:
        return "<0.1 %"
    return f"{100 * share.value:.1f} %" if share.value < 0.9995 else ">99.9 %"
