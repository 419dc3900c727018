"""What a verdict is. It knows no rule."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Culprit:
    """Who has the memory; "" where nothing says."""

    cache: str = ""
    caller: str = ""
    module: str = ""
    process: str = ""
    """``comm (pid 12)``"""
    mount: str = ""


@dataclass(frozen=True)
class Verdict:
    """One thing that is to be said of the machine."""

    kind: str
    """leak, held-growth, deferred-free, reclaimable, fragmentation, user-space, healthy,
    cannot-tell."""
    where: str
    """slab, vmalloc, pages, user, none."""
    culprit: Culprit
    bytes: int
    confidence: str
    """high, medium, low."""
    says: str
    """The verdict in a sentence."""
    evidence: tuple[str, ...]
    against: tuple[str, ...]
    next: str
    """The one next command; analysis/verdict/commands.py says in what form."""
