"""How long work tells what it is doing. Whoever watches decides how that looks."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""(what, done, total) while something long goes on."""

_FINE = 1000


def silent(what: str, done: int, total: int) -> None:
    """Progress for those who do not watch."""


def part(progress: Progress, first: int, last: int) -> Progress:
    """For a step of the work: what it tells, told as a share of the whole, of which the step is
    from `first` to `last` per cent. Where the step counts anew, as for a second pass over memory,
    the share waits for it."""
    furthest = 0.0

    def told(what: str, done: int, total: int) -> None:
        nonlocal furthest
        furthest = max(furthest, min(1.0, done / max(total, 1)))
        progress(what, round((first + (last - first) * furthest) * _FINE / 100), _FINE)

    return told
