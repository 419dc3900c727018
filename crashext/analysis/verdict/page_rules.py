"""Rules about memory that is neither slab nor user: vmalloc areas and raw pages."""

from __future__ import annotations

from collections.abc import Iterator

from crashext.analysis.origin.callers import in_words
from crashext.analysis.results.evidence import UnreachableMemory
from crashext.analysis.verdict.commands import of_areas, of_pages
from crashext.analysis.verdict.facts import Facts, PagesFact, PagesHolder, TagFact
from crashext.analysis.verdict.thresholds import (
    AREAS_LEAST,
    AREAS_SHARE,
    AREAS_UNJUDGED_SHARE,
    PAGES_HELD_SHARE,
    PAGES_LEAST,
    PAGES_SHARE,
    PAGES_UNREACHABLE_SHARE,
    USER_SHARE,
    excessive,
)
from crashext.analysis.verdict.verdict import Culprit, Verdict
from crashext.analysis.verdict.wording import allocated_by, confidence, doubts, little
from crashext.wording import called, looked_in, percent, percent_of, plural, root_text, size_text

_ZSWAP = (
    "zswap",
    "compressed pages that would be in swap otherwise: normal where it is on",
    "grep -r . /sys/module/zswap/parameters # max_pool_percent is its limit",
)
_KEEPERS = {
    "zswap_trees": _ZSWAP,
    "zswap_pools": _ZSWAP,
    "zram_index_idr": (
        "zram",
        "what was written to its devices, compressed: pages of swap, most often",
        "grep . /sys/block/zram*/mm_stat # the third number is what each takes",
    ),
    "brd_devices": (
        "brd",
        "what was written to its RAM disks, until they are removed",
        "lsblk /dev/ram* # what they are for",
    ),
    "nullb_list": (
        "null_blk",
        "what was written to its devices, which were told to keep it in memory",
        "grep . /sys/module/null_blk/parameters/memory_backed # a driver for tests",
    ),
}
"""Variables by which drivers keep what others gave them: name, what it is, what to ask.
Sources: mm/zswap.c, drivers/block/ (4.19 to 7.2)."""
_SAYS = 0.05
_TELLS = 0.25  # share of the pages that speak of a module


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
                f"{plural(fact.areas, 'area')} of one caller, {plural(fact.pages, 'page')}, "
                f"{size_text(fact.bytes)}: "
                f"{percent_of(fact.bytes, facts.total)} of memory",
                f"no live word points into {size_text(size)} of them",
            ),
            (*doubts(facts), *little(size, facts)),
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
            (f"{plural(fact.areas, 'area')} of one caller, {plural(fact.pages, 'page')}",),
            (held,),
            of_areas(facts, fact),
        )


def unreachable_pages(facts: Facts) -> Iterator[Verdict]:
    """Blocks of pages that no pointer and no physical address leads to are leaked.

    Where the product's own two counts of memory differ by more than the block in question, nobody
    is accused: pages were not understood.
    """
    pages = facts.pages
    if pages is None or not pages.unreachable:
        return
    size, total = pages.unreachable, facts.total
    if size < max(PAGES_LEAST, PAGES_UNREACHABLE_SHARE * total):
        return
    if pages.disagreement is None or pages.disagreement > size:
        yield _misunderstood_pages(facts, pages)
        return
    most = pages.memory[0]
    module = next((m.module for m in pages.memory if m.module and m.bytes >= _TELLS * size), "")
    blocks = sum(m.count for m in pages.memory)
    told_by = f"; what is in them speaks of {module}"
    told = bool(module or most.allocator) and 2 * most.bytes >= size
    yield Verdict(
        "leak",
        "pages",
        Culprit(module=module, caller=most.allocator or _by_code(most, module)),
        size,
        confidence(facts) if told else "medium",
        f"{size_text(size)} of pages are leaked: nothing leads to {plural(blocks, 'block')} of them"
        + (allocated_by(most.allocator, module) if most.allocator or not module else told_by),
        (
            f"{percent_of(size, total)} of memory: no pointer, no struct page pointer and no "
            "physical address of these pages is in any memory that is in use",
            *_content(pages),
        ),
        (*doubts(facts), *little(size, facts)),
        of_pages(facts, most.allocator),
    )


def _by_code(memory: UnreachableMemory, module: str) -> str:
    """The place in the module's code that stands out; "" where none does."""
    if memory.callers is None or not memory.callers.clear or memory.module != module:
        return ""
    site = memory.callers.sites[0].site
    return f"{site.function}+{site.offset:#x}"


def _content(pages: PagesFact) -> Iterator[str]:
    """What the largest groups are, a line each."""
    size = pages.unreachable or 0
    for group in pages.memory[:3]:
        if group.bytes >= _SAYS * size:
            orders = ", ".join(f"{n:,} of order {order}" for order, n in group.orders)
            yield f"{percent_of(group.bytes, size)} of them: {group.what} ({orders})"
            yield from () if group.allocator else in_words(group.callers)


def _misunderstood_pages(facts: Facts, pages: PagesFact) -> Verdict:
    size = pages.unreachable or 0
    differ = pages.disagreement
    return Verdict(
        "cannot-tell",
        "pages",
        Culprit(),
        size,
        "low",
        f"cannot tell: nothing seems to lead to {size_text(size)} of pages, but pages were not "
        f"understood {looked_in(facts.source == 'live')}",
        (
            "what page frames are used for could not be told"
            if differ is None
            else f"the kernel's counters and its page frames differ by {size_text(differ)}",
        ),
        doubts(facts),
        of_pages(facts),
    )


def held_pages(facts: Facts) -> Iterator[Verdict]:
    """One root that holds very many pages from the page allocator: a pool, or growth."""
    if facts.pages is None:
        return
    for holder in facts.pages.held[:3]:
        if holder.bytes < PAGES_HELD_SHARE * facts.total and not excessive(
            holder.bytes, facts.total
        ):
            continue
        if holder.root in _KEEPERS:
            yield _kept(facts, holder)
            continue
        yield Verdict(
            "held-growth",
            "pages",
            Culprit(caller=holder.root, module=holder.module),
            holder.bytes,
            "low",
            f"{root_text(called(holder.root, holder.module))} holds {size_text(holder.bytes)} of "
            "pages: a pool of buffers, or growth",
            (
                f"{plural(holder.blocks, 'block')} of pages that no counter has, "
                f"{percent_of(holder.bytes, facts.total)} of memory",
            ),
            ("everything is reachable: drivers and filesystems keep pools of pages",),
            of_pages(facts),
        )


def _kept(facts: Facts, holder: PagesHolder) -> Verdict:
    name, means, command = _KEEPERS[holder.root]
    return Verdict(
        "known-holder",
        "pages",
        Culprit(caller=holder.root, module=holder.module),
        holder.bytes,
        "high",
        f"{name} holds {size_text(holder.bytes)} of pages "
        f"({percent_of(holder.bytes, facts.total)} of memory): {means}",
        (
            f"{plural(holder.blocks, 'block')} of pages, which "
            f"{root_text(called(holder.root, holder.module))} leads to",
        ),
        (),
        command,
    )


def unaccounted_pages(facts: Facts) -> Iterator[Verdict]:
    """Much memory in no counter and no known structure, and nobody looked who points at it."""
    pages = facts.pages
    if pages is None or pages.unreachable is not None:
        return
    if pages.bytes >= PAGES_SHARE * facts.total or excessive(pages.bytes, facts.total):
        yield _unjudged_pages(facts, pages)


def _most(pages: PagesFact) -> list[tuple[str, str, float]]:
    """The groups that say something of the whole."""
    return [group for group in pages.groups[:3] if group[2] >= _SAYS]


def _not_looked(facts: Facts) -> tuple[str, ...]:
    """Why nobody knows who points at pages: where pages are missing, that would not tell."""
    if facts.reachability is not None:
        return doubts(facts)
    return () if facts.source == "procfs" else ("nobody looked who points at these pages",)


def _unjudged_pages(facts: Facts, pages: PagesFact) -> Verdict:
    """Nobody looked whose they are, or who points at them: drivers take pages too."""
    module = next((m for _, m, part in pages.groups if m and part >= _TELLS), "")
    owner = allocated_by(pages.owner, module).removeprefix("; ") if pages.owner else ""
    tag = None if owner else unaccounted_tag(facts)
    says = f"; most were {owner}" if owner else ""
    if tag is not None:
        module = tag.module
        says = (
            f"; one line of source, {tag.place} ({called(tag.function, tag.module)}), holds "
            f"{size_text(tag.bytes)} of pages, as allocinfo says"
        )
    known = {h.module for h in facts.known}
    suspects = [n for n in _TAKERS if n in facts.modules and n not in known]
    step = of_pages(facts)
    if suspects:
        step = f"{_TAKERS[suspects[0]][1]} # how much {suspects[0]} has"
        says = says or f"; {suspects[0]} is loaded, and {_TAKERS[suspects[0]][0]}"
    return Verdict(
        "cannot-tell",
        "pages",
        Culprit(module=module, caller=pages.owner or (tag.function if tag else "")),
        pages.bytes,
        "low",
        f"cannot tell: {size_text(pages.bytes)} of pages are unaccounted for: leaked, or a "
        f"driver's{says}",
        (
            f"{percent_of(pages.bytes, facts.total)} of memory is in no counter",
            *(f"{percent(part)} of these pages: {what}" for what, _, part in _most(pages)),
            *(() if tag is None else _tagged(tag, pages.bytes)),
            *(f"{n} is loaded: {_TAKERS[n][0]}" for n in suspects),
        ),
        _not_looked(facts),
        step,
    )


_BALLOON = "vmware-toolbox-cmd stat balloon"
_TAKERS = {
    "vmw_balloon": ("the host may have taken memory", _BALLOON),
    "vmware_balloon": ("the host may have taken memory", _BALLOON),
    "hv_balloon": ("the host may have taken memory", "cat /sys/kernel/debug/hv-balloon"),
    "virtio_balloon": ("the host may have taken memory", "grep balloon /proc/vmstat"),
    "zfs": ("its cache is in no counter", "grep -w size /proc/spl/kstat/zfs/arcstats"),
    "nvidia": ("it takes pages without a counter", "nvidia-smi"),
    "zram": ("its pages are in no counter", "zramctl"),
}
"""Modules that are known to take pages that no counter has, and who says how many."""
_NOT_MORE = 1.25


def unaccounted_tag(facts: Facts) -> TagFact | None:
    """The line of source that holds most of the pages that no counter has.

    What holds more than is missing holds slab objects of the size of a page.
    """
    size = facts.pages.bytes if facts.pages is not None else 0
    for tag in facts.tags:
        rest = tag.bytes - (tag.counted or 0)
        if tag.pages and max(_SAYS * size, 1) <= rest <= _NOT_MORE * size:
            return tag
    return None


def _tagged(tag: TagFact, size: int) -> Iterator[str]:
    yield (
        f"allocinfo: {tag.calls:,} calls at {tag.place} hold {size_text(tag.bytes)}, "
        f"{percent_of(min(tag.bytes, size), size)} of what is unaccounted for"
    )
    if tag.counted is not None:
        yield (
            f"the counter of such memory has {size_text(tag.counted)} only: the rest left it, but "
            "was not freed"
        )
