"""The verdict on one screen: the answer, why, what else was found, and what to type next.

It has room for 24 rows of 80 columns, the typed line and the next prompt among them. What does not
fit is left to `-v` and to the topics; what limits the answer is always there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from crashext.analysis.memory.growth import Growth
from crashext.analysis.verdict.verdict import Verdict
from crashext.report.asking import Asking, split, step_lines
from crashext.report.lines import COLUMN, folded
from crashext.report.safe import safe
from crashext.report.skipped_text import skipped_text
from crashext.skipped import Skipped
from crashext.wording import (
    bracketed,
    called,
    difference_text,
    duration,
    plural,
    size_text,
    some_of,
)

ROWS = 22
_LEAST_EVIDENCE, _MOST_EVIDENCE, _MOST_OTHERS = 2, 4, 8
_LESS = ("source", "why", "unsaid", "memory")
"""What gives way to evidence where rows are few, the least missed first."""
_FEW_GROWN = 3
_DIM, _BOLD, _HEAD, _WARN = "dim", "bold", "bold cyan", "yellow"

Line = tuple[str, str]
"""A line that fits the window, and its style."""


@dataclass(frozen=True)
class Brief:
    """What is said beside the verdicts, a sentence each; "" where there is nothing to say."""

    memory: str
    growth: str
    limits: tuple[str, ...]
    """Of the answer: what was interrupted, skipped, not understood."""
    source: str
    topics: tuple[str, ...]
    unsaid: str = ""
    """What the source does not say."""


def print_brief(
    verdicts: Sequence[Verdict], brief: Brief, console: Console, asking: Asking
) -> None:
    """All of it. The first verdict is the worst."""
    for text, style in brief_lines(verdicts, brief, console.width, asking):
        console.print(Text(text, style=style), soft_wrap=True)


def brief_lines(
    verdicts: Sequence[Verdict], brief: Brief, width: int, asking: Asking
) -> list[Line]:
    """The evidence takes the rows that the rest leaves, and is left some."""
    first = verdicts[0]
    head = _styled(folded(title(first), width, 4), _BOLD)
    others = [_others(verdicts[1:], width, most) for most in range(_MOST_OTHERS, -1, -1)]
    tail = _tail(first.next, brief, width, asking)
    least = len(head) + len(_evidence(first, width, _LEAST_EVIDENCE, ROWS))
    for name in ("", *_LESS):
        tail.pop(name, None)
        room = ROWS - sum(_rows(lines, width) for lines in tail.values())
        few = next((lines for lines in others if len(lines) + least <= room), others[-1])
        if len(few) + least <= room and (len(few) > 1 or not others[0]):
            break
    evidence = _evidence(first, width, _MOST_EVIDENCE, room - len(head) - len(few))
    return [*head, *evidence, *few, *(line for lines in tail.values() for line in lines)]


def _rows(lines: Sequence[Line], width: int) -> int:
    """Rows of the window; a path without a blank may take several."""
    return sum(max(1, -(-len(text) // width)) for text, _ in lines)


def _tail(step: str, brief: Brief, width: int, asking: Asking) -> dict[str, list[Line]]:
    """What stands below the verdicts, by name."""
    next_step = step_lines(asking, step, "next: ", width)
    told = len(step_lines(asking, split(step)[0], "next: ", width))
    more = f"more: the same with -v, or of one thing, with: {', '.join(brief.topics)}"
    return {
        "memory": _styled(folded(brief.memory, width)) if brief.memory else [],
        "growth": _styled(folded(brief.growth, width)) if brief.growth else [],
        "limits": [line for text in brief.limits for line in _styled(folded(text, width), _WARN)],
        "unsaid": _styled(folded(brief.unsaid, width), _DIM) if brief.unsaid else [],
        "source": _styled(folded(brief.source, width), _DIM),
        "next": next_step[:told],
        "why": next_step[told:],
        "more": _styled(folded(more, width, 6), _DIM),
    }


def title(verdict: Verdict) -> str:
    """``leak, slab (high confidence): 200,000 kmalloc-32 objects …``"""
    where = "" if verdict.where == "none" else f", {verdict.where}"
    return f"{verdict.kind}{where} ({verdict.confidence} confidence): {safe(_said(verdict))}"


def _said(verdict: Verdict) -> str:
    """Its sentence, without what its kind says."""
    return verdict.says.removeprefix("cannot tell: ")


def _evidence(verdict: Verdict, width: int, most: int, room: int) -> list[Line]:
    """The strongest for it, and the strongest against it, in at most `room` lines; where rows are
    too few for those, how many are left to -v."""
    wanted = (verdict.evidence[:most], verdict.against[:1])
    lines, cut = _fitting(*wanted, width, room)
    if any(cut):
        lines, cut = _fitting(*wanted, width, room - 1)
        said = [
            f"{n:,} more {kind}" for n, kind in zip(cut, ("for it", "against it"), strict=True) if n
        ]
        lines.append(f"  and {', '.join(said)} (-v)")
    return _styled(lines)


def _fitting(
    evidence: Sequence[str], against: Sequence[str], width: int, room: int
) -> tuple[list[str], tuple[int, int]]:
    """What fits of the evidence for and against, and how many of each do not."""
    contrary = [text for t in against for text in folded(f"  against: {COLUMN}{safe(t)}", width)]
    contrary = contrary if len(contrary) <= room else []
    lines: list[str] = []
    shown = 0
    for text in evidence:
        some = folded(f"  for:     {COLUMN}{safe(text)}", width)
        if len(lines) + len(some) > room - len(contrary):
            break
        lines += some
        shown += 1
    missing = len(against) if not contrary else 0
    return [*lines, *contrary], (len(evidence) - shown, missing)


def _others(verdicts: Sequence[Verdict], width: int, most: int = _MOST_OTHERS) -> list[Line]:
    """A line each: what it is, how large, how sure, and who."""
    if not verdicts:
        return []
    shown = verdicts[:most]
    if not shown:
        return [(f"also: {plural(len(verdicts), 'more verdict')} (-v)", "")]
    cells = [
        (_kind(v), size_text(v.bytes) if v.bytes else "", v.confidence, _who(v)) for v in shown
    ]
    kind, size, sure = (max(len(row[i]) for row in cells) for i in range(3))
    rows = [f"  {a:{kind}}  {b:>{size}}  {c:{sure}}  {d}" for a, b, c, d in cells]
    rows = [row if len(row) <= width else f"{row[: width - 3].rstrip()}..." for row in rows]
    hidden = len(verdicts) - len(rows)
    more = [(f"  and {hidden:,} more (-v)", "")] if hidden else []
    return [("also:", _HEAD), *_styled(rows), *more]


def _kind(verdict: Verdict) -> str:
    return verdict.kind + ("" if verdict.where == "none" else f", {verdict.where}")


def _who(verdict: Verdict) -> str:
    """Whose it is in few words; where nothing says, the beginning of the verdict's sentence."""
    who = verdict.culprit
    if who.cache or who.caller:
        return safe(called(who.cache or who.caller, who.module))
    what = _said(verdict).split(": ")[0].removeprefix(f"{size_text(verdict.bytes)} of ")
    return safe(who.process or who.mount or bracketed(what, who.module))


def growth_sentence(growth: Growth | None) -> str:
    """What grew most since the earlier moment."""
    if growth is None or not growth.judged:
        return ""
    grown = [(c.name, c.bytes) for c in growth.caches if c.bytes > 0]
    grown += [(called(c.function, c.module), c.bytes) for c in growth.vmalloc if c.bytes > 0]
    grown.sort(key=lambda item: (-item[1], item[0]))
    time = "" if growth.seconds is None else f" in {duration(growth.seconds)}"
    names = [f"{safe(name)} {difference_text(size)}" for name, size in grown]
    what = some_of(names, _FEW_GROWN) if names else "no cache and no caller of vmalloc"
    boot = " (not the same boot: no rate)" if growth.another_boot else ""
    return f"grew{time} since {safe(growth.paths[0])}{boot}: {what}"


def skipped_sentence(skipped: Sequence[Skipped]) -> str:
    """What was skipped, all in one sentence."""
    if not skipped:
        return ""
    more = f"; {plural(len(skipped) - 1, 'more remark')} (-v)" if len(skipped) > 1 else ""
    return f"{skipped_text(skipped[0])}{more}"


def _styled(texts: Sequence[str], style: str = "") -> list[Line]:
    return [(text, style) for text in texts]
