"""From stacks to allocation sites: frames by name, and which of them asked for the memory.

The *site* is the first frame beyond those that allocate for others (`crashext.allocators`).
"""

from __future__ import annotations

from dataclasses import dataclass

from crashext.allocators import beyond_helpers
from crashext.hosts.base import Host

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
        return frames[beyond_helpers(f.function for f in frames) or 0]
