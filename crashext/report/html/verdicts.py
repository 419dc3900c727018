"""Verdicts as cards: the sentence, what speaks for it, what would overturn it, what to ask next."""

from __future__ import annotations

from collections.abc import Mapping

from crashext.analysis.verdict.verdict import Verdict
from crashext.report.html.blocks import Amounts, Block, Card, Line, Points, Section, Terms, Tone
from crashext.report.html.made import Made, steps
from crashext.wording import called, size_text

_TONES: Mapping[str, Tone] = {
    "leak": "bad",
    "deferred-free": "warn",
    "held-growth": "warn",
    "fragmentation": "warn",
    "cannot-tell": "warn",
    "healthy": "good",
}
UNJUDGED = "Nothing was judged: what was read says too little."


def verdict_tags(verdict: Verdict) -> tuple[tuple[str, Tone], ...]:
    """Its class, where it is, and how sure it is."""
    where: tuple[tuple[str, Tone], ...] = () if verdict.where == "none" else ((verdict.where, ""),)
    sure: tuple[str, Tone] = (f"{verdict.confidence} confidence", "")
    return ((verdict.kind, _TONES.get(verdict.kind, "")), *where, sure)


def answer_of(verdicts: tuple[Verdict, ...]) -> tuple[str, tuple[tuple[str, Tone], ...]]:
    """The sentence above a page, and the words before it."""
    if not verdicts:
        return UNJUDGED, ()
    return verdicts[0].says, verdict_tags(verdicts[0])


def first_section(verdicts: tuple[Verdict, ...], made: Made) -> tuple[Section, ...]:
    """Why the worst verdict is given."""
    return (Section("Why", _blocks(verdicts[0], made)),) if verdicts else ()


def other_sections(
    verdicts: tuple[Verdict, ...], made: Made, amounts: Amounts
) -> tuple[Section, ...]:
    """What else is to be said of the machine."""
    told, untold = verdicts[1 : 1 + amounts.rows], verdicts[1 + amounts.rows :]
    blocks: list[Block] = [Card(v.says, _blocks(v, made), verdict_tags(v)) for v in told]
    if untold:
        blocks.append(Points(f"And {len(untold):,} more:", _sentences(untold, amounts)))
    return (Section("Also", tuple(blocks)),) if blocks else ()


def _sentences(verdicts: tuple[Verdict, ...], amounts: Amounts) -> tuple[str, ...]:
    return tuple(f"{v.kind}: {v.says}" for v in verdicts[: 10 * amounts.rows])


def _blocks(verdict: Verdict, made: Made) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if verdict.evidence:
        blocks.append(Points("For it:", verdict.evidence, "good"))
    if verdict.against:
        blocks.append(Points("Against it:", verdict.against, "warn"))
    else:
        blocks.append(
            Line(
                "Nothing that was seen speaks against it; what was not seen is listed below.",
                "quiet",
            )
        )
    if verdict.overturned_by:
        blocks.append(Points("What would overturn it:", (verdict.overturned_by,)))
    named = verdict.culprit
    rows = (
        ("memory", size_text(verdict.bytes) if verdict.bytes else ""),
        ("cache", named.cache),
        ("function", called(named.caller, named.module) if named.caller else ""),
        ("module", named.module),
        ("process", named.process),
        ("mount", named.mount),
    )
    blocks.append(Terms(tuple(row for row in rows if row[1])))
    blocks.append(steps(made, [verdict.next]))
    return tuple(blocks)
