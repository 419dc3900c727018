"""Who holds the pages that no counter has: those that pointers lead to, and the weakly held."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.memory.pagegroups import recorded_pages
from crashext.analysis.reach.holders import Holders
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.verdict.facts import PagesHolder
from crashext.hosts.base import U64
from crashext.kernel.roots.places import Place, PlaceKind
from crashext.wording import bracketed

_MOST_HOLDERS = 64
_MOST_WEAK = 4096  # blocks; the words that hold more are not named


@dataclass
class _Held:
    """What was counted of one holder so far; `largest` is the node of its largest block."""

    blocks: int = 0
    pages: int = 0
    largest: int = -1
    most: int = 0

    def add(self, blocks: int, pages: int, largest: int, most: int) -> None:
        self.blocks, self.pages = self.blocks + blocks, self.pages + pages
        if most > self.most:
            self.largest, self.most = largest, most


def page_holders(marked: Reach, frames: NDArray[np.int64]) -> tuple[PagesHolder, ...]:
    """Who holds the reached blocks that some page frames are in, most bytes first, each with the
    largest of its blocks."""
    nodes = marked.nodes
    of_frame = nodes.of_frame[frames]
    numbers, pages = np.unique(of_frame[of_frame >= nodes.first_block], return_counts=True)
    reached = marked.marks.reached[numbers]
    numbers, pages = numbers[reached], pages[reached]
    holders = Holders(marked)
    starts, which = np.unique(holders.starts_of(numbers), return_inverse=True)
    order = np.lexsort((-pages, which))  # of each start the largest block first
    begin = np.searchsorted(which[order], np.arange(len(starts)))
    first = order[begin]
    found: dict[tuple[str, str], _Held] = {}
    for place, blocks, total, node, most in zip(
        holders.roots_of(starts),
        np.bincount(which, minlength=len(starts)).tolist(),
        np.bincount(which, pages, len(starts)).astype(np.int64).tolist(),
        numbers[first].tolist(),
        pages[first].tolist(),
        strict=True,
    ):
        if place.kind is not PlaceKind.WEAK:
            found.setdefault(_owner(place), _Held()).add(blocks, total, node, most)
    return _recorded(marked, found)


def _recorded(marked: Reach, found: dict[tuple[str, str], _Held]) -> tuple[PagesHolder, ...]:
    """With who allocated the largest block of each, where the kernel noted it."""
    most = sorted(found.items(), key=lambda item: (-item[1].pages, item[0]))[:_MOST_HOLDERS]
    blocks, space = marked.nodes.blocks, marked.view.space
    first = blocks.first[[held.largest - marked.nodes.first_block for _, held in most]]
    records = recorded_pages(marked.view, first)
    result = []
    for (owner, held), frame in zip(most, first.tolist(), strict=True):
        by, size = records.get(frame), held.pages << space.page_shift
        one = PagesHolder(*owner, held.blocks, size, U64(space.address(frame)))
        result.append(one if by is None else replace(one, allocator=bracketed(by[2], by[3])))
    return tuple(result)


def _owner(place: Place) -> tuple[str, str]:
    """The variable without its module in brackets, and the module."""
    suffix = f" [{place.module}]"
    return (place.owner.removesuffix(suffix), place.module) if place.module else (place.owner, "")


def weak_holders(marked: Reach) -> tuple[PagesHolder, ...]:
    """In what the words are that hold blocks weakly, most bytes first: of each block the first."""
    blocks, space = marked.nodes.blocks, marked.view.space
    names, first = np.unique(marked.weak.names, return_index=True)
    names, at = names[:_MOST_WEAK], marked.weak.at[first[:_MOST_WEAK]]
    count: Counter[str] = Counter()
    pages: Counter[str] = Counter()
    example: dict[str, int] = {}
    for owner, block in zip(Holders(marked).owners_of(at), names.tolist(), strict=True):
        count[owner] += 1
        pages[owner] += int(blocks.pages[block])
        example.setdefault(owner, int(blocks.first[block]))
    most = sorted(pages.items(), key=lambda item: (-item[1], item[0]))[:_MOST_HOLDERS]
    return tuple(
        PagesHolder(
            owner, "", count[owner], total << space.page_shift, U64(space.address(example[owner]))
        )
        for owner, total in most
    )
