"""The verdict: named rules over named numbers, each with its evidence for and against.

A rule looks at `Facts` and says what is wrong, or nothing. A false accusation costs more than an
honest "cannot tell": where a number is missing, no rule that needs it speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import get_args

from msgspec import structs

from crashext.analysis.results.estimate import count_text
from crashext.analysis.results.evidence import Reachability
from crashext.analysis.verdict.commands import of_cache, of_largest_cache
from crashext.analysis.verdict.damage_rules import unseen, without_areas
from crashext.analysis.verdict.facts import CUT, Facts
from crashext.analysis.verdict.growth_rules import completed, grown, grown_counters
from crashext.analysis.verdict.holder_rules import (
    counters,
    known_holders,
    outstanding,
    uncounted_vmalloc,
    unnamed_user_memory,
)
from crashext.analysis.verdict.overturn import overturned_by
from crashext.analysis.verdict.page_rules import (
    held_pages,
    large_areas,
    unaccounted_pages,
    unreachable_areas,
    unreachable_pages,
)
from crashext.analysis.verdict.shares import explained, known_first, with_others
from crashext.analysis.verdict.slab_rules import (
    backlog,
    few_unreachable,
    fragmentation,
    held_growth,
    reclaimable,
    unreachable_objects,
)
from crashext.analysis.verdict.unjudged import unexplained, unjudged_slab
from crashext.analysis.verdict.user_rules import user_space
from crashext.analysis.verdict.verdict import Culprit, Outcome, Verdict, Where
from crashext.analysis.verdict.wording import confidence, doubts, not_seen
from crashext.wording import called, looked_in, percent_of, plural, size_text

_SUSPECTS = 3
_SEVERITY = get_args(Outcome)

Rule = Callable[[Facts], Iterator[Verdict]]

RULES: tuple[Rule, ...] = (
    unreachable_objects,
    unreachable_areas,
    large_areas,
    unreachable_pages,
    held_pages,
    unaccounted_pages,
    backlog,
    held_growth,
    fragmentation,
    outstanding,
    known_holders,
    counters,
    uncounted_vmalloc,
    user_space,
    unnamed_user_memory,
    reclaimable,
)


def judge(facts: Facts) -> tuple[Verdict, ...]:
    """All verdicts, worst first; never none."""
    doubted = misunderstood(facts)
    facts = without_areas(facts) if doubted is None else _unjudged(facts)
    # Without MemTotal nothing is much or little.
    rules = RULES if facts.total else (unreachable_objects, outstanding)
    found = [verdict for rule in rules for verdict in rule(facts)]
    if facts.total:
        found += grown(facts, found)
        found += grown_counters(facts, found)
        if doubted is None:
            found += unjudged_slab(facts, found)
        found = found or list(unexplained(facts))
    if doubted is not None:
        found.append(doubted)
    if not found and (lost := unseen(facts)) is not None:
        found.append(lost)
    if not found:
        found = list(few_unreachable(facts)) or [
            _healthy(facts) if facts.total else _no_total(facts)
        ]
    found = [explained(facts, completed(facts, verdict)) for verdict in found]
    found = [structs.replace(v, overturned_by=overturned_by(facts, v)) for v in found]
    found.sort(key=lambda v: (_SEVERITY.index(v.kind), -v.bytes))
    if facts.source == "procfs":
        found = known_first(facts, found)
    return with_others(facts, found)


def misunderstood(facts: Facts) -> Verdict | None:
    """Where objects look unreachable that are in use, nobody is accused."""
    seen = facts.reachability
    if seen is None or not seen.misgivings:
        return None
    size = sum(f.bytes for f in facts.unreachable or () if f.by == "reachability")
    return Verdict(
        "cannot-tell",
        "slab",
        Culprit(),
        size,
        "low",
        "cannot tell: "
        + (f"{size_text(size)} of slab objects look unreachable, but " if size else "")
        + f"who points at what was not understood {looked_in(facts.source == 'live')}",
        (*seen.misgivings, *_suspects(facts, seen)),
        tuple(n for n in seen.notes if not any(m in n for m in seen.misgivings)),
        of_largest_cache(facts, "what is in the largest cache, and how much of it is alike"),
    )


def _suspects(facts: Facts, seen: Reachability) -> Iterator[str]:
    """What looks unreachable most, where missing pages are why the mark is not believed."""
    if not seen.slab_pages_missing:
        return
    some = [f for f in facts.unreachable or () if f.by == "reachability" and f.cache]
    for fact in sorted(some, key=lambda f: -f.bytes)[:_SUSPECTS]:
        told = f": {fact.evidence[0]}" if fact.evidence else ""
        yield (
            f"{count_text(fact.objects)} {fact.cache} objects ({size_text(fact.bytes)}) look "
            f"unreachable{told}"
        )


def _unjudged(facts: Facts) -> Facts:
    """The facts without what reachability said."""
    kept = tuple(f for f in facts.unreachable or () if f.by != "reachability")
    pages = facts.pages
    return replace(
        facts,
        unreachable=kept or None,
        explained=0,
        holders=(),
        areas=tuple(replace(a, unreachable=None) for a in facts.areas),
        pages=pages and replace(pages, unreachable=None, memory=(), held=()),
        reachability=None,
        limits=(*facts.limits, "who points at what was not understood"),
    )


def _no_total(facts: Facts) -> Verdict:
    """Nothing says how much memory there is: only who has most."""
    cache = max(facts.caches, key=lambda c: c.bytes, default=None)
    area = max(facts.areas, key=lambda a: a.bytes, default=None)
    where: Where = "none"
    culprit, size = Culprit(), 0
    evidence = []
    if cache is not None:
        where, culprit, size = "slab", Culprit(cache=cache.name), cache.bytes
        evidence.append(f"{cache.name} has most slab memory, {size_text(size)}")
    if facts.tags:
        tag = facts.tags[0]
        evidence.append(
            f"{tag.place} ({called(tag.function, tag.module)}) holds most by allocinfo, "
            f"{size_text(tag.bytes)}"
        )
    if facts.pages is not None and facts.pages.groups:
        evidence.append(facts.pages.groups[0][0])
        if size == 0:
            where, size = "pages", facts.pages.bytes
            culprit = Culprit(caller=facts.pages.owner, module=facts.pages.groups[0][1])
    if area is not None:
        everything = sum(a.bytes for a in facts.areas)
        evidence.append(
            f"{called(area.caller, area.module)} has most vmalloc memory, "
            f"{size_text(area.bytes)}: {plural(area.pages, 'page')}, "
            f"{percent_of(area.bytes, everything)} of it"
        )
        if area.bytes > size:
            where, size = "vmalloc", area.bytes
            culprit = Culprit(caller=area.caller, module=area.module)
    if facts.cgroup and not evidence:
        name, size = facts.cgroup[0]
        whole = sum(of for _, of in facts.cgroup)
        evidence.append(
            f"in one memory cgroup {name} is {size_text(size)}, {percent_of(size, whole)} of what "
            "its counters have"
        )
        evidence += [f"its {part}: {size_text(of)}" for part, of in facts.cgroup[1:4]]
    if facts.cgroup_limit:
        limit = size_text(facts.cgroup_limit)
        said = f"a memory cgroup ran into its limit of {limit}, not the machine out of memory"
        evidence[:1] = ["; ".join([said, *evidence[:1]])]
    told = evidence[:1] if facts.source == "procfs" else []  # in the sentence, then, and only there
    return Verdict(
        "cannot-tell",
        where,
        culprit,
        size,
        "low",
        "cannot tell: "
        + "".join(f"{text}; " for text in told)
        + "how much memory there is is not known",
        tuple(evidence[len(told) :]),
        not_seen(facts),
        "cat /proc/meminfo # saved beside the other files, it says how much there is",
    )


def _healthy(facts: Facts) -> Verdict:
    evidence = [f"{percent_of(facts.split.get('free'), facts.total)} of memory is free"]
    if facts.unreachable is not None:
        size = sum(f.bytes for f in facts.unreachable)
        if facts.reachability is None:
            evidence.append("kmemleak reports nothing")
        elif size:
            evidence.append(f"all slab objects but {size_text(size)} can be reached")
        else:
            but = f" but {facts.explained:,} that are explained" if facts.explained else ""
            evidence.append(f"every slab object{but} can be reached")
    if facts.pages is not None:
        evidence.append(f"all but {size_text(facts.pages.bytes)} of memory is accounted for")
    against = not_seen(facts) if facts.reachability is None else doubts(facts)
    cut = next((limit for limit in facts.limits if limit.startswith(CUT)), "")
    looked = facts.reachability is not None or facts.unreachable is not None
    says = "no leak is to be seen" + ("" if looked and not cut else " by the counters")
    return Verdict(
        "healthy",
        "none",
        Culprit(),
        0,
        confidence(facts) if facts.reachability is not None else "low",
        f"{says}; {cut}" if cut else says,
        tuple(evidence),
        tuple(text for text in against if not cut or cut not in text),
        _look_closer(facts),
    )


def _look_closer(facts: Facts) -> str:
    """What to do where nothing is wrong."""
    grows = "" if facts.growth is not None else "; --before OLD says what grew since an older dump"
    if facts.source == "procfs":
        return f"leakscan # whether anything still points at what is allocated{grows}"
    if facts.reachability is None:
        return f"leakscan --refs # whether anything still points at what is allocated{grows}"
    if facts.unreachable:
        return f"{of_cache('')} # the little that nothing reaches{grows}"
    return of_largest_cache(facts, f"what is in the largest cache{grows}")
