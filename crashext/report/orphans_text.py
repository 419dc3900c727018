"""`leakscan --orphans` as text, and its list of addresses."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from crashext.analysis.origin.callers import RUNG as CODE
from crashext.analysis.origin.callers import in_words
from crashext.analysis.results.estimate import Estimate, count_text
from crashext.analysis.results.evidence import HIDDEN, OrphanGroup, UnreachableMemory
from crashext.analysis.results.reports import OrphanReport
from crashext.analysis.types.candidates import settled
from crashext.hosts.written import writing
from crashext.report.evidence_text import allocator_headline, caller_lines
from crashext.report.lines import line
from crashext.report.reach_text import reachability_lines
from crashext.report.safe import safe
from crashext.report.text import footer
from crashext.wording import bracketed, called, looked_in, percent_of, plural, size_text, some_of

_FEW_GROUPS = 12
_FEW_NOTES = 3
_FEW_BELOW = 5
_CHUNK = 1 << 16


def orphan_answer(report: OrphanReport) -> str:
    """The answer in one line."""
    totals = report.totals
    judged = plural(totals.judged, "object")
    answer = f"all {judged} can be reached"
    if totals.objects.high:
        about = "" if totals.objects.exact else "~"
        heads = f"{count_text(totals.heads)} head{'' if totals.heads.estimate == 1 else 's'}"
        answer = (
            f"{count_text(totals.objects)} of {judged} are unreachable: "
            f"{about}{size_text(totals.bytes)} of {size_text(totals.judged_bytes)} "
            f"({about}{percent_of(totals.bytes, totals.judged_bytes)})"
            + (f", under {heads}" if totals.heads != totals.objects else "")
        )
        if totals.objects == Estimate.known(totals.explained):
            answer += "; all of them are explained below"
    for kind, noun in (("vmalloc", "vmalloc area"), ("pages", "block")):
        some = [m for m in report.memory if m.kind == kind]
        if some:
            count, size = sum(m.count for m in some), size_text(sum(m.bytes for m in some))
            answer += f"; {plural(count, noun)}" + (" of pages" if kind == "pages" else "")
            answer += f" unreachable, {size}"
    if report.reachability.misgivings:
        where = looked_in(report.kernel.live)
        answer = f"not understood {where}, so not to be believed: {answer}"
    return answer


def print_orphan_report(report: OrphanReport, console: Console, verbose: bool) -> None:
    """The first line is the answer."""
    totals = report.totals
    line(console, safe(orphan_answer(report)), "bold")
    leaks = [g for g in report.orphans if not g.explanation]
    shown = leaks if verbose else leaks[:_FEW_GROUPS]
    for group in shown:
        _group(console, group, verbose)
    hidden = len(leaks) - len(shown) + report.more
    if hidden:
        line(console, f"  {plural(hidden, 'smaller group')}" + (" (-v shows)" * (not verbose)))
    for memory in report.memory if verbose else report.memory[:_FEW_GROUPS]:
        _memory(console, memory)
    _explained(console, [g for g in report.orphans if g.explanation], verbose)
    if totals.dead_words:
        line(
            console,
            f"  dead words of stacks, which hold nothing, point at {totals.dead_words:,} of them",
        )
    for text in reachability_lines(report.reachability):
        line(console, safe(text), "dim")
    footer(console, report.kernel, report.skipped, report.interrupted, report.seed)


def _group(console: Console, group: OrphanGroup, verbose: bool) -> None:
    about = "~" if group.estimated else ""
    own = group.heads + sum(b.objects for b in group.below if b.cache == group.cache)
    others = group.objects - own
    heads = f" under {about}{plural(group.heads, 'head')}" if own != group.heads else ""
    line(
        console,
        f"  {safe(group.cache)}: {about}{plural(own, 'object')}{heads}"
        + (f", {about}{plural(others, 'other')} below them" if others else "")
        + f", {about}{size_text(group.bytes)}",
        "bold cyan",
    )
    below = [b for b in group.below if b.cache != group.cache]
    if below:
        parts = [f"{safe(b.cache)} {about}{b.objects:,}" for b in below]
        line(console, f"    below: {some_of(parts, _FEW_BELOW)}")
    for allocator in group.allocators[: _FEW_BELOW if verbose else 1]:
        line(console, f"    - {allocator_headline(allocator)}")
        if allocator.rung == CODE and group.callers is not None:
            for text in caller_lines(group.callers, verbose):
                line(console, f"    {text}")
    if group.callers is not None and not group.callers.clear and verbose:
        for text in caller_lines(group.callers, verbose):
            line(console, f"    - {text}")
    best = settled(group.types)
    if best is not None:
        line(console, f"    - may be {safe(bracketed(best.name, best.module))}")
    for note in group.notes if verbose else group.notes[:_FEW_NOTES]:
        line(console, f"    - {safe(note)}")
    if verbose:
        line(console, f"    shape: {safe(group.shape)}")
    examples = ", ".join(f"{a:x}" for a in islice(group.examples, 4))
    line(console, f"    examples: {examples}")


def _memory(console: Console, memory: UnreachableMemory) -> None:
    """vmalloc areas, or blocks of pages."""
    about = "~" if memory.estimated else ""
    if memory.kind == "vmalloc":
        what = f"{plural(memory.count, 'area')} of {called(memory.what, memory.module)}"
    else:
        orders = ", ".join(f"{about}{n:,} of order {order}" for order, n in memory.orders)
        what = f"{about}{plural(memory.count, 'block')} ({orders})"
    line(
        console,
        f"  {memory.kind}: {safe(what)}, {about}{size_text(memory.bytes)}"
        + ("" if memory.pages else " of addresses; their pages are others'"),
        "bold cyan",
    )
    if memory.kind == "pages":
        module = f"; symbols or text of {memory.module}" if memory.module else ""
        line(console, f"    - {safe(memory.what + module)}")
    for text in in_words(memory.callers):
        line(console, f"    - {safe(text)}")
    line(console, f"    examples: {', '.join(f'{a:x}' for a in memory.examples)}")


def _explained(console: Console, groups: list[OrphanGroup], verbose: bool) -> None:
    reasons = dict.fromkeys(g.explanation for g in groups)
    for reason in reasons:
        mine = [g for g in groups if g.explanation == reason]
        caches = ", ".join(dict.fromkeys(g.cache for g in mine))
        objects = sum(g.objects for g in mine)
        about = f"{plural(objects, 'object')} of {safe(caches)}"
        line(console, f"  {_verdict(reason)}: {about}: {safe(reason)}")
        if verbose:
            addresses = ", ".join(f"{a:x}" for g in mine for a in g.examples)
            line(console, f"    {addresses}")


def _verdict(explanation: str) -> str:
    return "cannot tell" if explanation == HIDDEN else "no leak"


def write_list(
    addresses: NDArray[np.uint64],
    caches: tuple[str, ...],
    path: Path,
    explained: Mapping[int, str] = MappingProxyType({}),
) -> None:
    """``address cache`` of every unreachable object, a line each. Raises `HostError`.

    What is `explained` has its explanation after a #, for scripts to leave out.
    """

    def row(address: int, cache: str) -> str:
        why = explained.get(address, "")
        return f"{address:x} {safe(cache)}" + (f" # {_verdict(why)}: {safe(why)}" if why else "")

    with writing(path) as stream:
        for start in range(0, len(addresses), _CHUNK):
            some = zip(
                addresses[start : start + _CHUNK].tolist(),
                caches[start : start + _CHUNK],
                strict=True,
            )
            stream.write("".join(f"{row(a, c)}\n" for a, c in some).encode())
