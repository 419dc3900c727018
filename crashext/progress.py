"""How long work tells what it is doing. Whoever watches decides how that looks."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""(what, done, total) while something long goes on."""


def silent(what: str, done: int, total: int) -> None:
    """Progress for those who do not watch."""
