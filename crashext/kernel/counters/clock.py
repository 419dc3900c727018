"""The kernel's tick: what jiffies say now, and how long one lasts.

HZ is a constant of the build that no symbol names; the kernel's own timekeeping keeps the length
of a tick in nanoseconds, from which it follows.

Sources: kernel/time/ntp.c ntp_update_frequency(), timekeeping.c (4.19, 6.1, 6.12, 6.17).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import Words, u64, variable

_SECOND = 10**9
_RATES = (24, 32, 48, 64, 100, 128, 200, 250, 256, 300, 500, 512, 1000, 1024, 1200)
_TOLERANCE = 0.002  # NTP bends a tick by 0.05 % at most; adjtimex(2) may set its length, rarely
_WORD = (1 << 64) - 1


@dataclass(frozen=True)
class Clock:
    """jiffies at the moment of the dump; `hz` is None where the kernel does not tell."""

    now: int
    hz: int | None
    live: bool = False
    """Of the running kernel: ages are those of now."""

    def age(self, when: int) -> int:
        """Jiffies since `when`; negative for what lies in the future."""
        ticks = (self.now - when) & _WORD
        return ticks - (1 << 64) if ticks >> 63 else ticks

    def at(self, nanoseconds: Words) -> Words:
        """Jiffies at so many nanoseconds after boot, to a second or so; 0 where HZ is not known.

        jiffies began at INITIAL_JIFFIES, five minutes before 32 bits overflow.
        """
        if not self.hz:
            return np.zeros(len(nanoseconds), np.uint64)
        ticks = nanoseconds // np.uint64(_SECOND // self.hz)
        return ticks + np.uint64((1 << 32) - 300 * self.hz)

    def ago(self, youngest: int, oldest: int) -> str:
        """``12 s before the dump``, or a range of it, from two ages in jiffies."""
        unit = " jiffies"
        if self.hz:
            low, high = _seconds(youngest / self.hz), _seconds(oldest / self.hz)
            unit = " s"
        else:
            low, high = f"{youngest:,}", f"{oldest:,}"
        before = "ago" if self.live else "before the dump"
        return f"{low if low == high else f'{low} to {high}'}{unit} {before}"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def clock(host: Host) -> Clock | None:
    """The kernel's clock; None where jiffies cannot be read."""
    now = variable(host, "jiffies_64")
    return None if now is None else Clock(now, tick_rate(host), host.info().live)


def uptime(host: Host) -> float | None:
    """Seconds since boot, without those of suspend; None where jiffies or HZ is not known."""
    known = clock(host)
    if known is None or not known.hz:
        return None
    ticks = known.now - ((1 << 32) - 300 * known.hz)  # INITIAL_JIFFIES
    return ticks / known.hz if 0 <= ticks < 1 << 48 else None


def wall_clock(host: Host) -> float | None:
    """Seconds since 1970 at the last tick; None where the kernel does not tell.

    It is in the shadow of the timekeeper, which has a symbol (3.10 to 6.12) or a member (6.13+) of
    its own; the timekeeper itself is in a structure without a name until then. The shadow is what
    the last tick made of it.
    """
    keeper, data = host.layout("struct timekeeper"), host.layout("struct tk_data")
    if keeper is None or "xtime_sec" not in keeper:
        return None
    at = host.address_of("shadow_timekeeper")
    if at is None:
        core = host.address_of("timekeeper_data") or host.address_of("tk_core")
        if core is None or data is None or "timekeeper" not in data:
            return None
        at = core + data["timekeeper"].offset
    try:
        seconds = u64(host, at + keeper["xtime_sec"].offset)
    except ReadFault:
        return None
    return float(seconds) if 0 < seconds < 1 << 40 else None


def tick_rate(host: Host) -> int | None:
    """HZ, from the length of a tick that NTP steers by (fixed point, nanoseconds << 32)."""
    for scaled in (variable(host, "tick_length"), _timekeeper_tick(host)):
        if not scaled or scaled >> 32 == 0:
            continue
        measured = _SECOND / (scaled / (1 << 32))
        near = min(_RATES, key=lambda rate: abs(rate - measured))
        if abs(near - measured) <= _TOLERANCE * near:
            return near
    return None


def _timekeeper_tick(host: Host) -> int | None:
    """timekeeper.ntp_tick: 6.13 put tick_length into a structure, and gave this one a name."""
    # The core timekeeper is the first of an array since 6.17.
    at = host.address_of("timekeeper_data") or host.address_of("tk_core")
    data, keeper = host.layout("struct tk_data"), host.layout("struct timekeeper")
    if at is None or data is None or keeper is None:
        return None
    if "timekeeper" not in data or "ntp_tick" not in keeper:
        return None
    try:
        return u64(host, at + data["timekeeper"].offset + keeper["ntp_tick"].offset)
    except ReadFault:
        return None
