"""What an answer leaves out: said with every answer, whoever gives it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that could not be read or decided, and how that limits the answer."""

    what: str
    count: int
    effect: str
