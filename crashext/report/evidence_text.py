"""Lines of text for the evidence about a group: who allocated its objects."""

from __future__ import annotations

from crashext.analysis.results.evidence import Allocator
from crashext.analysis.results.reports import Group
from crashext.report.safe import safe
from crashext.wording import part_of, plural

_FEW_FRAMES = 5
_FEW_SITES = 3
_VERBS = {
    "memcg": "charged to",
    "content": "contain symbol",
    "page-owner": "in pages allocated by",
}


def allocator_lines(group: Group, verbose: bool) -> list[str]:
    """Who allocated a group's objects, or that nobody can tell; ready to be printed."""
    lines = []
    shown = group.allocators if verbose else group.allocators[:_FEW_SITES]
    for i, allocator in enumerate(shown):
        lines.append(allocator_headline(allocator))
        if i == 0 or verbose:
            lines += _stack(allocator, verbose)
    hidden = group.allocators[len(shown) :]
    if hidden:
        objects = sum(a.objects for a in hidden)
        lines.append(f"{plural(len(hidden), 'more site')} (-v shows), {plural(objects, 'object')}")
    if group.unattributed:
        lines.append(safe(group.unattributed))
    if verbose:
        lines += [f"no {safe(rung)}" for rung in group.absent_rungs]
    return lines


def allocator_headline(allocator: Allocator) -> str:
    """One site in a line."""
    verb = _VERBS.get(allocator.rung, "allocated by")
    module = f" [{safe(allocator.module)}]" if allocator.module else ""
    note = f", {safe(allocator.note)}" if allocator.note else ""
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
