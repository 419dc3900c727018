"""A group of alike objects, drawn: its words as a map, who leads to it as a chain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
from crashext.report.kinds import COLOURS, UNKNOWN
from crashext.wording import percent, plural

_LEGEND = (
    ("pointer", "pointer"),
    ("symbol", "symbol of the kernel or a module"),
    ("poison", "poison: unlinked or freed"),
    ("text", "text"),
    ("number", "number"),
    ("zero", "zero"),
    ("opaque", "not known"),
)
_PER_ROW = 8
_MOST_SAID, _MOST_DRAWN = 400, 128
_LEFT, _WIDE, _CELL, _HIGH = 74, 114, 110, 34
_ALL = 0.995
_FEW_CHAINS = 3
_FEW_WORDS = 16
_MOSTLY = 0.5
"""From this share on something is said of a group, as in the text."""


def object_map(words: tuple[Word, ...], amounts: Amounts) -> ObjectMap:
    """The words of an exemplar, and how many of its group have the same there."""
    shown = words[: min(amounts.words, _MOST_DRAWN)]
    cells = [(w.offset, w.kind, w.constant, _says(w)[:_MOST_SAID]) for w in shown]
    return _drawn(cells, len(words), "the table below has the same words")


def shape_map(shape: str, amounts: Amounts) -> ObjectMap:
    """Kinds of words alone: of a shape's label, ``slab-pointer list-poison*2 number``."""
    kinds: list[str] = []
    for label in shape.split()[: amounts.words]:
        kind, _, times = label.partition("*")
        kinds += [kind] * (min(int(times), amounts.words) if times.isdecimal() else 1)
    shown = kinds[: min(amounts.words, _MOST_DRAWN)]
    cells = [(8 * i, kind, 0.0, f"+{8 * i:#x} {kind}") for i, kind in enumerate(shown)]
    return _drawn(cells, len(kinds), f"by kind: {shape}")


def _drawn(words: Sequence[tuple[int, str, float, str]], total: int, says: str) -> ObjectMap:
    """Of (offset, kind, share with the same value, what it says) for each word."""
    cells, offsets = [], []
    for i, (offset, kind, constant, said) in enumerate(words):
        colour, short = COLOURS.get(kind, UNKNOWN)
        row, column = divmod(i, _PER_ROW)
        if not column:
            offsets.append((row * _HIGH + 20.0, f"+{offset:#x}"))
        place = (_LEFT + column * _WIDE, row * _HIGH)
        cells.append(WordCell(*place, colour, short, round(_CELL * constant, 1), said))
    seen = {c.kind for c in cells}
    first = f"the first {len(words):,} words of " if len(words) < total else ""
    rows = (len(words) + _PER_ROW - 1) // _PER_ROW
    return ObjectMap(
        rows * _HIGH,
        tuple(cells),
        tuple(offsets),
        tuple(row for row in _LEGEND if row[0] in seen),
        f"Picture of {first}an object of {total:,} words, a row for each 64 bytes; {says}",
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
        colour, _ = COLOURS.get(word.kind, UNKNOWN)
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
    first = f" (its first {_MOST_DRAWN} words)" if len(group.words) > _MOST_DRAWN else ""
    yield Figure(
        f"The exemplar {group.exemplar:x}{first}, a word a cell, 64 bytes a row. Colours and words "
        "are kinds; the bar below a word is the share of the group that has this very value.",
        object_map(group.words, amounts),
    )
    listed = word_table(group, amounts)
    if len(group.words) > _FEW_WORDS:
        yield Details(f"All {len(group.words):,} words with their meanings", listed)
    else:
        yield from listed


def reach_blocks(held: Held | None, exemplar: int, amounts: Amounts) -> Iterator[Block]:
    """Who points at a group: chains, or that nothing does."""
    if held is None:
        yield Line("Nobody looked who points at these objects (--refs does).", "quiet")
        return
    if held.orphan.value >= _MOSTLY:
        share = percent(held.orphan.value)
        caption = f"Nothing points here: {share} of them are orphans."
        yield unreached(caption, "no root leads here", f"{exemplar:x}")
    elif held.structure.value >= _MOSTLY:
        share = percent(held.structure.value)
        caption = f"Only unreachable objects point here: at {share} of them."
        yield unreached(caption, "no root leads here", "unreachable objects", f"{exemplar:x}")
    shown: list[Block] = [
        Figure(f"How {one.target:x} is led to: each points at the next.", chain_map(one))
        for one in held.chains[:_FEW_CHAINS]
    ]
    rows = [(Cell(name), number(count)) for name, count in held.holders]
    caption = f"Holders of the {plural(held.examined, 'object')} looked at"
    shown += table(caption, "holder | objects#", rows, amounts.rows)
    if held.held.value >= _MOSTLY:
        yield from shown
    elif shown:
        yield Details("What leads to some of them", tuple(shown))


def unreached(caption: str, nobody: str, *names: str) -> Figure:
    """That nobody stands where a root would, and what hangs together there."""
    tones = ("nothing", *["lost"] * len(names))
    return Figure(caption, chain((nobody, *names), " -> ".join((nobody, *names)), tones), "bad")


def chain_map(one: Chain) -> ChainMap:
    steps = (*one.steps, f"{one.target:x}")
    return chain(steps, " -> ".join(steps))
