"""Jiffies, HZ and ages."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.kernel.counters.clock import Clock, clock, tick_rate
from tests.fake import FakeHost, layout, word

NOW, TICK, CORE = 0xFFFFFFFF82000000, 0xFFFFFFFF82000100, 0xFFFFFFFF82000200
TK_DATA = layout("struct tk_data", 600, timekeeper=(8, 280))
TIMEKEEPER = layout("struct timekeeper", 280, ntp_tick=(240, 8))


def ticking(nanoseconds: float) -> FakeHost:
    host = FakeHost(symbols={"jiffies_64": NOW, "tick_length": TICK})
    host.put(NOW, word((1 << 32) + 1000))
    host.put(TICK, word(int(nanoseconds * (1 << 32))))
    return host


@pytest.mark.parametrize("hz", [100, 250, 300, 1000])
@pytest.mark.parametrize("drift", [0, 5e-4, -5e-4])
def test_hz_from_the_length_of_a_tick_that_ntp_bends(hz: int, drift: float) -> None:
    assert tick_rate(ticking(1e9 / hz * (1 + drift))) == hz


@pytest.mark.parametrize("nanoseconds", [0, 1, 3.7e6, 1e9])
def test_a_tick_of_no_known_rate_is_not_guessed(nanoseconds: float) -> None:
    assert tick_rate(ticking(nanoseconds)) is None


def test_since_6_13_the_timekeeper_knows() -> None:
    host = FakeHost(TK_DATA, TIMEKEEPER, symbols={"tk_core": CORE})
    host.put(CORE, bytes(248) + word(1_000_000 << 32) + bytes(344))
    assert tick_rate(host) == 1000


def test_a_kernel_that_does_not_tell_its_rate_has_ages_in_jiffies() -> None:
    host = ticking(0)
    known = clock(host)
    assert known is not None
    assert known.ago(known.age((1 << 32) + 990), 2500) == "10 to 2,500 jiffies before the dump"
    assert clock(FakeHost()) is None


def test_ages_across_the_overflow_of_32_bits_and_into_the_future() -> None:
    known = Clock((1 << 32) + 1000, 250)
    assert known.age((1 << 32) - 500) == 1500
    assert known.age((1 << 32) + 1001) == -1
    assert known.ago(1500, 1500) == "6.0 s before the dump"
    assert known.ago(25, 250_000) == "0.1 to 1,000 s before the dump"
    assert Clock(known.now, 250, live=True).ago(1500, 1500) == "6.0 s ago"


def test_time_since_boot_in_jiffies() -> None:
    """INITIAL_JIFFIES is five minutes before the overflow."""
    known = Clock((1 << 32) + 1000, 250)
    at = known.at(np.array([0, 300 * 10**9], np.uint64)).tolist()
    assert at == [(1 << 32) - 75_000, 1 << 32]
