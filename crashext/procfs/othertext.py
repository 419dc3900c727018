"""Memory whose numbers are not printed in hexadecimal: gdb's d, u, o, t and c, crash's rd -d, drgn.

Only where the form itself, or the command above, says which base it is: a number that could be
hexadecimal is left to memorytext.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_COMMAND = re.compile(r"\bx/\d{0,6}([a-z]{1,3})\b")
_RD = re.compile(r"\brd\s(?:.*\s)?-(?:d|D)\b")
_RD_WIDTH = re.compile(r"\s-(8|16|32|64)\b")
_SOMETHING_ELSE = re.compile(r"(?:crash>|\(gdb\)|>>>)")
_CHARACTERS = re.compile(r"(-?\d{1,3}) '(?:\\?[^']|\\[0-7]{1,3}|\\')'")
_DECIMAL = re.compile(r"-?\d{1,20}")
_OCTAL = re.compile(r"0[0-7]{0,22}")
_BINARY = re.compile(r"[01]{8}|[01]{16}|[01]{32}|[01]{64}")
_UNITS = {"b": 1, "h": 2, "w": 4, "g": 8}
_PER_LINE = {2: 8, 4: 4}
"""How many numbers gdb prints on a line of giants and of words."""
_DRGN = re.compile(
    r"\s*\((u8|u16|u32|u64|unsigned (?:char|short|int|long)|uint(?:8|16|32|64)_t) \[(\d{1,7})\]\)"
    r"\{([\d, ]*)\}\s*"
)
_DRGN_SIZES = {
    "u8": 1, "u16": 2, "u32": 4, "u64": 8, "unsigned char": 1, "unsigned short": 2,
    "unsigned int": 4, "unsigned long": 8, "uint8_t": 1, "uint16_t": 2, "uint32_t": 4,
    "uint64_t": 8,
}  # fmt: skip
DRGN_ADDRESS = re.compile(r".*\baddress=(0x[0-9a-fA-F]{1,16})")
_MOST = 1 << 20


@dataclass(frozen=True)
class Asked:
    """What the command above asked for; "" and 0 where it does not say."""

    base: str = ""
    """gdb's letter."""
    unit: int = 0
    """Bytes of a number."""
    by_rd: bool = False


def asked(line: str, before: Asked) -> Asked:
    """What the lines below are, after `line`."""
    if command := _COMMAND.search(line):
        letters = command[1]
        unit = next((_UNITS[c] for c in letters if c in _UNITS), 0)
        return Asked(
            next((c for c in letters if c not in _UNITS), before.base), unit or before.unit
        )
    if _RD.search(line):
        width = _RD_WIDTH.search(line)
        return Asked("d", int(width[1]) // 8 if width else 8, True)
    return Asked() if _SOMETHING_ELSE.match(line.lstrip()) else before


def numbers(rest: str, gap: str, asked_for: Asked) -> bytes | None:
    """The bytes of a line's numbers; None where they are hexadecimal, or of no known size."""
    if _CHARACTERS.match(rest):
        return bytes(int(n) & 0xFF for n in _CHARACTERS.findall(rest))
    tokens = rest.split()
    if asked_for.by_rd:
        return _packed(tokens, 10, asked_for.unit) if _all(_DECIMAL, tokens) else None
    if "\t" not in gap or not tokens:
        return None
    if _all(_BINARY, tokens):
        return _packed(tokens, 2, len(tokens[0]) // 8)
    unit = asked_for.unit or _PER_LINE.get(len(tokens), 0)
    if asked_for.base == "o" or (_all(_OCTAL, tokens) and any(len(t) > 1 for t in tokens)):
        return _packed(tokens, 8, unit) if _all(_OCTAL, tokens) else None
    if asked_for.base in ("", "d", "u") and _all(_DECIMAL, tokens):
        return _packed(tokens, 10, unit)
    return None


def drgn_array(line: str) -> bytes | None:
    """``(u64 [4]){ 1, 2, 3 }``: zeros at the end are not printed."""
    match = _DRGN.fullmatch(line)
    if match is None:
        return None
    size = _DRGN_SIZES[match[1]]
    data = _packed(match[3].replace(",", " ").split(), 10, size)
    whole = int(match[2]) * size
    return data.ljust(whole, b"\0") if data is not None and len(data) <= whole <= _MOST else None


def _all(shape: re.Pattern[str], tokens: list[str]) -> bool:
    return bool(tokens) and all(shape.fullmatch(token) for token in tokens)


def _packed(tokens: list[str], base: int, unit: int) -> bytes | None:
    """Little-endian numbers of `unit` bytes; None where one does not fit, or no size is known."""
    if not unit:
        return None
    values = [int(token, base) for token in tokens]
    if any(not -(1 << (8 * unit - 1)) <= value < 1 << 8 * unit for value in values):
        return None
    mask = (1 << 8 * unit) - 1
    return b"".join((value & mask).to_bytes(unit, "little") for value in values)
