"""How sure a verdict is, and what limits it: the sentences that rules share."""

from __future__ import annotations

from crashext.analysis.verdict.facts import Facts
from crashext.analysis.verdict.thresholds import LITTLE
from crashext.analysis.verdict.verdict import Confidence
from crashext.wording import percent_of


def confidence(facts: Facts) -> Confidence:
    seen = facts.reachability
    if seen is None:
        return "high" if any(f.by == "kmemleak" for f in facts.unreachable or ()) else "medium"
    missing = seen.pages_missing / max(1, seen.pages_present + seen.pages_missing)
    return "medium" if missing > 0.01 or seen.sampled or seen.notes else "high"


def doubts(facts: Facts) -> tuple[str, ...]:
    return facts.reachability.notes if facts.reachability is not None else ()


def little(size: int, facts: Facts) -> tuple[str, ...]:
    """That a leak is real and still not what the machine suffers from."""
    if not facts.total or size >= LITTLE * facts.total:
        return ()
    return (f"{percent_of(size, facts.total)} of memory: not why it is short, if it is",)


def not_seen(facts: Facts) -> tuple[str, ...]:
    """What a dump's counters leave out; that of saved text stands once, beside the verdicts."""
    if facts.source == "procfs":
        return ()
    return tuple(f"not seen: {what}" for what in facts.limits)


def allocated_by(caller: str, module: str, contains: bool = True, likely: bool = False) -> str:
    """The end of a sentence: who it was. `contains`: the module is known by symbols of it in the
    memory itself, not by a stack or by what the objects are thought to be. `likely`: no record
    says so, the code does."""
    if caller:
        return f"; {'likely ' * likely}allocated by {caller}" + (f" [{module}]" if module else "")
    if not module:
        return ""
    return f"; they contain symbols of {module}" if contains else f"; they may be {module}'s"
