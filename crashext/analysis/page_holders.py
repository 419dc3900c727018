"""Who holds the pages that no counter has: those that pointers lead to, and the weakly held."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.memory.pagegroups import Label, recorded_pages
from crashext.analysis.reach.holders import Holders
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.verdict.facts import PagesHolder
from crashext.hosts.base import U64
from crashext.kernel.roots.places import Place, PlaceKind
from crashext.wording import bracketed

_MOST_HOLDERS = 64
_LOOKED = 64  # blocks of each, the largest, whose records are read
_NONE = np.zeros(0, np.intp)
_MOST_WEAK = 4096  # blocks; the words that hold more are not named


@dataclass(frozen=True)
class _Blocks:
    """Reached blocks, and which holder has each, -1: of those that only an address is known of."""

    first: NDArray[np.int64]
    """int64[n]: the page frame that each begins with."""
    pages: NDArray[np.int64]
    """int64[n]: how many of the page frames in question each has."""
    holder: NDArray[np.int64]

    def of(self, holder: int) -> NDArray[np.intp]:
        """Those of one, the largest first."""
        mine = np.flatnonzero(self.holder == holder)
        return mine[np.argsort(-self.pages[mine], kind="stable")]


def page_holders(marked: Reach, frames: NDArray[np.int64]) -> tuple[PagesHolder, ...]:
    """Who holds the reached blocks that some page frames are in, most bytes first, each with the
    largest of its blocks, and who allocated most of them."""
    nodes = marked.nodes
    of_frame = nodes.of_frame[frames]
    numbers, pages = np.unique(of_frame[of_frame >= nodes.first_block], return_counts=True)
    reached = marked.marks.reached[numbers]
    numbers, pages = numbers[reached], pages[reached]
    holders = Holders(marked)
    starts, which = np.unique(holders.starts_of(numbers), return_inverse=True)
    known: dict[tuple[str, str], int] = {}
    each = [
        -1 if place.kind is PlaceKind.WEAK else known.setdefault(_owner(place), len(known))
        for place in holders.roots_of(starts)
    ]
    first = nodes.blocks.first[numbers - nodes.first_block]
    blocks = _Blocks(first, pages.astype(np.int64), np.array(each, np.int64)[which])
    total = np.bincount(blocks.holder + 1, pages, len(known) + 1)[1:].astype(np.int64).tolist()
    most = sorted(known.items(), key=lambda item: (-total[item[1]], item[0]))[:_MOST_HOLDERS]
    mine = [blocks.of(number) for _, number in most]
    largest = [some[:_LOOKED] for some in mine]
    records = recorded_pages(marked.view, first[np.concatenate([_NONE, *largest])])
    shift, address = marked.view.space.page_shift, marked.view.space.address
    return tuple(
        replace(
            PagesHolder(
                *owner, len(some), total[number] << shift, U64(address(int(first[some[0]])))
            ),
            **_allocated(records, blocks, looked),
        )
        for (owner, number), some, looked in zip(most, mine, largest, strict=True)
    )


def _allocated(
    records: dict[int, Label], blocks: _Blocks, looked: NDArray[np.intp]
) -> dict[str, Any]:
    """Who allocated most of some blocks by a record of the kernel's, its share, and how many
    others there are."""
    by: Counter[str] = Counter()
    for frame, pages in zip(
        blocks.first[looked].tolist(), blocks.pages[looked].tolist(), strict=True
    ):
        record = records.get(frame)
        by["" if record is None else bracketed(record[2], record[3])] += pages
    named = [(who, pages) for who, pages in by.most_common() if who]
    if not named:
        return {}
    who, pages = named[0]
    return {
        "allocator": who,
        "allocator_share": pages / by.total(),
        "other_allocators": len(named) - 1,
    }


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
