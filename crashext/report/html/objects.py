"""A group of alike objects, drawn: its words as a map, who leads to it as a chain."""

from __future__ import annotations

from collections.abc import Iterator

from crashext.analysis.results.evidence import Chain, Held
from crashext.analysis.results.reports import Group, Word
from crashext.report.html.blocks import (
    Amounts,
    Block,
    Cell,
    Details,
    Figure,
    Line,
    Table,
    number,
    table,
)
from crashext.report.html.figures import ChainMap, ObjectMap, WordCell, chain
from crashext.wording import percent

_COLOURS = {
    "zero": ("zero", "0"),
    "self-pointer": ("pointer", "itself"),
    "slab-pointer": ("pointer", "-> object"),
    "page-pointer": ("pointer", "-> page"),
    "vmalloc-pointer": ("pointer", "-> vmalloc"),
    "struct-page-pointer": ("pointer", "-> struct page"),
    "percpu-pointer": ("pointer", "-> per-CPU"),
    "user-address": ("pointer", "-> user"),
    "text-symbol": ("symbol", "function"),
    "data-symbol": ("symbol", "variable"),
    "module-symbol": ("symbol", "module"),
    "list-poison": ("poison", "LIST_POISON"),
    "poison": ("poison", "poison"),
    "error-pointer": ("number", "error"),
    "negative-number": ("number", "negative"),
    "small-number": ("number", "number"),
    "number": ("number", "number"),
    "two-numbers": ("number", "2 numbers"),
    "text": ("text", "text"),
}
"""Kind of word -> its colour and the word in its cell."""
_UNKNOWN = ("opaque", "?")
_LEGEND = (
    ("pointer", "pointer"),
    ("symbol", "symbol of the kernel or a module"),
    ("poison", "poison: unlinked or freed"),
    ("text", "text"),
    ("number", "number"),
    ("zero", "zero"),
    ("opaque", "not known"),
)
_PER_ROW, _WORD = 8, 8
_LEFT, _WIDE, _CELL, _HIGH = 74, 114, 110, 34
_ALL = 0.995
_FEW_CHAINS = 3
_FEW_WORDS = 16
_MOSTLY = 0.5
"""From this share on something is said of a group, as in the text."""


def object_map(words: tuple[Word, ...], amounts: Amounts) -> ObjectMap:
    """The words of an exemplar, and how many of its group have the same there."""
    shown = words[: amounts.words]
    cells, offsets = [], []
    for i, word in enumerate(shown):
        colour, short = _COLOURS.get(word.kind, _UNKNOWN)
        row, column = divmod(i, _PER_ROW)
        if not column:
            offsets.append((row * _HIGH + 20.0, f"+{word.offset:#x}"))
        bar = round(_CELL * word.constant, 1)
        place = (_LEFT + column * _WIDE, row * _HIGH)
        cells.append(WordCell(*place, colour, short, word.constant, bar, _says(word)[:400]))
    seen = {c.kind for c in cells}
    rows = (len(shown) + _PER_ROW - 1) // _PER_ROW
    return ObjectMap(
        rows * _HIGH,
        tuple(cells),
        tuple(offsets),
        tuple(row for row in _LEGEND if row[0] in seen),
        f"Picture of an object of {len(words):,} words, a row for each 64 bytes; the table below "
        "has the same words",
    )


def _says(word: Word) -> str:
    return f"+{word.offset:#x} {word.kind} {word.value:0{2 * word.size}x}: {_meaning(word)}"


def _meaning(word: Word) -> str:
    parts = [word.meaning] if word.meaning else []
    parts.append(word.varies or "same in all")
    if word.varies and word.agreement < _ALL:
        parts.append(f"{percent(word.agreement)} are alike here")
    return "; ".join(parts)


def word_table(group: Group, amounts: Amounts) -> tuple[Table, ...]:
    rows = []
    for word in group.words:
        colour, _ = _COLOURS.get(word.kind, _UNKNOWN)
        hops = "".join(f" -> {hop.address:x}, {hop.what}" for hop in word.hops)
        rows.append(
            (
                Cell(f"+{word.offset:#05x}", tone="code"),
                Cell(f"{word.value:0{2 * word.size}x}", tone=f"kind-{colour}"),
                Cell(word.kind),
                Cell((word.meaning + hops).strip()),
                Cell("same in all" if not word.varies else word.varies),
                Cell(percent(word.constant)),
            )
        )
    columns = "offset | value | kind | meaning | in the group | same value#"
    return table(f"Words of the exemplar {group.exemplar:x}", columns, rows, amounts.words)


def group_figures(group: Group, amounts: Amounts) -> Iterator[Block]:
    """The object's picture and its words."""
    if not group.words:
        return
    yield Figure(
        f"The exemplar {group.exemplar:x}, a word a cell, 64 bytes a row. Colours and words are "
        "kinds; the bar below a word is the share of the group that has this very value.",
        object_map(group.words, amounts),
    )
    listed = word_table(group, amounts)
    if len(group.words) > _FEW_WORDS:
        yield Details(f"All {len(group.words):,} words with their meanings", listed)
    else:
        yield from listed


def reach_blocks(held: Held | None, amounts: Amounts) -> Iterator[Block]:
    """Who points at a group: chains, or that nothing does."""
    if held is None:
        yield Line("Nobody looked who points at these objects (--refs does).", "quiet")
        return
    if held.orphan.value >= _MOSTLY:
        yield Line(f"Nothing points here: {percent(held.orphan.value)} of them are orphans.", "bad")
    shown: list[Block] = [
        Figure(f"How {one.target:x} is reached: each points at the next.", chain_map(one))
        for one in held.chains[:_FEW_CHAINS]
    ]
    rows = [(Cell(name), number(count)) for name, count in held.holders]
    caption = f"Holders of the {held.examined:,} objects looked at"
    shown += table(caption, "holder | objects#", rows, amounts.rows)
    if held.held.value >= _MOSTLY:
        yield from shown
    elif shown:
        yield Details("The few that are held, and by whom", tuple(shown))


def chain_map(one: Chain) -> ChainMap:
    steps = (*one.steps, f"{one.target:x}")
    return chain(steps, " -> ".join(steps))
