"""`leakscan pages` as text: who lost and who holds the pages that no counter has, and what next."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from crashext.analysis.origin.callers import in_words
from crashext.analysis.results.evidence import UnreachableMemory
from crashext.analysis.verdict.commands import of_pages
from crashext.analysis.verdict.facts import Facts, PagesFact, PagesHolder
from crashext.report.asking import Asking, print_step
from crashext.report.lines import COLUMN, line
from crashext.report.safe import safe
from crashext.wording import bracketed, called, percent, plural, root_text, size_text, some_of

_FEW = 5
_FEW_LOST = 3
_FEW_WEAK = 3
_INDENT = " " * 16

Row = tuple[int, str]
"""Bytes, and whose they are."""


def print_pages(facts: Facts, console: Console, verbose: bool, asking: Asking) -> None:
    """The largest groups, those that nothing reaches first."""
    pages = facts.pages
    line(console, "Pages in no counter", "bold cyan")
    if pages is None:
        line(console, "  not counted")
        return
    if pages.unreachable is None:
        line(console, f"  {size_text(pages.bytes):>12}  {COLUMN}nobody looked who holds them")
        for what, module, share in pages.groups if verbose else pages.groups[:_FEW]:
            line(console, f"{_INDENT}{percent(share)}: {safe(bracketed(what, module))}")
        if facts.reachability is None:
            print_step(console, asking, "leakscan pages --refs # who holds them", "  next:    ")
        return
    for memory in pages.memory if verbose else pages.memory[:_FEW_LOST]:
        _lost(console, memory)
    for size, what in (*_rest(pages, verbose), *_held(pages, verbose)):
        if size:
            line(console, f"  {size_text(size):>12}  {COLUMN}{safe(what)}")
    for step in _steps(facts, pages):
        print_step(console, asking, step, "  next:    ")


def _lost(console: Console, memory: UnreachableMemory) -> None:
    """Unreachable blocks that are alike: what they are, who allocated them, where some are."""
    blocks = plural(memory.count, "block")
    said = f"unreachable: {blocks}, {memory.what}"
    if memory.module and not memory.allocator:
        said += f"; symbols or text of {memory.module}"
    line(console, f"  {size_text(memory.bytes):>12}  {COLUMN}{safe(said)}")
    for text in () if memory.allocator else in_words(memory.callers):
        line(console, f"{_INDENT}{COLUMN}{safe(text)}")
    examples = ", ".join(f"{address:#x}" for address in memory.examples[:2])
    if examples:
        line(console, f"{_INDENT}{COLUMN}such as {examples}")


def _rest(pages: PagesFact, verbose: bool) -> Iterator[Row]:
    shown = pages.memory if verbose else pages.memory[:_FEW_LOST]
    hidden = plural(len(pages.memory) - len(shown), "smaller group")
    of_them = f": {hidden} (-v)" if shown else ""
    yield (pages.unreachable or 0) - sum(m.bytes for m in shown), f"unreachable{of_them}"


def _held(pages: PagesFact, verbose: bool) -> Iterator[Row]:
    shown = pages.held if verbose else pages.held[:_FEW]
    for holder in shown:
        yield holder.bytes, f"held by {_whose(holder)}"
    others = pages.held[len(shown) :]
    yield sum(h.bytes for h in others), f"held by {plural(len(others), 'other')}"
    yield pages.weak, f"weakly held: {_known_in(pages)}"
    yield pages.split, "may be the rest of the allocations before them"


def _whose(holder: PagesHolder) -> str:
    by = f", {by_whom}" if (by_whom := allocated(holder)) else ""
    return f"{root_text(called(holder.root, holder.module))}{by}"


def allocated(holder: PagesHolder) -> str:
    """``allocated by a [m]``, ``62 % allocated by a [m] (1 other)``; "" where that is not known."""
    if not holder.allocator:
        return ""
    share = "" if holder.allocator_share >= 1 else f"{percent(holder.allocator_share)} "
    others = f" ({plural(holder.other_allocators, 'other')})" if holder.other_allocators else ""
    return f"{share}allocated by {holder.allocator}{others}"


def _known_in(pages: PagesFact) -> str:
    names = [f"{root_text(h.root)} ({plural(h.blocks, 'block')})" for h in pages.weak_by]
    if not names:  # an older session
        return "somebody has their physical addresses"
    return f"their physical addresses are in {some_of(names, _FEW_WEAK)}"


def _steps(facts: Facts, pages: PagesFact) -> Iterator[str]:
    """A look at one of the largest group; then where all of them are, or who allocates them."""
    if pages.unreachable and pages.memory:
        most = pages.memory[0]
        if most.examples:
            yield f"objsim {most.examples[0]:#x} # what is in one of the unreachable blocks"
        yield of_pages(facts, most.allocator)
        return
    example = next((h.example for h in pages.held if h.example is not None), None)
    if example is not None:
        yield f"objsim {example:#x} # how the largest of them is held, and by what"
