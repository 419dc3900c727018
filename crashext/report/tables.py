"""Tables without borders that fit the window: no name and no number in them is ever broken.

Where a row is too long, its last text goes on below itself; where that has no room, it stands on a
line of its own, and so does a name that is longer than the room beside the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crashext.report.lines import folded, line

if TYPE_CHECKING:
    from rich.console import Console

INDENT = 4
_GAP = 2
_LEAST_NAME = 16
_LEAST_TEXT = 20
_STEP = 2

Row = tuple[tuple[str, ...], str]
"""Cells and style."""


@dataclass
class Table:
    """Cells are safe for a terminal. The first column is a name unless `sides` says right."""

    sides: str
    """A letter a column: l left, r right (numbers), and as the last one t, text that is folded."""
    indent: int = INDENT
    head: Row | None = None
    rows: list[Row] = field(default_factory=list)

    def heads(self, *cells: str, style: str = "dim") -> None:
        self.head = (cells, style)

    def row(self, *cells: str, style: str = "") -> None:
        self.rows.append((cells, style))

    def lines(self, width: int) -> list[tuple[str, str]]:
        """The lines of it and their styles, none wider than `width` but for what has no blank."""
        kept = [i for i in range(len(self.sides)) if any(cells[i] for cells, _ in self.rows)]
        sides = "".join(self.sides[i] for i in kept)
        every = [*([self.head] if self.head else []), *self.rows]
        rows = [(tuple(cells[i] for i in kept), style) for cells, style in every]
        return _Layout(sides, [cells for cells, _ in rows], self.indent, width).lines(rows)


def show_table(console: Console, table: Table) -> None:
    for text, style in table.lines(console.width):
        line(console, text, style)


class _Layout:
    """Where the columns of one table stand."""

    def __init__(self, sides: str, rows: Sequence[Sequence[str]], indent: int, width: int) -> None:
        self.text = sides.endswith("t")
        self.sides = sides.removesuffix("t")
        self.indent, self.width = indent, width
        columns = range(len(self.sides))
        self.widths = [max((len(row[i]) for row in rows), default=0) for i in columns]
        self.stacked = False
        self._fit_name()
        longest = max((len(row[-1]) for row in rows), default=0) if self.text else 0
        room = width - self._end() - _GAP
        self.beside = room >= min(longest, _LEAST_TEXT)
        self.room = room

    def _end(self) -> int:
        """The column after the last that is not text."""
        shown = self.widths[1:] if self.stacked else self.widths
        return self.indent + _STEP * self.stacked + sum(shown) + _GAP * max(0, len(shown) - 1)

    def _fit_name(self) -> None:
        """Give the name what numbers leave; where that is next to nothing, a line of its own."""
        over = self._end() - self.width
        if over > 0 and self.sides.startswith("l") and len(self.sides) > 1:
            self.stacked = self.widths[0] - over < _LEAST_NAME
            self.widths[0] -= 0 if self.stacked else over

    def lines(self, rows: Sequence[Row]) -> list[tuple[str, str]]:
        return [(text, style) for cells, style in rows for text in self._row(cells)]

    def _row(self, cells: Sequence[str]) -> list[str]:
        margin, found = " " * self.indent, []
        parts = list(cells[:-1] if self.text else cells)
        shown = list(zip(parts, self.sides, self.widths, strict=True))
        if self.stacked:
            found += [margin + parts[0]] if parts[0] else []
            shown, margin = shown[1:], margin + " " * _STEP
        elif self.sides.startswith("l") and len(parts[0]) > self.widths[0]:
            found.append(margin + parts[0])
            shown[0] = ("", *shown[0][1:])
        gap = " " * _GAP
        row = margin + gap.join(f"{c:{'>' if s == 'r' else '<'}{w}}" for c, s, w in shown)
        if not self.text or not cells[-1]:
            return [*found, row.rstrip()]
        word = max(map(len, cells[-1].split()))
        if self.beside and word <= self.room:
            start = row + gap if shown else margin
            return [*found, *folded(start + cells[-1], self.width, len(start))]
        return [*found, row.rstrip(), *folded(margin + " " * _STEP + cells[-1], self.width)]
