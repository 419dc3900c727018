"""Lines of text in a window: none is wider, and what is folded hangs under its own text.

Callers hand in text that is safe for a terminal: printable ASCII, so that a character is a column.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a mistake is told without it, which takes a while to import
    from rich.console import Console

COLUMN = "\t"
"""Before a row's last column: what is folded hangs there. No string of a dump has one."""
COMMAND = "\f"
"""Before a command for a shell: what is folded goes on behind a backslash, and never in quotes."""
_WORD = re.compile(r"(?:'[^']*'|\"[^\"]*\"|[^ ])+")
_STEP = 2
_ROOM = 20
_MARK = re.compile(r" *(?:- )?")
_UNIT = re.compile(r"(?<=\d) (?=(?:%|bytes|[KMGT]iB)(?!\w))")
_STUCK = "\v"
"""A blank between a number and its unit, where no line is folded. Printable text has none."""
_ENDS = re.compile(r" +(?=(?:\x1b\[[0-9;]*m| )*$)", re.MULTILINE)


def line(console: Console, text: str, style: str = "", hang: int | None = None) -> None:
    """Print one line; what does not fit goes on at column `hang`, by default a step further in."""
    for part in folded(text, console.width, hang):
        console.print(part, style=style, soft_wrap=True, markup=False, emoji=False, highlight=False)


def folded(text: str, width: int, hang: int | None = None) -> list[str]:
    """`text` in lines of at most `width` columns."""
    if COMMAND in text:
        indent, _, command = text.partition(COMMAND)
        if len(indent) + len(command) <= width:
            return [indent + command]
        first, *others = continued(command, len(indent), width)
        return [indent + first, *(f"{' ' * len(indent)}  {part}" for part in others)]
    if COLUMN in text:
        hang = text.index(COLUMN)
        text = text.replace(COLUMN, "", 1)
    if len(text) <= width:
        return [text.rstrip()]
    mark = _MARK.match(text)
    start = mark.end() if mark else 0
    if hang is None or hang > width - _ROOM:
        hang = min(start if text[:start].endswith("- ") else start + _STEP, width - _ROOM)
    lines, rest, room, least = [], _UNIT.sub(_STUCK, text.rstrip()), width, start
    while len(rest) > room:
        at = rest.rfind(" ", least + 1, room + 1)
        at = at if at > least else room
        lines.append(rest[:at].rstrip())
        rest, room, least = rest[at:].lstrip(), width - hang, 0
    lines.append(rest)
    lines = [part.replace(_STUCK, " ") for part in lines]
    return [lines[0], *(" " * hang + part for part in lines[1:] if part)]


def continued(command: str, indent: int, width: int) -> list[str]:
    """A shell command in lines that end in a backslash; a word alone may be too long."""
    lines: list[str] = []
    for word in _WORD.findall(command):
        room = width - indent - len(" \\") - (2 if len(lines) > 1 else 0)
        if lines and len(lines[-1]) + 1 + len(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]] if lines else [""]


def without_trailing_blanks(page: str) -> str:
    """What was printed, with tables no wider than what is in them."""
    return _ENDS.sub("", page)
