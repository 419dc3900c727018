"""/proc/vmallocinfo: every area of vmalloc space, and who asked for it.

Source: mm/vmalloc.c, 2.6.28 to 6.18. Addresses are hashes unless kptr_restrict allows more, so
nothing here relies on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from crashext.hosts.base import U64

_MAX_AREAS = 1 << 19
_AREA = re.compile(
    r"\s*(?:0x)?([0-9a-fA-F]{1,16}|\(_*ptrval_*\))-(?:0x)?([0-9a-fA-F]{1,16}|\(_*ptrval_*\))"
    r"\s+(\d{1,19})(?:\s+(\S.*))?\s*",
    re.ASCII,
)
_CALLER = re.compile(r"([^\s=]{1,600}?)(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?", re.ASCII)
_MODULE = re.compile(r"\[([\w-]{1,64})\]", re.ASCII)
_PAGES = re.compile(r"pages=(\d{1,15})", re.ASCII)
_PHYS = re.compile(r"phys=(?:0x)?([0-9a-fA-F]{1,16})", re.ASCII)
_NODE = re.compile(r"N\d{1,5}=\d{1,15}", re.ASCII)
_FLAGS = frozenset(("ioremap", "vmalloc", "vmap", "user", "vpages", "dma-coherent", "sparse"))
_NO_CALLER = frozenset(("unpurged vm_area", "vm_map_ram"))

# Whoever clones a task, under the name that the compiler left: with VMAP_STACK (4.9+), stacks are
# vmalloc areas, and meminfo counts them as KernelStack as well.
STACK_CALLERS = frozenset(
    (
        "alloc_thread_stack_node",
        "dup_task_struct",
        "copy_process",
        "kernel_clone",
        "_do_fork",
        "do_fork",
        "fork_idle",
        "create_io_thread",
        "kernel_thread",
        "user_mode_thread",
    )
)


@dataclass(frozen=True, slots=True)
class VmallocLine:
    """One area."""

    start: U64
    end: U64
    """Addresses as printed: real, or hashes; 0 where the kernel withheld them."""
    size: int
    """Bytes of address space, guard page included."""
    caller: str
    """``kmem_alloc+0x13/0x30``; "" where nobody is noted."""
    function: str
    """The caller without its offset."""
    module: str
    pages: int
    """Pages of memory behind it; 0 where the line names none."""
    flags: tuple[str, ...]
    """``vmalloc``, ``ioremap``, ``vmap``, ``user``, ``vpages``, ...; for areas that belong to
    nobody ``vm_map_ram`` or ``unpurged vm_area``."""
    phys: int | None

    @property
    def is_memory(self) -> bool:
        """Whether vmalloc() allocated the pages: not a mapping of what somebody else owns."""
        return "vmalloc" in self.flags

    @property
    def is_stack(self) -> bool:
        """Whether it is a task's stack, as far as its caller tells."""
        return self.is_memory and not self.module and _bare(self.function) in STACK_CALLERS


@dataclass(frozen=True)
class VmallocCaller:
    """The areas of one function of one module."""

    function: str
    module: str
    areas: int
    pages: int
    """Of vmalloc()'s own pages."""
    size: int
    """Bytes of address space."""
    example: VmallocLine
    """Its largest area."""


@dataclass(frozen=True)
class VmallocInfo:
    """/proc/vmallocinfo."""

    areas: tuple[VmallocLine, ...]
    damaged: int = 0

    @property
    def pages(self) -> int:
        """Pages that vmalloc() allocated, stacks included; meminfo's VmallocUsed since 5.3."""
        return sum(a.pages for a in self.areas if a.is_memory)

    @property
    def stack_pages(self) -> int:
        return sum(a.pages for a in self.areas if a.is_stack)


def parse_vmallocinfo(lines: Iterable[str]) -> VmallocInfo:
    """Every area that has a whole line."""
    areas: list[VmallocLine] = []
    damaged = 0
    for line in lines:
        area = _area(line)
        if area is not None and len(areas) < _MAX_AREAS:
            areas.append(area)
        else:
            damaged += bool(line.strip())
    return VmallocInfo(tuple(areas), damaged)


def by_caller(info: VmallocInfo) -> tuple[VmallocCaller, ...]:
    """Areas with memory of their own summed by calling function, most pages first."""
    sums: dict[tuple[str, str], list[VmallocLine]] = {}
    for area in info.areas:
        if area.is_memory and area.pages:
            sums.setdefault((area.function, area.module), []).append(area)
    callers = [
        VmallocCaller(
            function,
            module,
            len(areas),
            sum(a.pages for a in areas),
            sum(a.size for a in areas),
            max(areas, key=lambda a: a.pages),
        )
        for (function, module), areas in sums.items()
    ]
    return tuple(sorted(callers, key=lambda c: (-c.pages, c.function, c.module)))


def _bare(function: str) -> str:
    return function.split(".", 1)[0]


def _area(line: str) -> VmallocLine | None:
    match = _AREA.fullmatch(line)
    if match is None:
        return None
    start, end = (U64(0 if a.startswith("(") else int(a, 16)) for a in (match[1], match[2]))
    rest = (match[4] or "").strip()
    if rest in _NO_CALLER:
        return VmallocLine(start, end, int(match[3]), "", "", "", 0, (rest,), None)
    words = rest.split()
    caller = function = module = ""
    if words and words[0] not in _FLAGS and (called := _CALLER.fullmatch(words[0])):
        caller, function = words.pop(0), called[1]
        if words and (named := _MODULE.fullmatch(words[0])):
            module = named[1]
            words.pop(0)
    pages, phys, flags = 0, None, []
    for word in words:
        if word in _FLAGS:
            flags.append(word)
        elif found := _PAGES.fullmatch(word):
            pages = int(found[1])
        elif found := _PHYS.fullmatch(word):
            phys = int(found[1], 16)
        elif not _NODE.fullmatch(word):
            return None
    return VmallocLine(
        start, end, int(match[3]), caller, function, module, pages, tuple(flags), phys
    )
