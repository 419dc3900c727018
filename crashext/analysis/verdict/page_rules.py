"""Rules about memory that is neither slab nor user: vmalloc areas and raw pages."""

from __future__ import annotations

from collections.abc import Iterator

from crashext.analysis.verdict.commands import of_areas, of_pages
from crashext.analysis.verdict.facts import Facts, PagesFact
from crashext.analysis.verdict.thresholds import (
    AREAS_LEAST,
    AREAS_SHARE,
    AREAS_UNJUDGED_SHARE,
    PAGES_SHARE,
    USER_SHARE,
    excessive,
)
from crashext.analysis.verdict.verdict import Culprit, Verdict
from crashext.analysis.verdict.wording import allocated_by, confidence, doubts
from crashext.wording import called, percent, percent_of, plural, size_text

_SAYS = 0.05


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
    size = pages.bytes
    if size < PAGES_SHARE * facts.total and not excessive(size, facts.total):
        return
    module = next((m for _, m, part in pages.groups if m and part >= 0.25), "")
    if pages.unreachable is None and not module:
        yield _unjudged_pages(facts, pages)
        return
    evidence = [
        f"{percent_of(size, facts.total)} of memory is in no counter and no known structure"
    ]
    if pages.unreachable is not None:
        evidence.append(f"no pointer leads to {size_text(pages.unreachable)} of it")
    evidence += [f"{percent(part)} of these pages: {what}" for what, _, part in _most(pages)]
    against = doubts(facts)
    if pages.unreachable is not None and 2 * pages.unreachable < size:
        against += (f"pointers lead to {size_text(size - pages.unreachable)} of it",)
    yield Verdict(
        "leak",
        "pages",
        Culprit(module=module),
        size,
        "medium" if pages.unreachable is not None and 2 * pages.unreachable >= size else "low",
        f"{size_text(size)} of pages are unaccounted for: an alloc_pages() leak is likely"
        + allocated_by("", module),
        tuple(evidence),
        against,
        of_pages(facts),
    )


def _most(pages: PagesFact) -> list[tuple[str, str, float]]:
    """The groups that say something of the whole."""
    return [group for group in pages.groups[:3] if group[2] >= _SAYS]


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
            *(f"{percent(part)} of these pages: {what}" for what, _, part in _most(pages)),
        ),
        () if facts.source == "procfs" else ("nobody looked who points at these pages",),
        of_pages(facts),
    )
