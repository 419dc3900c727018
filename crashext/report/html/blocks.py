"""What a page is made of: plain data between a result and the templates. It knows no HTML.

Strings are as the dump has them: `page.py` makes every one of them safe, wherever it is printed.
Each class names the macro of `templates/blocks.html` that draws it in `form`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from crashext.report.html.figures import Drawing
from crashext.wording import size_text

Tone = Literal["", "bad", "warn", "good", "quiet", "code"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table."""

    text: str
    value: int | None = None
    """The number that the text stands for, as the JSON document has it."""
    tone: str = ""
    """A `Tone`, or ``kind-…`` for a kind of word."""


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    number: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """The first column names the row."""

    form: ClassVar[str] = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    more: int = 0
    """Rows that were left out."""
    total: tuple[Cell, ...] = ()
    """The last row, where it is a sum."""


@dataclass(frozen=True, slots=True)
class Line:
    """A paragraph."""

    form: ClassVar[str] = "line"
    text: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Points:
    """A list under a few words."""

    form: ClassVar[str] = "points"
    title: str
    items: tuple[str, ...]
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """Names and what they stand for."""

    form: ClassVar[str] = "terms"
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A command."""

    place: str
    """Where it can be typed; "" where the report was made."""
    command: str
    why: str
    """What it tells."""


@dataclass(frozen=True, slots=True)
class Commands:
    form: ClassVar[str] = "commands"
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    form: ClassVar[str] = "figure"
    caption: str
    drawing: Drawing
    tone: Tone = ""
    """Of the caption."""


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks that are folded away."""

    form: ClassVar[str] = "details"
    summary: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """Blocks about one thing, with a heading of their own."""

    form: ClassVar[str] = "card"
    title: str
    blocks: tuple[Block, ...]
    tags: tuple[tuple[str, Tone], ...] = ()
    """Words before the heading: the class of a verdict, its confidence."""


Block = Table | Line | Points | Terms | Commands | Figure | Details | Card


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report."""

    title: str
    """What the window is called."""
    answer: str
    """The answer in one sentence."""
    tags: tuple[tuple[str, Tone], ...]
    subtitle: str
    sections: tuple[Section, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much of a long report is shown."""

    rows: int
    """Of a table, cards of a section, and caches."""
    words: int
    """Words of an object."""
    text: int
    """Characters of one string."""


AMOUNTS = (Amounts(40, 512, 2000), Amounts(12, 64, 200), Amounts(4, 16, 100))
"""The first is ample; each next is for where a page would be too large to send."""


def number(value: int, tone: str = "", text: str = "") -> Cell:
    return Cell(text or f"{value:,}", value, tone)


def size(value: int, tone: str = "") -> Cell:
    return Cell(size_text(value), value, tone)


def table(
    caption: str, columns: str, rows: Sequence[Sequence[Cell]], most: int
) -> tuple[Table, ...]:
    """The table's first `most` rows; no table where there are none.

    `columns` are titles with `` | `` between; ``#`` ends that of numbers.
    """
    if not rows:
        return ()
    shown = tuple(tuple(row) for row in rows[:most])
    heads = tuple(Column(c.removesuffix("#"), c.endswith("#")) for c in columns.split(" | "))
    return (Table(caption, heads, shown, max(0, len(rows) - most)),)
