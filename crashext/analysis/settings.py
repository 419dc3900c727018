"""What a user may set about an analysis. It imports nothing: arguments are parsed before numpy."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_THRESHOLD = 0.7
METRICS = ("hamming", "indel", "levenshtein")
"""How bytes are compared: distances of rapidfuzz."""
MEMORY_BUDGET = 500 << 20
"""Bytes that the engine may use for the pass over all memory."""


@dataclass(frozen=True)
class Settings:
    """How objects are drawn and compared."""

    samples: int
    seed: int
    threshold: float
    metric: str
    hops: int


DEFAULTS = Settings(samples=250_000, seed=0, threshold=DEFAULT_THRESHOLD, metric="hamming", hops=1)
