"""How large a generated machine is, and what is in it."""

from __future__ import annotations

from dataclasses import dataclass

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
SECTION = 128 * MIB


@dataclass(frozen=True)
class Shape:
    """One machine, without what the base dump has."""

    memory: int
    """Bytes that are added to the base dump's, holes apart."""
    leaked: int
    """Bytes of it that are slabs full of leaked objects."""
    free: int
    """Bytes that are free."""
    partial: int = 256
    """Slabs more of leaked objects, with free slots among them."""
    hole: int = 2 * SECTION
    """Bytes of the address space behind each node's memory that nothing is at."""
    whole: bool = True
    """User and free pages are in the dump, as zeros; else they were left out when it was made."""
    seed: int = 1

    @property
    def user(self) -> int:
        """Bytes that are a process's own memory."""
        return self.memory - self.leaked - self.free


SHAPES = {
    "4G": Shape(4 * GIB, GIB // 2, GIB // 2),
    "64G": Shape(64 * GIB, 8 * GIB, 8 * GIB),
    "1T": Shape(TIB, 64 * GIB, 64 * GIB),
    "24T": Shape(24 * TIB, 512 * GIB, TIB, partial=4096, hole=2 * TIB // 32, whole=False),
}
