"""Numbers in the words of a printed sentence: one form each, for every room.

It knows no dump: strings that come from one are escaped where they are printed (report/safe.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_VARIABLE = re.compile(r"[A-Za-z_][\w.]*(?: \[[\w-]+\])?", re.ASCII)
_UNKNOWN = 1 << 62
"""An upper bound that nobody knows."""


def missing(live: bool) -> str:
    """Why memory was not read, after "is" or "are": a dump lacks it, or a `live` kernel does."""
    return "not given by the running kernel" if live else "not in the dump"


def looked_in(live: bool) -> str:
    """Where something was looked for."""
    return "in the running kernel" if live else "in this dump"


def plural(n: int, noun: str) -> str:
    """``1 object``, ``2,000 objects``"""
    return f"{n:,} {noun}" + ("s" if n != 1 else "")


def more(n: int, noun: str) -> str:
    """What grew or shrank: ``+1 area``, ``-2,000 objects``"""
    return f"{n:+,} {noun}" + ("s" if abs(n) != 1 else "")


def part_of(part: int, whole: int, noun: str = "") -> str:
    """``393 of 6,815 objects``"""
    return f"{part:,} of " + (plural(whole, noun) if noun else f"{whole:,}")


def about(estimate: int, low: int, high: int) -> str:
    """``200,000``, or ``~199,900 (199,500 to 200,200)`` where it is an estimate."""
    if low == high:
        return f"{estimate:,}"
    if high >= _UNKNOWN:
        return f"~{estimate:,} (at least {low:,})"
    return f"~{estimate:,} ({low:,} to {high:,})"


def percent(share: float, exact: bool = True) -> str:
    """``12.3 %``, ``0.5 %``, ``<0.1 %``; ``0 %`` and ``100 %`` only where it is exact."""
    if share < 0:
        return f"-{percent(-share, exact)}"
    if exact and share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    if share < 0.001:
        return "<0.1 %"
    return ">99.9 %" if 0.9995 <= share <= 1 else f"{100 * share:.1f} %"


def percent_of(part: float, whole: float) -> str:
    """The share of `part`; ``0 %`` of nothing."""
    return percent(part / whole if whole else 0.0)


def size_text(n: int) -> str:
    """``1.5 MiB``, ``-12 bytes``"""
    value = float(abs(n))
    sign = "-" if n < 0 else ""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{n:,} bytes" if unit == "bytes" else f"{sign}{value:.1f} {unit}"
        value /= 1024
    return f"{sign}{value:,.1f} TiB"


def difference_text(n: int) -> str:
    """A size that grew: ``+1.5 MiB``, ``-12 bytes``"""
    return f"+{size_text(n)}" if n >= 0 else size_text(n)


def duration(seconds: float) -> str:
    """``2.5 hours``"""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return plural(round(seconds), "second")


def some_of(names: Sequence[str], most: int, total: int | None = None) -> str:
    """``a, b, c and 4 more``: at most `most` of the names, of which there are `total` in all."""
    shown = ", ".join(names[:most])
    more = (len(names) if total is None else total) - min(most, len(names))
    return shown + (f" and {more:,} more" if more > 0 else "")


def called(caller: str, module: str) -> str:
    """``caller [module]``; in words where no caller is noted."""
    return bracketed(caller or "a caller that is not noted", module)


def root_text(root: str) -> str:
    """Who holds something, by a root's name: ``the variable queue [driver]``, ``stack of ...``."""
    return f"the variable {root}" if _VARIABLE.fullmatch(root) else root


def bracketed(caller: str, module: str) -> str:
    """``caller [module]``, the module where there is one and the caller does not say it."""
    return f"{caller} [{module}]" if module and "[" not in caller else caller
