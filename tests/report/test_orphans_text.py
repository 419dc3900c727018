"""The first line of `leakscan --orphans`: what was counted, and what is an estimate."""

from __future__ import annotations

from crashext.analysis.results.estimate import Estimate
from crashext.analysis.results.evidence import OrphanTotals, Reachability
from crashext.analysis.results.reports import Kernel, OrphanReport
from crashext.report.orphans_text import orphan_answer

MIB = 1 << 20


def answer(objects: Estimate, heads: Estimate) -> str:
    totals = OrphanTotals(objects, 3 * MIB, heads, 0, 100_000, 6 * MIB, 0)
    seen = Reachability(1, 0, 1, 1, 1, 1)
    kernel = Kernel("6.1.0", "x86_64", False, "vmcore")
    return orphan_answer(OrphanReport(kernel, 0, seen, totals, (), 0, ()))


def test_what_was_counted_is_exact() -> None:
    assert answer(Estimate.known(2000), Estimate.known(1)) == (
        "2,000 of 100,000 objects are unreachable: 3.0 MiB of 6.0 MiB (50.0 %), under 1 head"
    )
    assert answer(Estimate.known(2000), Estimate.known(2000)).endswith("(50.0 %)")


def test_what_was_sampled_is_an_estimate_in_every_number() -> None:
    assert answer(Estimate(2000, 1900, 2100), Estimate(20, 10, 30)) == (
        "~2,000 (1,900 to 2,100) of 100,000 objects are unreachable: ~3.0 MiB of 6.0 MiB "
        "(~50.0 %), under ~20 (10 to 30) heads"
    )
