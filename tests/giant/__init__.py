"""A large machine without one: a real kernel's dump, extended to any size.

    python -m tests.giant 24T OUT.vmcore

Every structure of the base dump stays as the real kernel wrote it. What is added is written as the
kernel would have: sections of the memory map and the page tables that lead to them, slabs with
their freelists, counters. The same few pages stand for very many: their struct pages are mapped
again and again by the page tables (as the kernel itself does for tails of huge pages), their
content by overlapping segments of the ELF file.
"""

from .make import make
from .shape import SHAPES, Shape

__all__ = ["SHAPES", "Shape", "make"]
