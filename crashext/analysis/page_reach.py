"""Areas and pages that nothing reaches, in groups."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.memory.pagegroups import BY_RECORD, SAMPLE, Label, label_pages
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.results.evidence import UnreachableMemory
from crashext.hosts.base import U64
from crashext.kernel.access import Words
from crashext.kernel.pages.areas import by_caller

_EXAMPLES = 4
_AT_ONCE = 1 << 17  # areas
_LONG_NAME = 6
_KINDS = {
    "zeros": "pages of zeros",
    "one-value": "pages of one value",
    "text": "text",
    "module-pointers": "pointers to a module",
    "kernel-pointers": "pointers to the kernel",
    "pointers": "pointers",
    "data": "data",
}


def unreachable_memory(marked: Reach, modules: list[str]) -> tuple[UnreachableMemory, ...]:
    """vmalloc areas by caller, then blocks of pages by content, most bytes first."""
    return (*_areas(marked), *_pages(marked, modules))


def _areas(marked: Reach) -> list[UnreachableMemory]:
    areas, nodes = marked.areas, marked.nodes
    rows = np.flatnonzero(~marked.areas_reached()).astype(np.int32)
    names, which = by_caller(nodes.view.host, areas.caller, rows)
    found = []
    counts, sums, sizes = np.zeros((3, len(names)), np.int64)
    for begin in range(0, len(rows), _AT_ONCE):
        some, groups = rows[begin : begin + _AT_ONCE], which[begin : begin + _AT_ONCE]
        pages = areas.pages[some]
        size = np.where(
            pages > 0,
            pages << np.uint64(nodes.view.space.page_shift),
            areas.end[some] - areas.start[some],
        )
        counts += np.bincount(groups, minlength=len(names))
        # Exact up to 2^53 bytes.
        sums += np.bincount(groups, pages, len(names)).astype(np.int64)
        sizes += np.bincount(groups, size, len(names)).astype(np.int64)
    for number, (name, module) in enumerate(names):
        some = rows[np.flatnonzero(which == number)[:_EXAMPLES]]
        found.append(
            UnreachableMemory(
                "vmalloc",
                name,
                module,
                int(counts[number]),
                int(sums[number]),
                int(sizes[number]),
                (),
                tuple(U64(a) for a in areas.start[some].tolist()),
            )
        )
    return sorted(found, key=lambda m: (-m.bytes, m.what))


def _pages(marked: Reach, modules: list[str]) -> list[UnreachableMemory]:
    blocks, view = marked.nodes.blocks, marked.view
    lost = ~marked.blocks_reached()
    stacks = lost & np.isin(view.space.addresses(blocks.first.astype(np.uint64)), _stacks(marked))
    rows = np.flatnonzero(lost & ~stacks)
    some = rows
    if len(rows) > SAMPLE:
        some = rows[np.linspace(0, len(rows) - 1, SAMPLE).astype(np.intp)]
    labels = label_pages(view, blocks.first[some])
    members: dict[Label | None, list[int]] = {}
    for row in some.tolist():
        members.setdefault(labels.get(int(blocks.first[row])), []).append(row)
    scale = len(rows) / max(1, len(some))
    orders = blocks.orders()
    found = _of_tasks(marked, np.flatnonzero(stacks))
    for label, mine in members.items():
        what, module = described(label, modules)
        pages = round(int(blocks.pages[mine].sum()) * scale)
        found.append(
            UnreachableMemory(
                "pages",
                what,
                module,
                round(len(mine) * scale),
                pages,
                pages << view.space.page_shift,
                tuple(
                    sorted((o, round(n * scale)) for o, n in Counter(orders[mine].tolist()).items())
                ),
                tuple(U64(view.space.address(int(f))) for f in blocks.first[mine[:_EXAMPLES]]),
                scale > 1 and len(members) > 1,
                allocator=label[2] if label is not None and label[0] in BY_RECORD else "",
            )
        )
    return sorted(found, key=lambda m: (-m.bytes, m.what))


def _stacks(marked: Reach) -> Words:
    """Where the stacks of tasks begin."""
    return np.array([stack.start for stack in marked.stacks.stacks], np.uint64)


def _of_tasks(marked: Reach, rows: NDArray[np.int64]) -> list[UnreachableMemory]:
    """Blocks that are stacks: their task is what was lost, and nothing leads to it.

    Where stacks are vmalloc areas (ba14a194a434, 4.9, CONFIG_VMAP_STACK), no block is one.
    """
    if not len(rows):
        return []
    blocks, view = marked.nodes.blocks, marked.view
    pages = int(blocks.pages[rows].sum())
    orders = Counter(blocks.orders()[rows].tolist())
    examples = tuple(U64(view.space.address(int(f))) for f in blocks.first[rows[:_EXAMPLES]])
    size = pages << view.space.page_shift
    return [
        UnreachableMemory(
            "pages",
            "kernel stacks of unreachable tasks",
            "",
            len(rows),
            pages,
            size,
            tuple(sorted(orders.items())),
            examples,
            part_of="task_struct",
        )
    ]


def _scaled(counts: Counter[int], scale: float) -> tuple[tuple[int, int], ...]:
    return tuple((order, round(n * scale)) for order, n in sorted(counts.items()))


def described(label: Label | None, modules: list[str]) -> tuple[str, str]:
    """What a label says in words, and the module that it names."""
    if label is None:
        return "not read", ""
    by, kind, detail, module = label
    if by in BY_RECORD:
        return f"allocated by {detail}", module
    return _KINDS[kind] + (f": {detail}" if detail else ""), module or module_in(detail, modules)


def module_in(text: str, modules: list[str]) -> str:
    """The loaded module that a text names; short names are words of any language."""
    words = set(re.findall(r"[a-z0-9_]+", text.lower()))
    return next((m for m in modules if len(m) >= _LONG_NAME and m.lower() in words), "")
