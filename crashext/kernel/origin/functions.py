"""Functions, disassembled when somebody asks, and words of the dump that their code names."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property

from crashext.hosts.base import Host, ReadFault, Symbol
from crashext.kernel.access import UnknownLayout, u64
from crashext.kernel.addresses import address_space
from crashext.kernel.origin.code import MOST_CODE
from crashext.kernel.origin.compiled_code import code_of
from crashext.kernel.origin.constants import Constants
from crashext.kernel.origin.readers import Reader
from crashext.kernel.origin.text import Text

_MOST_WITHOUT_SIZE = 1 << 14
_MOST_KEPT = 1 << 18  # instructions, of some 80 bytes


class Functions:
    """What was read of them is kept, and the last ones that were disassembled."""

    def __init__(self, host: Host, reader: Reader, kept: Text) -> None:
        """`kept` is text that need not be read again."""
        self._host, self.reader, self._kept = host, reader, kept
        self._peeked: dict[int, int | None] = {}
        self._last: dict[int, Constants | None] = {}
        self._kept_now = 0
        self._texts: dict[int, bytes] = {}

    def place(self, call: int, function: Symbol) -> tuple[Constants | None, int]:
        """What is known of registers in a function, and which instruction the call is.

        The last functions are kept: calls come in order of address, with who calls and is called.
        """
        known = self._known(function, call)
        at = None if known is None else known.code.at(call)
        return (None, 0) if at is None else (known, at)

    def whole(self, function: Symbol) -> Constants | None:
        """What is known of registers in a function; None where it cannot be read."""
        return self._known(function, function.address)

    def _known(self, function: Symbol, call: int) -> Constants | None:
        if function.address in self._last:
            return self._last[function.address]
        data = self.text(function, call)
        code = code_of(data, function.address, self.reader.isa) if data else None
        known = None if code is None else self.reader.constants(code, self.peek)
        if function.address:
            self._last[function.address] = known
            self._kept_now += 0 if code is None else len(code.all)
            while self._kept_now > _MOST_KEPT:
                gone = self._last.pop(next(iter(self._last)))
                self._kept_now -= 0 if gone is None else len(gone.code.all)
        return known

    def text(self, function: Symbol, call: int) -> bytes:
        """The function's, which has a call at `call`."""
        known = self._texts.get(function.address, b"")
        if call - function.address >= len(known):
            known = self._read(function, call)
            if function.address:
                self._texts[function.address] = known
        return known

    def _read(self, function: Symbol, call: int) -> bytes:
        # Where only crash names functions, nobody tells how long they are.
        size = function.size or min(call - function.address + 512, _MOST_WITHOUT_SIZE)
        if not function.address or not call - function.address < size <= MOST_CODE:
            return b""
        kept = self._kept.read(function.address, size)
        if kept is not None:
            return kept
        try:
            return self._host.read(function.address, size)
        except ReadFault:
            return b""

    def peek(self, address: int) -> int | None:
        """A word of the dump that code leads to; None where it cannot be read."""
        if address not in self._peeked:
            self._peeked[address] = None
            # In crash a read that fails costs memory: only what constants of code lead to is asked.
            if any(a <= address < b for a, b in self._data):
                with suppress(ReadFault):
                    self._peeked[address] = u64(self._host, address)
        return self._peeked[address]

    @cached_property
    def _data(self) -> list[tuple[int, int]]:
        """[start, end) of the kernel image, of the modules, and of the direct map."""
        areas = image_areas(self._host)
        with suppress(UnknownLayout, ReadFault):
            direct = address_space(self._host).direct
            areas.append((direct.start, direct.end))
        return areas


def image_areas(host: Host) -> list[tuple[int, int]]:
    """[start, end) of the modules and of the kernel image."""
    areas = [area for module in host.modules() for area in module.ranges]
    with suppress(UnknownLayout, ReadFault):
        image = address_space(host).image
        areas.append((image.start, image.end))
    return areas
