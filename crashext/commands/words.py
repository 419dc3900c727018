"""Words of a command line that are nearly those which show a part of the answer."""

from __future__ import annotations

from crashext.report.topics import TOPICS

_ALIKE = 65  # of 100, as rapidfuzz counts: 'wy', 'memry', 'page'; no name of a cache of 6.1 is


def word_meant(typed: str) -> str:
    """``the word why (every verdict with its evidence)``; "" where none is close."""
    from rapidfuzz import fuzz, process  # for mistakes alone

    found = process.extractOne(typed, list(TOPICS), scorer=fuzz.ratio, score_cutoff=_ALIKE)
    return f"the word {found[0]} ({TOPICS[found[0]]})" if found else ""


def or_word(said: str, typed: str) -> str:
    """What is `said` of a cache or file that there is not, with the word that may be meant."""
    word = word_meant(typed)
    if not word:
        return said
    if said.endswith("?"):
        return f"{said.removesuffix('?')}, or {word}?"
    return f"{said}: did you mean {word}?"
