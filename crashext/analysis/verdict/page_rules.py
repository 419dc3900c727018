"""Rules about memory that is neither slab nor user: vmalloc areas and raw pages."""

from __future__ import annotations

from collections.abc import Iterator

from crashext.analysis.verdict.commands import of_areas, of_pages
from crashext.analysis.verdict.facts import Facts, PagesFact
from crashext.analysis.verdict.thresholds import (
    AREAS_LEAST,
    AREAS_SHARE,
    AREAS_UNJUDGED_SHARE,
    PAGES_HELD_SHARE,
    PAGES_SHARE,
    PAGES_UNREACHABLE_LEAST,
    PAGES_UNREACHABLE_SHARE,
    USER_SHARE,
    excessive,
)
from crashext.analysis.verdict.verdict import Confidence, Culprit, Verdict
from crashext.analysis.verdict.wording import allocated_by, confidence, doubts
from crashext.wording import called, percent, percent_of, plural, size_text

_SAYS = 0.05
Groups = tuple[tuple[str, str, float], ...]
"""What pages are, the module it names, and the share of them."""


def unreachable_areas(facts: Facts) -> Iterator[Verdict]:
    """vmalloc areas that nothing points into are leaked."""
    for fact in facts.areas:
        size = fact.unreachable
        least = max(AREAS_LEAST, AREAS_SHARE * facts.total)
        if size is None or size < least or 2 * size < fact.bytes:
            continue
        yield Verdict(
            "leak",
            "vmalloc",
            Culprit(caller=fact.caller, module=fact.module),
            size,
            confidence(facts),
            f"{size_text(size)} of vmalloc memory is leaked: nothing points into the areas of "
            f"{called(fact.caller, fact.module)}",
            (
                f"{plural(fact.areas, 'area')} of one caller, {fact.pages:,} pages, "
                f"{size_text(fact.bytes)}: "
                f"{percent_of(fact.bytes, facts.total)} of memory",
                f"no live word points into {size_text(size)} of them",
            ),
            doubts(facts),
            of_areas(facts, fact),
        )


def large_areas(facts: Facts) -> Iterator[Verdict]:
    """One caller with very much vmalloc memory, which is still in use as far as can be seen."""
    for fact in facts.areas:
        known = fact.unreachable is not None and 2 * fact.unreachable >= fact.bytes
        least = AREAS_UNJUDGED_SHARE if fact.unreachable is None else USER_SHARE
        much = fact.bytes >= least * facts.total or excessive(fact.bytes, facts.total)
        if known or not much:
            continue
        held = (
            "its areas are still pointed at"
            if fact.unreachable is not None
            else "this source cannot tell whether anything points at its areas"
        )
        yield Verdict(
            "held-growth",
            "vmalloc",
            Culprit(caller=fact.caller, module=fact.module),
            fact.bytes,
            "medium" if fact.unreachable is not None else "low",
            f"{called(fact.caller, fact.module)} holds {size_text(fact.bytes)} of vmalloc "
            f"memory, {percent_of(fact.bytes, facts.total)} of all",
            (f"{plural(fact.areas, 'area')} of one caller, {fact.pages:,} pages",),
            (held,),
            of_areas(facts, fact),
        )


def unaccounted_pages(facts: Facts) -> Iterator[Verdict]:
    """Pages from the page allocator that no counter and no owner accounts for."""
    pages = facts.pages
    if pages is None:
        return
    if pages.unreachable is not None:
        yield from _judged_pages(facts, pages, pages.unreachable)
        return
    size = pages.bytes
    if size < PAGES_SHARE * facts.total and not excessive(size, facts.total):
        return
    module = _module(pages.groups)
    if not module or pages.uncertain > size:
        yield _unjudged_pages(facts, pages)
        return
    yield _leak(facts, size, size, pages.groups, "low", (), doubts(facts))


def _judged_pages(facts: Facts, pages: PagesFact, unreachable: int) -> Iterator[Verdict]:
    """Who points at them is known: what nothing points at is leaked, the rest is somebody's."""
    least = max(PAGES_UNREACHABLE_LEAST, PAGES_UNREACHABLE_SHARE * facts.total)
    if unreachable >= least or excessive(unreachable, facts.total):
        if pages.uncertain > unreachable:
            yield _uncertain_pages(facts, pages, unreachable)
            return
        groups = pages.unreachable_groups or pages.groups
        seen = (f"no pointer leads to {size_text(unreachable)} of it",)
        against = doubts(facts)
        if 2 * unreachable < pages.bytes:
            against += (f"pointers lead to {size_text(pages.bytes - unreachable)} of it",)
        yield _leak(facts, unreachable, pages.bytes, groups, "medium", seen, against)
        return
    size = pages.bytes
    if size < PAGES_HELD_SHARE * facts.total and not excessive(size, facts.total):
        return
    if pages.uncertain > size:
        yield _uncertain_pages(facts, pages, size)
        return
    against = (*doubts(facts), f"pointers lead to {size_text(size - unreachable)} of it")
    seen = (f"no pointer leads to {size_text(unreachable)} of it",)
    yield _leak(facts, size, size, pages.groups, "low", seen, against)


def _leak(
    facts: Facts,
    size: int,
    unaccounted: int,
    groups: Groups,
    sure: Confidence,
    seen: tuple[str, ...],
    against: tuple[str, ...],
) -> Verdict:
    module = _module(groups)
    return Verdict(
        "leak",
        "pages",
        Culprit(module=module),
        size,
        sure,
        f"{size_text(size)} of pages are unaccounted for: an alloc_pages() leak is likely"
        + allocated_by("", module),
        (
            _unaccounted(facts, unaccounted),
            *seen,
            *(_told(what, part) for what, _, part in _most(groups)),
        ),
        against,
        of_pages(facts),
    )


def _module(groups: Groups) -> str:
    return next((m for _, m, part in groups if m and part >= 0.25), "")


def _uncertain_pages(facts: Facts, pages: PagesFact, size: int) -> Verdict:
    """The two counts of memory differ by more than what would be called lost."""
    return Verdict(
        "cannot-tell",
        "pages",
        Culprit(),
        size,
        "low",
        f"cannot tell: {size_text(size)} of pages are in no counter, but the kernel's counters and "
        f"its page frames differ by {size_text(pages.uncertain)}",
        (_unaccounted(facts, pages.bytes),),
        doubts(facts),
        of_pages(facts),
    )


def _unaccounted(facts: Facts, size: int) -> str:
    return f"{percent_of(size, facts.total)} of memory is in no counter and no known structure"


def _most(groups: Groups) -> list[tuple[str, str, float]]:
    """The groups that say something of the whole."""
    return [group for group in groups[:3] if group[2] >= _SAYS]


def _not_looked(facts: Facts) -> tuple[str, ...]:
    """Why nobody knows who points at pages."""
    if facts.reachability is not None:
        return doubts(facts)
    return () if facts.source == "procfs" else ("nobody looked who points at these pages",)


def _told(what: str, part: float) -> str:
    return f"{percent(part)} of these pages: {what}"


def _unjudged_pages(facts: Facts, pages: PagesFact) -> Verdict:
    """Nobody looked whose they are, or who points at them: drivers take pages too."""
    return Verdict(
        "cannot-tell",
        "pages",
        Culprit(),
        pages.bytes,
        "low",
        f"cannot tell: {size_text(pages.bytes)} of pages are in no counter: leaked, or a driver's",
        (
            f"{percent_of(pages.bytes, facts.total)} of memory is in no counter",
            *(f"{percent(part)} of these pages: {what}" for what, _, part in _most(pages.groups)),
        ),
        _not_looked(facts),
        of_pages(facts),
    )
