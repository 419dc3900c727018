"""What an unreachable object itself tells of why it is no leak."""

from __future__ import annotations

from collections.abc import Iterable

from crashext.analysis.likeness.words import Kind
from crashext.analysis.results.reports import Word
from crashext.kernel.origin.notleaks import explanation

_SYMBOLS = (Kind.TEXT_SYMBOL.label, Kind.DATA_SYMBOL.label)


def no_leak(words: Iterable[Word]) -> str:
    """Why the kernel itself does not count an object of these words as leaked; "" where it does."""
    symbols = {w.meaning.split("+")[0].split(" ")[0] for w in words if w.kind in _SYMBOLS}
    return explanation(sorted(symbols))
