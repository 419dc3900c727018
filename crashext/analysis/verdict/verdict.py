"""What a verdict is, and the words that verdicts share. It knows no rule."""

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
    """The one next command."""


def share(part: int, whole: int) -> str:
    """``12 %``, ``0.52 %``"""
    return share_text(part / whole if whole else 0.0)


def share_text(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{100 * value:.2g} %"


def bracketed(caller: str, module: str) -> str:
    """``caller [module]``, the module where there is one and the caller does not say it."""
    return f"{caller} [{module}]" if module and "[" not in caller else caller


def plural(n: int, noun: str) -> str:
    """``1 area``, ``2 areas``"""
    return f"{n:,} {noun}" + ("s" if n != 1 else "")
