"""Drawings as numbers: where each rectangle, line and word of a figure stands, in units of 1/1000
of its width. The templates print them as SVG; nothing is judged here.

Plain SVG from a template, and no library of charts: those bring megabytes of script that a policy
of content must allow, and have no chart of an object's words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from crashext.wording import percent_of, size_text

WIDTH = 1000
_CHARACTER = 7.4
"""Width of one in a drawing's letters."""
_NARROWEST = 0.6
_ROW = 30


@dataclass(frozen=True, slots=True)
class Node:
    """An amount and what it is made of."""

    name: str
    bytes: int
    tone: str
    """``free``, ``user``, ``kernel``, ``other`` or ``lost``: its colour."""
    parts: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    tone: str
    label: str
    """"" where it does not fit."""
    says: str
    """On hover."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """Amounts as widths; what each is made of stands below it."""

    form: ClassVar[str] = "boxes"
    height: float
    boxes: tuple[Box, ...]
    legend: tuple[tuple[str, str], ...]
    """(tone, what it means)"""
    describes: str


@dataclass(frozen=True, slots=True)
class WordCell:
    """One word of an object in its picture."""

    x: float
    y: float
    kind: str
    short: str
    """What stands in the cell: no colour is needed to tell kinds apart."""
    bar: float
    """Width of the bar that says how many of the group have this very value."""
    says: str


@dataclass(frozen=True, slots=True)
class ObjectMap:
    """An object's words in order, a line of the CPU's cache (64 bytes) in a row."""

    form: ClassVar[str] = "object"
    height: float
    cells: tuple[WordCell, ...]
    offsets: tuple[tuple[float, str], ...]
    """(y, offset of the row's first byte)"""
    legend: tuple[tuple[str, str], ...]
    describes: str


@dataclass(frozen=True, slots=True)
class Link:
    x: float
    y: float
    width: float
    text: str
    tone: str = ""
    """``nothing`` where nobody stands there, ``lost`` for what nobody leads to."""


@dataclass(frozen=True, slots=True)
class ChainMap:
    """How an object is reached, or that it is not: one link points at the next."""

    form: ClassVar[str] = "chain"
    height: float
    links: tuple[Link, ...]
    describes: str


@dataclass(frozen=True, slots=True)
class Curve:
    name: str
    points: str
    """Of an SVG polyline."""
    marks: tuple[tuple[float, float, str], ...]
    """(x, y, what it says)"""
    number: int


@dataclass(frozen=True, slots=True)
class Plot:
    """Amounts over time."""

    form: ClassVar[str] = "plot"
    height: float
    curves: tuple[Curve, ...]
    ticks: tuple[tuple[float, str], ...]
    """(y, amount)"""
    marks: tuple[tuple[float, str], ...]
    """(x, moment)"""
    describes: str


Drawing = Boxes | ObjectMap | ChainMap | Plot


def boxes(roots: Sequence[Node], legend: Sequence[tuple[str, str]], describes: str) -> Boxes:
    """Parts that add up to more than their whole, as counters may, are drawn in proportion."""
    total = sum(max(0, n.bytes) for n in roots) or 1
    found: list[Box] = []

    def draw(nodes: Sequence[Node], x: float, width: float, whole: int, depth: int) -> None:
        scale = width / max(whole, sum(max(0, n.bytes) for n in nodes), 1)
        for node in nodes:
            wide = max(0, node.bytes) * scale
            if wide >= _NARROWEST:
                says = f"{node.name}: {size_text(node.bytes)}, {percent_of(node.bytes, total)}"
                label = _label(node, wide - 8)
                box = (round(x, 1), depth * (_ROW + 2), round(wide, 1), _ROW)
                found.append(Box(*box, node.tone, label, says))
                draw(node.parts, x, wide, node.bytes, depth + 1)
            x += wide

    draw(roots, 0, WIDTH, total, 0)
    height = max((b.y + b.height for b in found), default=_ROW)
    seen = {b.tone for b in found}
    return Boxes(height, tuple(found), tuple(row for row in legend if row[0] in seen), describes)


def _label(node: Node, width: float) -> str:
    """Its name, and its size where there is room for both."""
    both = f"{node.name}  {size_text(node.bytes)}"
    return both if len(both) <= width / _CHARACTER else fitting(node.name, width)


def fitting(text: str, width: float) -> str:
    """As much of `text` as fits; "" where that would say nothing."""
    room = int(width / _CHARACTER)
    if len(text) <= room:
        return text
    return f"{text[: room - 2]}.." if room >= 6 else ""


_LINK_ROW, _GAP, _LINK_MOST = 34, 34, 300


def chain(names: Sequence[str], describes: str, tones: Sequence[str] = ()) -> ChainMap:
    """Boxes from left to right, in as many rows as they need. `tones` are of the first links."""
    placed: list[Link] = []
    x, y = 2.0, 4.0
    for i, text in enumerate(names):
        width = min(_LINK_MOST, len(text) * _CHARACTER + 20)
        if placed and x + width > WIDTH:
            x, y = _GAP, y + _LINK_ROW + 14
        shown = fitting(text, width - 10) or text[:3]
        tone = tones[i] if i < len(tones) else ""
        placed.append(Link(round(x, 1), y, round(width, 1), shown, tone))
        x += width + _GAP
    return ChainMap(y + _LINK_ROW + 4, tuple(placed), describes)


_LEFT, _TOP, _PLOT = 110, 12, 240


def plot(
    series: Sequence[tuple[str, Sequence[int]]], moments: Sequence[str], describes: str
) -> Plot:
    """Bytes of each series at every moment; the scale begins at 0."""
    return _plot(series, moments, describes, size_text)


def counts_plot(
    series: Sequence[tuple[str, Sequence[int]]], moments: Sequence[str], describes: str
) -> Plot:
    """The same of counts."""
    return _plot(series, moments, describes, lambda n: f"{n:,}")


def _plot(
    series: Sequence[tuple[str, Sequence[int]]],
    moments: Sequence[str],
    describes: str,
    written: Callable[[int], str],
) -> Plot:
    most = max((v for _, values in series for v in values), default=0) or 1
    count = max(2, *(len(values) for _, values in series))
    across = (WIDTH - _LEFT - 20) / (count - 1)
    curves = []
    for number, (name, values) in enumerate(series):
        marks = tuple(
            (
                round(_LEFT + i * across, 1),
                round(_TOP + _PLOT * (1 - max(0, v) / most), 1),
                f"{name}: {written(v)}",
            )
            for i, v in enumerate(values)
        )
        curves.append(Curve(name, " ".join(f"{x},{y}" for x, y, _ in marks), marks, number))
    ticks = tuple((_TOP + _PLOT * (1 - i / 4), written(most * i // 4)) for i in range(5))
    named = tuple((round(_LEFT + i * across, 1), m) for i, m in enumerate(moments[:count]))
    return Plot(_TOP + _PLOT + 34, tuple(curves), ticks, named, describes)
