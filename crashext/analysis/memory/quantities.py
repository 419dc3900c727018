"""Quantities of an accounting of memory, as plain data. In bytes, unless it says pages."""

from __future__ import annotations

from dataclasses import dataclass

from crashext.analysis.memory.pagegroups import PageGroup

_TOLERANCE = 256 << 10
_RELATIVE = 0.01


@dataclass(frozen=True, slots=True)
class Line:
    """A line of /proc/meminfo, in bytes."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Check:
    """One quantity counted both ways, in bytes."""

    name: str
    counted: int
    """By the kernel's counters."""
    found: int
    """By page frames."""

    @property
    def difference(self) -> int:
        return self.found - self.counted

    @property
    def agrees(self) -> bool:
        """Within 1 % or 256 KiB; what only one side can see does not agree, it is not known."""
        if bool(self.counted) != bool(self.found):
            return False
        most = max(_TOLERANCE, int(_RELATIVE * max(self.counted, self.found)))
        return abs(self.difference) <= most


@dataclass(frozen=True, slots=True)
class Reserved:
    """Memory that was never given to the page allocator: outside MemTotal. In bytes."""

    total: int
    image: int
    """Of the kernel image, what was not given away after boot."""
    memory_map: int
    """The struct pages, wherever they are."""
    percpu: int
    """The first chunk of per-CPU memory."""


@dataclass(frozen=True, slots=True)
class Order:
    """Allocations of 2**order pages."""

    order: int
    blocks: int
    pages: int


@dataclass(frozen=True, slots=True)
class Unaccounted:
    """The page frames that nothing accounts for."""

    pages: int
    orders: tuple[Order, ...]
    """As they were allocated; estimated where `looked` is fewer than `pages`."""
    looked: int
    groups: tuple[PageGroup, ...]
    sampled: int
    unreadable: int
    """Of the sampled pages: not in the dump."""
    with_kmalloc: int
    """Pages of large kmalloc()s that could not be told from the rest, and are among `pages`."""
