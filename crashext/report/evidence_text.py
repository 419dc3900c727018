"""Lines of text for the evidence about a group: who allocated its objects."""

from __future__ import annotations

from crashext.analysis.origin.callers import RUNG as CODE
from crashext.analysis.origin.callers import reasons_for
from crashext.analysis.results.callsites import Callers, CallSite, Candidate
from crashext.analysis.results.evidence import Allocator
from crashext.analysis.results.reports import Group
from crashext.report.asking import split
from crashext.report.lines import COMMAND
from crashext.report.safe import safe
from crashext.wording import part_of, percent, plural, some_of

_FEW_FRAMES = 5
_FEW_SITES = 3
_FEW_FREES = 6
_FEW_REASONS = 4
_WORTH = 0.02
"""Probability from which a place that does not stand out is worth a line."""
_VERBS = {
    "code": "likely allocated by",
    "memcg": "charged to",
    "content": "contain symbol",
    "page-owner": "in pages allocated by",
}


def allocator_lines(group: Group, verbose: bool, said: set[str] | None = None) -> list[str]:
    """Who allocated a group's objects, or that nobody can tell; ready to be printed. What would
    tell is left out where it was `said` of another group of the cache."""
    lines = record_lines(group.allocators, group.callers, group.unattributed, verbose, said)
    if verbose:
        lines += [f"no {safe(rung)}" for rung in group.absent_rungs]
    return lines


def record_lines(
    allocators: tuple[Allocator, ...],
    callers: Callers | None,
    unattributed: str,
    verbose: bool,
    said: set[str] | None = None,
) -> list[str]:
    """What the rungs of the ladder say, the code's own candidates under theirs."""
    lines = []
    shown = allocators if verbose else allocators[:_FEW_SITES]
    for i, allocator in enumerate(shown):
        lines.append(allocator_headline(allocator))
        if i == 0 or verbose:
            lines += _stack(allocator, verbose)
        if allocator.rung == CODE and callers is not None:
            lines += caller_lines(callers, verbose)
    hidden = allocators[len(shown) :]
    if hidden:
        objects = sum(a.objects for a in hidden)
        lines.append(f"{plural(len(hidden), 'more site')} (-v shows), {plural(objects, 'object')}")
    told = set[str]() if said is None else said
    recorded = any(allocator.rung == "trace" for allocator in allocators)
    if callers is not None and not callers.clear and (verbose or not recorded):
        lines += caller_lines(callers, verbose, callers.step not in told)
        told.add(callers.step)
    if unattributed and unattributed not in told:
        lines.append(safe(unattributed))
        told.add(unattributed)
    return lines


def allocator_headline(allocator: Allocator) -> str:
    """One site in a line."""
    verb = _VERBS.get(allocator.rung, "allocated by")
    module = f" [{safe(allocator.module)}]" if allocator.module else ""
    note = f", {safe(allocator.note)}" if allocator.note else ""
    if allocator.rung == CODE:
        return f"{verb} {safe(allocator.site)}{module} (by the code{note})"
    if allocator.of == 1:
        return f"{verb} {safe(allocator.site)}{module} ({safe(allocator.rung)}){note}"
    return (
        f"{verb} {safe(allocator.site)}{module} ({safe(allocator.rung)}, "
        f"{part_of(allocator.objects, allocator.of)} looked at){note}"
    )


def _stack(allocator: Allocator, verbose: bool) -> list[str]:
    stack = allocator.stack if verbose else allocator.stack[:_FEW_FRAMES]
    lines = [f"    {safe(frame)}" for frame in stack]
    more = len(allocator.stack) - len(stack)
    if more:
        lines.append(f"    ... {plural(more, 'more frame')} (-v shows)")
    return lines


def caller_lines(callers: Callers, verbose: bool, step: bool = True) -> list[str]:
    """Why the code's place was chosen, or between how many it cannot be, and with `step` what
    would tell."""
    first = callers.sites[0]
    if not callers.clear:
        of = plural(callers.places + callers.others, "place")
        equals = f"{callers.equals:,} are equally likely" if callers.equals > 1 else "no clear one"
        lines = [f"by the code: cannot tell, of {of} {equals}" + "; a trace would:" * step]
        command, then = split(callers.step)
        lines += [f"    {COMMAND}{safe(command)}"] * step
        lines += [f"    {safe(then)}"] if step and then else []
        few = verbose or callers.equals <= _FEW_SITES
        shown = callers.sites[: None if verbose else callers.equals] if few else ()
        lines += [_candidate(c) for c in shown]
        return lines + [f"    {safe(callers.remark)}"] * bool(callers.remark)
    reasons = first.reasons if verbose else reasons_for(first)[:_FEW_REASONS]
    lines = [f"    {safe(reason)}" for reason in reasons]
    if callers.remark:
        lines.append(f"    {safe(callers.remark)}")
    lines += _freed(callers)
    likely = [c for c in callers.sites[1:] if verbose or c.probability >= _WORTH]
    return lines + [_candidate(c) for c in likely]


def _freed(callers: Callers) -> list[str]:
    """Where the module frees such objects: the place to look for the call that is missing."""
    module = callers.sites[0].site.module
    lines = []
    if callers.freed:
        lines.append(f"    freed in: {_functions(callers.freed)}")
    if callers.perhaps_freed:
        lines.append(
            f"    perhaps freed in: {_functions(callers.perhaps_freed)} "
            "(the code there does not tell the cache)"
        )
    if module and not lines:
        lines.append(f"    nothing in the code of {safe(module)} frees such objects")
    return lines


def _functions(sites: tuple[CallSite, ...]) -> str:
    return some_of(list(dict.fromkeys(safe(s.function) for s in sites)), _FEW_FREES)


def _candidate(candidate: Candidate) -> str:
    site = candidate.site
    module = f" [{safe(site.module)}]" if site.module else ""
    source = f" ({safe(site.source)})" if site.source else ""
    reasons = "".join(f"; {safe(reason)}" for reason in candidate.reasons[:2])
    return (
        f"    {percent(candidate.probability)}: {safe(site.function)}+{site.offset:#x}"
        f"{module}{source}{reasons}"
    )
