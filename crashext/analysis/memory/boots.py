"""Whether moments are of one boot: what a kernel took since another one began has no rate.

A moment with a date and an uptime says when its kernel booted. Clocks are set and machines sleep (a
dump's uptime does not count that), so what differs is told with both numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

from crashext.procfs.folder import Moment

CLOCK_STEPS = 120
"""Seconds by which the boot time of one boot may differ: NTP steps a clock soon after boot, and
`date` and uptime of a folder are not saved in one instant."""
_ZONES = 14 * 3600
_ZONE_STEP = 1800
"""A date in text may have a zone that is not known, or one that summer changes: half hours."""


def another_boot(moments: Sequence[tuple[Moment, bool]]) -> str:
    """Why two moments that follow each other are not of one boot; "" where nothing says so.

    Each moment comes with whether its date is the kernel's own, so that no zone is in it.
    """
    for (a, own), (b, too) in pairwise(moments):
        why = _between(a, b, own and too)
        if why:
            return why
    return ""


def _between(a: Moment, b: Moment, exact: bool) -> str:
    if a.uptime is None or b.uptime is None:
        return ""
    ups = f"up {a.uptime:,.0f} s, then {b.uptime:,.0f} s"
    if a.date is None or b.date is None:
        return ups if b.uptime < a.uptime - 1 else ""
    boots = a.date - a.uptime, b.date - b.uptime
    apart = abs(boots[1] - boots[0])
    if not exact and apart <= _ZONES + CLOCK_STEPS:
        backwards = b.uptime < a.uptime - 1 and b.date > a.date
        apart = apart if backwards else min(apart % _ZONE_STEP, -apart % _ZONE_STEP)
    if apart <= CLOCK_STEPS:
        return ""
    return f"booted {_when(boots[0])}, then {_when(boots[1])} by date less uptime ({ups})"


def _when(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:,.0f} s"
