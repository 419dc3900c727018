"""Messages on standard error: what is wrong, what the answer lacks. A line each, folded on a
terminal."""

from __future__ import annotations

import sys

from crashext.report.lines import folded
from crashext.report.safe import safe
from crashext.report.window import message_width


def message(program: str, what: str) -> str:
    """``leakscan: cannot open x: No such file or directory``, with the line's end."""
    return "\n".join(folded(safe(f"{program}: {what}"), message_width(), hang=2)) + "\n"


def tell(program: str, what: str) -> None:
    """Print it."""
    print(message(program, what), end="", file=sys.stderr)
