"""From stacks to allocation sites: frames by name, and which of them asked for the memory.

The *site* is the first frame that is not the allocator's own, because every stack begins inside
kmalloc() or the page allocator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from crashext.hosts.base import Host

_ALLOCATOR = re.compile(
    r"_*(?:"
    # slab, and what wraps it without a purpose of its own
    r"kmalloc(?!_reserve|_pfmemalloc)\w*|kvmalloc\w*|k[vcz]?alloc|kzalloc\w*|kcalloc\w*"
    r"|kvzalloc\w*|kvcalloc\w*|k[v]?realloc\w*|kmem_cache_z?alloc\w*|slab_alloc\w*|do_slab_alloc"
    r"|slab_post_alloc_hook|new_slab\w*|allocate_slab|alloc_slab_page|get_partial\w*"
    r"|refill_objects\w*|alloc_from_pcs\w*|alloc_from_new_slab\w*"
    r"|kmemdup\w*|kstrn?dup\w*|k?memdup_user\w*|memdup_user\w*|kv?asprintf\w*"
    r"|devm_k\w*alloc\w*|devm_kmemdup\w*|devm_kstrdup\w*"
    # the page allocator
    r"|alloc_pages?(?:_\w+)?|alloc_frozen_pages\w*|folio_alloc\w*|get_page_from_freelist"
    r"|get_free_pages\w*|get_zeroed_page\w*|prep_new_page|post_alloc_hook|vmalloc\w*|vzalloc\w*"
    # those who take the note
    r"|set_track\w*|save_stack\w*|stack_trace_save\w*|stack_depot_save\w*|set_page_owner\w*"
    r"|kmemleak_alloc\w*|create_object|link_alloc\w*|kasan_\w+|mempool_alloc\w*|mempool_kmalloc"
    r")"
)
_COMPILER = re.compile(r"(?:\.(?:constprop|isra|part|cold|llvm)(?:\.\d+)?)+$")

Stack = tuple[int, ...]


@dataclass(frozen=True)
class StackFrame:
    """One return address, named."""

    function: str
    """"" where nothing has a name there."""
    offset: int
    module: str
    address: int

    @property
    def text(self) -> str:
        """``function+0x1a [module]``"""
        return self.site + (f" [{self.module}]" if self.module else "")

    @property
    def site(self) -> str:
        """``function+0x1a``: without the function's size, which crash does not know."""
        return f"{self.function}+{self.offset:#x}" if self.function else f"{self.address:#x}"

    @property
    def of_allocator(self) -> bool:
        """Whether the function allocates for others."""
        return bool(_ALLOCATOR.fullmatch(_COMPILER.sub("", self.function)))


class FrameNames:
    """Frames of one kernel; each address is looked up once."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._known: dict[int, StackFrame] = {}

    def frame(self, address: int) -> StackFrame:
        """A return address: the instruction before it is the call, and names the function."""
        if address not in self._known:
            self._known[address] = self._look_up(address)
        return self._known[address]

    def _look_up(self, address: int) -> StackFrame:
        symbol = self._host.symbol_at(address - 1) if address else None
        if symbol is None:
            areas = ((m.name, a, b) for m in self._host.modules() for a, b in m.ranges)
            module = next((name for name, a, b in areas if a <= address < b), "")
            return StackFrame("", 0, module, address)
        return StackFrame(symbol.name, address - symbol.address, symbol.module, address)

    def site(self, stack: Stack) -> StackFrame:
        """The frame of a stack (not empty) that asked for the memory."""
        frames = [self.frame(address) for address in stack]
        return next((f for f in frames if not f.of_allocator), frames[0])
