"""How much of what is gone a verdict explains, and what else there is to say in its first line.

Only of saved texts: whoever has a dump sees where each page is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import structs

from crashext.analysis.verdict.facts import Facts
from crashext.analysis.verdict.thresholds import EXPLAINS
from crashext.analysis.verdict.verdict import Verdict
from crashext.wording import percent_of, size_text

_AS_MUCH = 0.5
_NAMED = 0.25
_SHARE = 0.10
_VERB = re.compile(r" (?:holds?|has|have) ")
_EASY = ("free", "file cache", "buffers", "slab, reclaimable", "other reclaimable")
_UNSAID = ("reclaimable", "healthy")


def gone(facts: Facts) -> int:
    """Bytes that are in use, and that the kernel cannot drop at once."""
    return max(0, facts.total - sum(facts.split.get(name) for name in _EASY))


def explained(facts: Facts, verdict: Verdict) -> Verdict:
    """The verdict with the share of missing memory that it explains."""
    missing = gone(facts)
    if facts.source != "procfs" or verdict.kind in _UNSAID or not verdict.bytes or not missing:
        return verdict
    share = percent_of(min(verdict.bytes, missing), missing)
    said = f"{share} of the {size_text(missing)} that are in use and cannot be dropped"
    if verdict.bytes < EXPLAINS * missing:
        return structs.replace(
            verdict, against=(*verdict.against, f"only {said}: not why memory is short")
        )
    return structs.replace(verdict, evidence=(*verdict.evidence, said))


def known_first(facts: Facts, found: list[Verdict]) -> list[Verdict]:
    """A riddle comes after memory of a known holder that is more; and after processes where it is
    small beside them."""
    user = max((v.bytes for v in found if v.kind == "user-space"), default=0)
    known = max((v.bytes for v in found if v.kind == "known-holder"), default=0)
    outside = max((h.bytes for h in facts.known if h.where == "none"), default=0)
    least = max(known, outside, min(_AS_MUCH * user, _SHARE * facts.total))
    small = [v for v in found if v.kind == "cannot-tell" and v.bytes < least]
    return [v for v in found if v not in small] + small


def with_others(facts: Facts, found: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """The first line names what is about as large as what it is about."""
    first, rest = found[0], found[1:]
    if facts.source != "procfs" or not first.bytes:
        return tuple(found)
    others = [
        v
        for v in rest
        if v.kind not in _UNSAID and v.bytes >= max(_NAMED * first.bytes, _SHARE * facts.total)
    ]
    if not others:
        return tuple(found)
    named = ", ".join(f"{_name(v)} {size_text(v.bytes)}" for v in others[:3])
    return (structs.replace(first, says=f"{first.says}; besides: {named}"), *rest)


def _name(verdict: Verdict) -> str:
    culprit = verdict.culprit
    who = culprit.cache or culprit.caller or culprit.process or culprit.module
    what = {"slab": "slab memory", "user": "user space", "pages": "pages", "none": ""}
    kind = "pages in no counter" if verdict.kind == "cannot-tell" else _VERB.split(verdict.says)[0]
    if verdict.where in ("slab", "user", "vmalloc"):
        kind = what.get(verdict.where, verdict.where)
    if verdict.kind == "known-holder":
        return kind
    return f"{kind} ({who})" if who and verdict.where != "user" else who or kind
