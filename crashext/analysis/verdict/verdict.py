"""What a verdict is. It knows no rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

Outcome = Literal[
    "leak",
    "deferred-free",
    "held-growth",
    "fragmentation",
    "cannot-tell",
    "known-holder",
    "user-space",
    "reclaimable",
    "healthy",
]
"""What a verdict says, the worst first."""
Where = Literal["slab", "vmalloc", "pages", "user", "none"]
Confidence = Literal["high", "medium", "low"]


@dataclass(frozen=True)
class Culprit:
    """Who has the memory; "" where nothing says."""

    cache: str = ""
    caller: str = ""
    module: str = ""
    process: str = ""
    """``comm (pid 12)``"""
    mount: str = ""


class Verdict(msgspec.Struct, frozen=True, rename={"kind": "class", "evidence": "for"}):
    """One thing that is to be said of the machine."""

    kind: Outcome
    where: Where
    culprit: Culprit
    bytes: int
    confidence: Confidence
    says: str
    """The verdict in a sentence."""
    evidence: tuple[str, ...]
    against: tuple[str, ...]
    next: str
    """The one next command, plain: crash's begin with ``crash> ``; after `` # ``, what it tells."""
    overturned_by: str = ""
    """What would show that it is wrong, though nothing that was seen speaks against it."""
