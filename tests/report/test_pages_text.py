"""`leakscan pages`: whose the pages are that no counter has, and what to type next."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from crashext.analysis.memory.memsplit import MemorySplit
from crashext.analysis.results.evidence import UnreachableMemory
from crashext.analysis.verdict.facts import Facts, PagesFact, PagesHolder
from crashext.hosts.base import U64
from crashext.report.asking import Asking
from crashext.report.pages_text import print_pages

MIB = 1 << 20


def printed(pages: PagesFact | None, verbose: bool = False) -> list[str]:
    facts = Facts(MemorySplit(MIB, (), 0), pages=pages, source="dump")
    console = Console(width=100)
    with console.capture() as page:
        print_pages(facts, console, verbose, Asking())
    heading, *lines = page.get().splitlines()
    assert heading == "Pages in no counter"
    return lines


def lost(number: int, allocator: str = "") -> UnreachableMemory:
    what = f"allocated by {allocator}" if allocator else f"text: group {number}"
    at = U64(0xFFFF888000000000 + number * MIB)
    return UnreachableMemory(
        "pages", what, "mod", 2, 2, (9 - number) * MIB, ((0, 2),), (at,), allocator=allocator
    )


LOST = tuple(lost(i) for i in range(5))
PAGES = PagesFact(99 * MIB, sum(m.bytes for m in LOST), (), memory=LOST)


def test_the_largest_groups_say_what_they_are_where_and_what_next() -> None:
    lines = printed(PAGES)
    assert lines[:2] == [
        "       9.0 MiB  unreachable: 2 blocks, text: group 0; symbols or text of mod",
        "                such as 0xffff888000000000",
    ]
    assert "      11.0 MiB  unreachable: 2 smaller groups (-v)" in lines
    assert lines[-4:] == [
        "  next:    objsim 0xffff888000000000",
        "             what is in one of the unreachable blocks",
        "  next:    leakscan --orphans",
        "             where they are, with everything else that is unreachable",
    ]
    assert sum("group" in text for text in printed(PAGES, verbose=True)) == len(LOST)


def test_who_allocated_them_by_a_record_is_said_and_looked_up() -> None:
    memory = (lost(0, "pool_alloc+0x1c"),)
    lines = printed(replace(PAGES, memory=memory, unreachable=memory[0].bytes))
    assert lines[0].endswith("unreachable: 2 blocks, allocated by pool_alloc+0x1c")
    assert "  next:    sym pool_alloc" in lines


def test_who_holds_the_others_is_named_and_the_largest_can_be_looked_at() -> None:
    ring = PagesHolder("ring", "drv", 3, 2 * MIB, U64(0xFFFF888000400000), "drv_fill+0x8 [drv]")
    weak = PagesHolder("skb objects", "", 2, MIB, U64(0xFFFF888000500000))
    held = PagesFact(MIB, 0, (), held=(ring,), weak=MIB, weak_by=(weak,))
    assert printed(held) == [
        "       2.0 MiB  held by the variable ring [drv], allocated by drv_fill+0x8 [drv]",
        "       1.0 MiB  weakly held: their physical addresses are in skb objects (2 blocks)",
        "  next:    objsim 0xffff888000400000",
        "             how the largest of them is held, and by what",
    ]
    most = replace(ring, allocator_share=0.625, other_allocators=2)
    assert printed(replace(held, held=(most,)))[0] == (
        "       2.0 MiB  held by the variable ring [drv], 62.5 % allocated by drv_fill+0x8 [drv] "
        "(2 others)"
    )
    older = replace(held, held=(replace(ring, example=None),), weak_by=())
    assert printed(older)[1:] == [
        "       1.0 MiB  weakly held: somebody has their physical addresses"
    ]


def test_where_nobody_looked_what_they_are_is_told() -> None:
    unseen = PagesFact(8 * MIB, None, (("text: a log", "mod", 0.75), ("zeros", "", 0.25)))
    assert printed(unseen) == [
        "       8.0 MiB  nobody looked who holds them",
        "                75.0 %: text: a log [mod]",
        "                25.0 %: zeros",
        "  next:    leakscan pages --refs",
        "             who holds them",
    ]
    assert printed(None) == ["  not counted"]
