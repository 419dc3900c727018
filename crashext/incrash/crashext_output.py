"""Printing to crash's current output, which may be a terminal, a file, or a pipe nobody reads."""

import os
import sys


def prepare() -> None:
    """Text from a kernel must not fail on PyKdump's ASCII streams, nor wait in a buffer."""
    # PyKdump's sys.stdout is always a TextIOWrapper.
    sys.stdout.reconfigure(  # type: ignore[union-attr]
        encoding="utf-8", errors="backslashreplace", line_buffering=True
    )


def write(text: str) -> None:
    """Print now, past sys.stdout: what that one cannot write it complains of, when it is closed."""
    try:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), text.encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # its reader is gone, or the disk full: nothing that could be said, and nowhere


def tell(line: str) -> None:
    """Print one line now."""
    write(line + "\n")


def say(program: str, what: str, mend: str = "") -> None:
    """One line of a program's: what is wrong, and what to do."""
    tell("{}: {}{}".format(program, what, "; " + mend if mend else ""))


def end_line() -> None:
    """The terminal showed ^C: what comes next, be it the prompt, begins on a line of its own."""
    try:
        if os.isatty(2):
            os.write(2, b"\n")
    except OSError:
        pass
