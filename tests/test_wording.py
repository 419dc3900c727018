"""Numbers in words: the forms that every printed line shares."""

from __future__ import annotations

import pytest

from crashext.wording import (
    about,
    bracketed,
    called,
    difference_text,
    part_of,
    percent,
    percent_of,
    plural,
    root_text,
    size_text,
    some_of,
)


@pytest.mark.parametrize(
    ("share", "exact", "text"),
    [
        (0.0, True, "0 %"),
        (0.0, False, "<0.1 %"),  # none was seen, which is not none
        (1.0, True, "100 %"),
        (1.0, False, ">99.9 %"),
        (0.00052, True, "<0.1 %"),
        (0.0052, True, "0.5 %"),
        (0.123, True, "12.3 %"),
        (0.9996, True, ">99.9 %"),
        (0.9994, True, "99.9 %"),
        (1.25, True, "125.0 %"),  # counters overlap
        (-0.02, True, "-2.0 %"),
    ],
)
def test_a_share_never_claims_more_than_is_known(share: float, exact: bool, text: str) -> None:
    assert percent(share, exact) == text


def test_no_share_is_printed_in_powers_of_ten() -> None:
    for thousandth in range(1001):
        assert "e" not in percent(thousandth / 1000)
    assert percent_of(0, 0) == "0 %"


def test_an_estimate_says_so() -> None:
    assert about(200_000, 200_000, 200_000) == "200,000"
    assert about(419_441_152, 419_000_000, 419_900_000) == (
        "~419,441,152 (419,000,000 to 419,900,000)"
    )
    assert about(64, 64, 1 << 62) == "~64 (at least 64)"


def test_sizes() -> None:
    assert [size_text(n) for n in (0, 1023, 1536, -1536, 5 << 30)] == [
        "0 bytes",
        "1,023 bytes",
        "1.5 KiB",
        "-1.5 KiB",
        "5.0 GiB",
    ]
    assert size_text(3000 << 40) == "3,000.0 TiB"
    assert [difference_text(n) for n in (1536, -1536, 0)] == ["+1.5 KiB", "-1.5 KiB", "+0 bytes"]


def test_counts_and_lists() -> None:
    assert [plural(n, "area") for n in (0, 1, 2000)] == ["0 areas", "1 area", "2,000 areas"]
    assert part_of(393, 6815, "object") == "393 of 6,815 objects"
    assert part_of(1, 1) == "1 of 1"
    assert some_of(["a", "b"], 2) == "a, b"
    assert some_of(["a", "b", "c"], 2) == "a, b and 1 more"
    assert some_of(["a", "b"], 2, 1002) == "a, b and 1,000 more"


def test_a_caller_that_nobody_noted_is_no_name() -> None:
    assert called("leak_it", "leaklab") == "leak_it [leaklab]"
    assert called("", "") == "a caller that is not noted"
    assert bracketed("leak_it+0x1 [leaklab]", "leaklab") == "leak_it+0x1 [leaklab]"


def test_a_variable_says_that_it_is_one() -> None:
    assert root_text("queue [leaklab]") == "the variable queue [leaklab]"
    assert root_text("rcu_data") == "the variable rcu_data"
    for other in ("stack of sshd (pid 7)", "page frame 0x10 +0x8", "vmalloc area of f [m] +0x8"):
        assert root_text(other) == other
