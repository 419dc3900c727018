"""Addresses as they are typed: numbers, symbols, what lies near one, expressions in crash.

It needs no numpy: a word that means nothing is told at once.
"""

from __future__ import annotations

import re
from typing import Protocol, runtime_checkable

from crashext.hosts.faults import HostError

_NEAR_SYMBOL = re.compile(r"([A-Za-z_][\w.]*) *([+-] *(?:0x[0-9a-fA-F]+|[1-9][0-9]*))")
_NEITHER = "{} is neither a hexadecimal address nor a symbol of this kernel"
_ADDRESS_DIGITS = 8  # a shorter word of letters, such as dead or add, may be a symbol


class Symbols(Protocol):
    """What is asked here of a host."""

    def address_of(self, name: str) -> int | None: ...


@runtime_checkable
class Evaluating(Protocol):
    """A host inside a debugger."""

    def evaluate(self, expression: str) -> int | None:
        """Value of a C expression over the kernel's symbols; None where it has none."""
        ...


def address_of(host: Symbols, text: str) -> int:
    """The address that a word of the command line means. Raises `HostError` where it means none."""
    if not text.isascii():  # bytes that are no text cannot even be asked for
        raise HostError(_NEITHER.format(text))
    digits = text.removeprefix("0x")
    number = text.startswith("0x") or len(digits) >= _ADDRESS_DIGITS or text[:1].isdigit()
    if number and re.fullmatch(r"[0-9a-fA-F]{1,16}", digits):
        return int(digits, 16)
    match = _NEAR_SYMBOL.fullmatch(text)
    symbol = host.address_of(match[1] if match else text)
    if match and symbol is not None:
        symbol += int(match[2].replace(" ", ""), 0)
        if not 0 <= symbol < 1 << 64:
            raise HostError(f"{text} is outside the address space")
        return symbol
    if symbol is None and isinstance(host, Evaluating):
        symbol = host.evaluate(text)
    if symbol is None:
        raise HostError(_NEITHER.format(text))
    return symbol
