"""Rules about a dump that is not whole: what is missing accuses nobody, and is not called healthy.

They concern files that end too early. The few pages that makedumpfile loses now and then are in
slab_rules.py and in reach/holes.py.
"""

from __future__ import annotations

from dataclasses import replace

from crashext.analysis.verdict.facts import Facts
from crashext.analysis.verdict.thresholds import LOST
from crashext.analysis.verdict.verdict import Culprit, Verdict
from crashext.analysis.verdict.wording import doubts, not_seen
from crashext.wording import percent_of


def lost_share(facts: Facts) -> float:
    """Share of kernel memory that a damaged dump lacks; 0 where the dump is whole."""
    seen = facts.reachability
    if not facts.damage or seen is None:
        return 0.0
    return seen.pages_missing / max(1, seen.pages_present + seen.pages_missing)


def much_lost(facts: Facts) -> bool:
    """Whether anything that looks unreachable may be held by what is missing."""
    return lost_share(facts) > LOST


def without_areas(facts: Facts) -> Facts:
    """What points into an area may be missing: nobody knows of any."""
    if not much_lost(facts):
        return facts
    return replace(facts, areas=tuple(replace(a, unreachable=None) for a in facts.areas))


def unseen(facts: Facts) -> Verdict | None:
    """Nothing was found, in a dump of which too much is missing to call the machine healthy."""
    if not facts.damage or not (facts.reachability is None or much_lost(facts)):
        return None
    seen = facts.reachability
    fate = "what is there accuses nobody"
    if seen is None:
        fate = facts.limits[-1] if facts.limits else "nobody could look who points at what"
        fate = fate.removesuffix(f"; the dump is {facts.damage}")  # said once
    total = 0 if seen is None else seen.pages_present + seen.pages_missing
    lost = 0 if seen is None else seen.pages_missing
    evidence = (f"{percent_of(lost, total)} of kernel memory is missing",) if total else ()
    return Verdict(
        "cannot-tell",
        "none",
        Culprit(),
        0,
        "low",
        f"cannot tell: the dump is {facts.damage}; {fate}",
        evidence,
        doubts(facts) if seen is not None else not_seen(facts)[:-1],
        "df -h # is there room for the whole dump? Then copy it again",
    )
