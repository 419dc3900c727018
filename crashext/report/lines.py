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
STUCK = "\v"
"""A blank where no line is folded, as between a number and its unit."""
_WORD = re.compile(r"(?:-[a-z] )?(?:'[^']*'|\"[^\"]*\"|[^ ])+")
"""A word of a shell's, with the short option that it is the value of."""
_STEP = 2
_ROOM = 20
_MARK = re.compile(r" *(?:- )?")
_UNIT = re.compile(r"(?<=\d) (?=(?:%|bytes|[KMGT]iB)(?!\w))")
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
        return continued(command, indent, width)
    if COLUMN in text:
        hang = text.index(COLUMN)
        text = text.replace(COLUMN, "", 1)
    if len(text) <= width:
        return [text.rstrip().replace(STUCK, " ")]
    mark = _MARK.match(text)
    start = mark.end() if mark else 0
    if hang is None or hang > width - _ROOM:
        hang = min(start if text[:start].endswith("- ") else start + _STEP, width - _ROOM)
    lines, rest, room, least = [], _UNIT.sub(STUCK, text.rstrip()), width, start
    while len(rest) > room:
        at = rest.rfind(" ", least + 1, room + 1)
        at = at if at > least else room
        lines.append(rest[:at].rstrip())
        rest, room, least = rest[at:].lstrip(), width - hang, 0
    lines.append(rest)
    lines = [part.replace(STUCK, " ") for part in lines]
    return [lines[0], *(" " * hang + part for part in lines[1:] if part)]


def continued(command: str, label: str, width: int) -> list[str]:
    """A shell command behind `label`, in lines that end in a backslash; a word alone may be too
    long. Further lines begin a step further in than the label."""
    hang = " " * (len(label) - len(label.lstrip()) + _STEP)
    lines = [label]
    for word in _WORD.findall(command):
        blank = " " * (len(lines) > 1 or lines[0] != label)
        if lines != [label] and len(lines[-1]) + len(blank + word) + len(" \\") > width:
            lines.append(hang + word)
        else:
            lines[-1] += blank + word
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def without_trailing_blanks(page: str) -> str:
    """What was printed, with tables no wider than what is in them."""
    return _ENDS.sub("", page)
