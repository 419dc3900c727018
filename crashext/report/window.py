"""How wide a line may be: the terminal's width that it will be read on, as far as anybody knows.

COLUMNS wins, for whoever exports it means it. What goes into a pipe is mostly read through a pager
on the terminal that the command was typed on, and what goes into a file is shown there later.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

NARROWEST = 60
UNKNOWN = 120
"""Without any terminal nobody reads yet: fewer folds serve grep and a ticket's box alike."""
_ENDLESS = 1 << 16


def output_width() -> int:
    """Columns of a report on standard output."""
    return _at_least(_exported() or _first(sys.stdout, sys.stderr, sys.stdin) or UNKNOWN)


def message_width() -> int:
    """Columns of a message on standard error: it is one line where no terminal shows it."""
    shown = _first(sys.stderr)
    return _at_least(_exported() or shown) if shown else _ENDLESS


def _at_least(columns: int) -> int:
    return max(columns, NARROWEST)


def _exported() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and columns.isascii() else 0


def _first(*streams: TextIO | None) -> int:
    """Columns of the first that is a terminal; 0: none is."""
    for stream in streams:
        try:
            columns = os.get_terminal_size(stream.fileno()).columns if stream is not None else 0
        except (OSError, ValueError):  # no terminal; closed, or no file at all
            continue
        if columns:
            return columns
    return 0
