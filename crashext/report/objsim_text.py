"""`objsim` as text: of one address all that is known, in the order in which one asks; of several
how alike they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.console import Console

from crashext.analysis.results.estimate import count_text, share_text
from crashext.analysis.results.reports import Kin, MemberValue, Pair, SimilarityReport, Subject
from crashext.analysis.results.standing import Beyond, Standing
from crashext.report.evidence_text import caller_lines, record_lines
from crashext.report.lines import line
from crashext.report.safe import safe
from crashext.report.text import footer, print_group, print_words
from crashext.report.types_text import candidate_lines, member_lines
from crashext.wording import percent, plural, root_text, size_text, some_of

_BOLD, _HEAD = "bold", "bold cyan"
_HEX = re.compile(r"0x[0-9a-fA-F]{1,16}")
_STEPS = " -> "
_FEW = 3
_FEW_WORDS, _MANY_WORDS = 8, 16
_STATES = {
    "held": "held",
    "weak": "weakly held",
    "orphan": "unreachable: nothing points at it",
    "structure": "unreachable: only unreachable memory points at it",
    "unknown": "not judged",
}
_CHAINS = {
    "held": "held by",
    "weak": "no pointer leads to it; it may be the rest of the pages before it, held by",
}
"""What is said before the steps that lead to it."""


def nothing_there(report: SimilarityReport) -> bool:
    """Whether nothing is at any of the addresses that were asked about."""
    return bool(report.subjects) and all(s.kind == "none" for s in report.subjects)


def print_similarity_report(
    report: SimilarityReport, console: Console, verbose: bool, typed: Sequence[str] = ()
) -> None:
    """The answer to `objsim`; where nothing is, an address is named as it was `typed`."""
    names = {int(t, 16): t for t in typed if _HEX.fullmatch(t)}
    if report.kernel is not None and len(report.subjects) == 1:
        _closely(console, report, report.subjects[0], verbose, names)
    else:
        _compared(console, report, verbose, names)
    seed = None if nothing_there(report) else report.seed
    footer(console, report.kernel, report.skipped, report.interrupted, seed)


def _compared(
    console: Console, report: SimilarityReport, verbose: bool, names: Mapping[int, str]
) -> None:
    whole = {s.address for s in report.subjects if s.cache is not None or not s.extent}
    for pair in report.pairs:
        _pair(console, pair, not {pair.first, pair.second} <= whole)
    if report.groups:
        grouped = sum(g.sampled for g in report.groups)
        alone = f", {report.alone:,} alone" if report.alone else ""
        inside = f"{grouped:,} in {plural(len(report.groups), 'group')}"
        line(console, f"{plural(grouped + report.alone, 'object')}: {inside}{alone}", _BOLD)
    marked = {offset for pair in report.pairs for offset in pair.differing}
    for subject in report.subjects:
        line(console, _headline(subject, names), _HEAD)
        if subject.cache is None:
            _details(console, subject)
        _content(console, subject, verbose, marked)
    if not report.subjects:
        said: set[str] = set()
        for number, group in enumerate(report.groups, 1):
            print_group(console, number, group, 0, verbose, said)


def _closely(
    console: Console,
    report: SimilarityReport,
    subject: Subject,
    verbose: bool,
    names: Mapping[int, str],
) -> None:
    line(console, _headline(subject, names), _BOLD)
    _details(console, subject)
    beyond = [] if subject.beyond is None else _beyond_lines(subject.beyond, verbose)
    if subject.beyond is not None and subject.beyond.content:
        line(console, f"  in it: {safe(subject.beyond.content)}")
    for text in candidate_lines(subject.types, verbose):
        line(console, f"  {text}")
    for text in standing_lines(subject.standing):
        line(console, f"  {text}")
    callers = report.kin.callers if report.kin is not None else None
    for text in record_lines(subject.allocators, callers, subject.unattributed, verbose):
        line(console, f"  {text}")
    for text in beyond:
        line(console, f"  {text}")
    if report.kin is not None:
        for text in _kin_lines(report.kin, report.threshold):
            line(console, f"  {text}")
    _content(console, subject, verbose, set())


def _headline(subject: Subject, names: Mapping[int, str]) -> str:
    what = ""
    if subject.state and subject.cache:
        what = f"{safe(subject.cache)} object, {subject.state}"
    elif subject.size:
        what = f"{subject.size} bytes"
    if subject.standing is not None and subject.cache:
        what += f", {_STATES[subject.standing.state]}"
    parts = [what, safe(subject.note)]
    if subject.standing is not None and not subject.cache:
        parts.append(_STATES[subject.standing.state])
    name = names.get(int(subject.asked), "") if subject.kind == "none" else ""
    return f"{name or f'{subject.address:x}'}: " + "; ".join(part for part in parts if part)


def _details(console: Console, subject: Subject) -> None:
    if not subject.cache and subject.asked > subject.address and subject.kind != "none":
        line(console, f"  {subject.asked:x} is +{subject.asked - subject.address:#x} in it")
    for text in subject.details:
        line(console, f"  {safe(text)}")


def standing_lines(standing: Standing | None) -> list[str]:
    """Who holds it and who points there; that nobody does, the first line says."""
    if standing is None:
        return []
    lines = []
    if standing.chain is not None:
        first, *rest = standing.chain.steps or ("",)
        steps = _STEPS.join(map(safe, (root_text(first), *rest)))
        lines.append(f"{_CHAINS.get(standing.state, 'lost with')} {steps}")
    elif standing.state == "weak" and not standing.pointing:
        lines.append("a struct page pointer or a physical address leads to it, no pointer does")
    if standing.pointing:
        told = standing.state in ("held", "weak")
        shown = [
            safe(p.place) + ("" if p.reached or not told else " (unreachable)")
            for p in standing.pointing[:_FEW]
        ]
        by = "no pointer leads to it; its physical address or a struct page pointer is in"
        said = by if standing.state == "weak" and standing.chain is None else "pointed at from"
        lines.append(f"{said} {some_of(shown, _FEW, standing.words)}")
    if standing.dead:
        lines.append(f"{plural(standing.dead, 'dead word')} of stacks, left over, may name it")
    return lines


def _beyond_lines(beyond: Beyond, verbose: bool) -> list[str]:
    lines = record_lines(beyond.allocators, None, "", verbose)
    if beyond.callers is not None:
        site = beyond.callers.sites[0].site
        if beyond.callers.clear:
            source = f" ({safe(site.source)})" if site.source else ""
            module = f" [{safe(site.module)}]" if site.module else ""
            where = f"{safe(site.function)}+{site.offset:#x}{module}{source}"
            lines.append(f"likely asked for by {where}, by the code")
        lines += caller_lines(beyond.callers, verbose)
    like = beyond.siblings
    lost = ""
    if like.unreachable.high:
        lost = f"; {count_text(like.unreachable)} unreachable"
    lines.append(
        f"like it: {count_text(like.count)} of {like.of:,} are {safe(like.what)}, "
        f"{size_text(like.bytes)}{lost}"
    )
    return lines


def _kin_lines(kin: Kin, threshold: float) -> list[str]:
    lines = [
        f"like it: {count_text(kin.objects)} of {count_text(kin.allocated)} {safe(kin.cache)} "
        f"objects ({share_text(kin.share)}), score {threshold:g} or more, mean "
        f"{kin.similarity:.2f}"
    ]
    if kin.residue:
        lines.append(f"    so are {percent(kin.residue)} of the cache's free slots")
    if kin.listed is not None:
        lines.append(f"    {len(kin.listed):,} addresses are listed below")
    return lines


def _pair(console: Console, pair: Pair, beyond: bool) -> None:
    """`beyond`: one of them is no object, and may not have been compared to its end."""
    most = _FEW_WORDS if beyond else _MANY_WORDS
    where = some_of([f"+{o:#x}" for o in pair.differing[:most]], most, len(pair.differing))
    differing = f"differing at {where}" if pair.differing else "no word differs"
    compared = f" in their first {pair.compared:,} bytes" if beyond and pair.compared else ""
    alike = f"{percent(pair.similarity)} alike{compared}"
    line(console, f"{pair.first:x} and {pair.second:x}: {alike}, {differing}", _BOLD)


def _content(console: Console, subject: Subject, verbose: bool, marked: set[int]) -> None:
    """Members where the user said what it is; else words, named where a type stands out."""
    if (subject.members and not subject.types) or (subject.members and not subject.words):
        for text in member_lines(subject.members, verbose):
            line(console, text)
    elif subject.words:
        shown = sum(w.size for w in subject.words)
        if shown < subject.extent:
            more = f"{shown:,} of {subject.extent:,} bytes"
            line(console, f"  {more}; --as TYPE shows a struct's members:")
        names = _by_word(subject.members)
        print_words(console, subject.words, verbose, marked=marked, names=names)


def _by_word(members: tuple[MemberValue, ...]) -> dict[int, str]:
    """Names of the members that begin in each word."""
    names: dict[int, list[str]] = {}
    for member in members:
        names.setdefault(member.offset & -8, []).append(member.name)
    return {at: some_of(each, 2) for at, each in names.items()}
