"""How large a generated machine is, and what is in it."""

from __future__ import annotations

from dataclasses import dataclass

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
SECTION = 128 * MIB


STACK_PAGES = 4


@dataclass(frozen=True)
class Crowd:
    """What there are very many of; pages of areas and of stacks should fill sections."""

    areas: int = 0
    """vmalloc areas of one page, which nobody knows."""
    tasks: int = 0
    """Kernel threads that sleep."""
    caches: int = 0
    """Caches with one slab each, whose objects are held in a chain."""

    cgroups: int = 0
    """Memory cgroups, half of which were removed, but are kept."""
    cgroups_lost: int = 0
    """More that nobody knows."""

    @property
    def kernel(self) -> int:
        """Bytes of what areas and stacks map."""
        return (self.areas + self.tasks * STACK_PAGES) * 4096

    @property
    def pages(self) -> int:
        """Pages of structures that it takes, about."""
        return self.areas // 20 + self.tasks * 3 + self.caches * 2 + self.cgroups * 3 + 1024


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
    apart: bool = False
    """Every page of leaked objects has bytes of its own in the file, which is as large then."""
    crowd: Crowd = Crowd()
    cpus: bool = False
    """The last CPU has slabs of its own, and objects that nobody else knows."""
    held: int = 0
    """Bytes of each cache in `held_in` that are slabs full of held objects."""
    held_in: tuple[str, ...] = ("kmalloc-64",)
    seed: int = 1

    @property
    def all_held(self) -> int:
        """Bytes of all slabs full of held objects."""
        return self.held * len(self.held_in)

    @property
    def user(self) -> int:
        """Bytes that are a process's own memory."""
        return self.memory - self.leaked - self.free - self.all_held - self.crowd.kernel


SHAPES = {
    "4G": Shape(4 * GIB, GIB // 2, GIB // 2),
    "areas": Shape(5 * GIB, GIB // 4, GIB // 2, crowd=Crowd(areas=1 << 20)),
    "tasks": Shape(5 * GIB, GIB // 4, GIB // 2, crowd=Crowd(tasks=3 << 15)),
    "caches": Shape(4 * GIB, GIB // 4, GIB // 2, crowd=Crowd(caches=20_000)),
    "cgroups": Shape(4 * GIB, GIB // 4, GIB // 2, crowd=Crowd(cgroups=102_400, cgroups_lost=512)),
    "held": Shape(4 * GIB, 0, GIB // 2, held=2 * SECTION),
    "held more": Shape(4 * GIB, 0, GIB // 2, held=8 * SECTION),
    "held most": Shape(
        12 * GIB,
        0,
        GIB // 2,
        held=7 * SECTION,
        held_in=("kmalloc-32", "kmalloc-64", "kmalloc-96", "kmalloc-128"),
    ),
    "many": Shape(4 * GIB, GIB // 8, GIB // 2),
    # The report's: 419 million objects of 32 bytes on 200 GB; 13 GB of disk.
    "ticket": Shape(200 * GIB, 100 * SECTION, 16 * GIB, apart=True),
    "64G": Shape(64 * GIB, 8 * GIB, 8 * GIB),
    "1T": Shape(TIB, 64 * GIB, 64 * GIB),
    "24T": Shape(24 * TIB, 512 * GIB, TIB, partial=4096, hole=2 * TIB // 32, whole=False),
}
