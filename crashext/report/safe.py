"""Strings from a dump are hostile: nothing in them may reach a terminal as a control sequence."""

from __future__ import annotations


def safe(text: str) -> str:
    """`text` with everything that is not printable ASCII as a backslash escape.

    Names and texts in a kernel are ASCII; a byte beyond it in a dump is damage or an attack.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in text
    )
