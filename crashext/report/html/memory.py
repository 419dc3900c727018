"""Where memory is: MemTotal drawn down to caches and holders, and the same as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from crashext.analysis.memory.memsplit import MemorySplit, Part
from crashext.analysis.results.estimate import NONE
from crashext.analysis.verdict.facts import AreaFact, CacheFact, Facts
from crashext.report.html.blocks import Amounts, Block, Cell, Figure, Section, size, table
from crashext.report.html.figures import Boxes, Node, boxes
from crashext.wording import called, percent_of, root_text, size_text

_LEGEND = (
    ("free", "free"),
    ("user", "user space and its files"),
    ("kernel", "kernel, by its counters"),
    ("other", "in no counter"),
    ("lost", "unreachable"),
)
_MEANING = dict(_LEGEND)
_TONES = {"free": "free", "user": "user", "kernel": "kernel"}
_SLAB = {"slab": None, "slab, reclaimable": True, "slab, unreclaimable": False}
"""Parts that slab caches make up, and which caches."""
_REST = "unaccounted"


def memory_section(facts: Facts, amounts: Amounts) -> Section:
    return Section("Where memory is", tuple(memory_blocks(facts, amounts)))


def memory_blocks(facts: Facts, amounts: Amounts) -> Iterator[Block]:
    """All of MemTotal, then the kernel's part of it, larger."""
    split = facts.split
    yield Figure("All memory (MemTotal), and what each part is made of.", _whole(split))
    kernel = [*_kernel(facts), *_uncounted(facts)]
    if kernel:
        describes = "The kernel's memory by counters, and below each what it is made of"
        yield Figure(
            "The kernel's memory, drawn larger: counters, below them caches and holders, below "
            "those what is unreachable. Sizes show when pointed at; tables have them too.",
            boxes(kernel, _LEGEND, describes),
        )
    yield from _parts(split, amounts)


def _whole(split: MemorySplit) -> Boxes:
    roots = [
        Node(
            "user space" if group == "user" else group,
            split.sum(group),
            tone,
            tuple(Node(p.name, p.bytes, tone) for p in _largest(split.parts, group)),
        )
        for group, tone in _TONES.items()
    ]
    if split.unaccounted > 0:
        roots.append(Node(_REST, split.unaccounted, "other"))
    shares = {n.name: f"{size_text(n.bytes)}, {percent_of(n.bytes, split.total)}" for n in roots}
    legend = [(n.tone, f"{_MEANING[n.tone]}: {shares[n.name]}") for n in roots]
    groups = "; ".join(f"{name} {share}" for name, share in shares.items())
    return boxes(roots, legend, f"All memory: {groups}")


def _largest(parts: Sequence[Part], group: str) -> list[Part]:
    return sorted((p for p in parts if p.group == group), key=lambda p: -p.bytes)


def _kernel(facts: Facts) -> Iterator[Node]:
    for part in _largest(facts.split.parts, "kernel"):
        if part.name in _SLAB:
            wanted = _SLAB[part.name]
            caches = [c for c in facts.caches if wanted is None or bool(c.reclaimable) is wanted]
            below = tuple(_cache(c) for c in caches)
        elif part.name == "vmalloc":
            below = tuple(_area(a) for a in facts.areas if a.unreachable)
        else:
            below = ()
        yield Node(part.name, part.bytes, "kernel", below)


def _cache(cache: CacheFact) -> Node:
    lost = (cache.unreachable or NONE).estimate * cache.slot_size
    below = (Node("unreachable", lost, "lost"),) if lost else ()
    return Node(cache.name, cache.bytes, "kernel", below)


def _area(area: AreaFact) -> Node:
    who = called(area.caller, area.module)
    return Node(f"unreachable, of {who}", area.unreachable or 0, "lost")


def _uncounted(facts: Facts) -> Iterator[Node]:
    pages = facts.pages
    if facts.split.unaccounted <= 0:
        return
    below: list[Node] = []
    if pages is not None and pages.unreachable is not None:
        below = [Node("unreachable", pages.unreachable, "lost")]
        below += [
            Node(f"held by {root_text(called(h.root, h.module))}", h.bytes, "other")
            for h in pages.held
        ]
        below += [
            Node("weakly held", pages.weak, "other"),
            Node("perhaps rests of other allocations", pages.split, "other"),
        ]
    yield Node(_REST, facts.split.unaccounted, "other", tuple(n for n in below if n.bytes))


def _parts(split: MemorySplit, amounts: Amounts) -> Iterator[Block]:
    order = (*_TONES, "")
    rows = [
        (
            Cell(p.name),
            Cell("" if p.group == "free" else p.group),
            size(p.bytes),
            Cell(percent_of(p.bytes, split.total)),
            Cell(p.note),
        )
        for p in sorted(split.parts, key=lambda p: (order.index(p.group), -p.bytes))
    ]
    note = "the counters overlap" if split.unaccounted < 0 else "no counter has it"
    rest = percent_of(split.unaccounted, split.total)
    rows.append((Cell(_REST), Cell(""), size(split.unaccounted), Cell(rest), Cell(note)))
    total = (Cell("MemTotal"), Cell(""), size(split.total), Cell("100 %"), Cell(""))
    columns = "part | whose | size# | share# | "
    for one in table("All memory by parts", columns, rows, amounts.rows + len(rows)):
        yield replace(one, total=total)
