"""Where a function keeps the address of the memory that it gets: in a member, an array, a variable.

Objects that are in use are pointed at from where they were kept, which is told apart by its offset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from crashext.kernel.origin.code import REGISTERS, Code
from crashext.kernel.origin.constants import MEMORY
from crashext.kernel.origin.instruction import Instruction

_STORES = ("mov", "xchg", "lock cmpxchg", "cmpxchg")
_MOST_TAGS = 0xFF
"""What is set in the low bits of an address at most: objects that have more room are aligned so."""
_PROLOGUE = 12  # instructions in which a function sets up its frame
PLACE = re.compile(
    r"(?P<base>[a-z]\w+)(?P<scale>\*\d)?(?: \+ (?P<index>[a-z]\w+)(?:\*\d)?)?"
    r"(?: (?P<sign>[+-]) (?P<number>0x[0-9a-f]+|\d+))?",
    re.ASCII,
)
"""A memory operand of x86-64."""
_NUMBER = re.compile(r"#?(-?(?:0x[0-9a-f]+|\d+))", re.ASCII)


class Kept(NamedTuple):
    """A store of the object's address into other memory."""

    where: Literal["member", "array", "variable", "reserve"]
    """The last is the array of a mempool."""
    at: int
    """How far from what the code has the address of; of a variable its address."""
    inside: int
    """How far into the object the address leads."""
    store: int = 0
    """The address of the instruction that stores it; 0 where none was seen."""
    base: str = ""
    """The register that leads there."""


def framed(code: Code) -> bool:
    """Whether rbp is the frame of a function, and what is stored beside it on the stack."""
    return code.all.operate_on("rbp, rsp", _PROLOGUE)


def kept_by(one: Instruction, pointers: Mapping[str, int], frame: bool) -> Kept | None:
    """What an x86-64 instruction keeps of `pointers`, registers that lead into the object."""
    if one.mnemonic not in _STORES or "[" not in one.operands:
        return None
    parts = one.parts
    name, bits = REGISTERS.get(parts[-1], ("", 0))
    if len(parts) != 2 or bits != 64 or name not in pointers:
        return None
    memory = MEMORY.fullmatch(parts[0])
    place = None if memory is None else PLACE.fullmatch(memory[2])
    if place is None or place["base"] in ("rsp", *pointers) or (frame and place["base"] == "rbp"):
        return None
    number = int(place["number"] or "0", 0) * (-1 if place["sign"] == "-" else 1)
    inside = pointers[name]
    if place["base"] == "rip":
        return Kept("variable", one.end + number, inside, one.address)
    if place["scale"] or place["index"]:
        return Kept("array", max(number, 0), inside, one.address)
    return Kept("member", number, inside, one.address, place["base"])


def member(operand: str) -> tuple[str, int] | None:
    """The base and the offset of a memory operand that has no index."""
    memory = MEMORY.fullmatch(operand)
    place = None if memory is None else PLACE.fullmatch(memory[2])
    if place is None or place["scale"] or place["index"] or place["base"] in ("rip", "rsp"):
        return None
    number = int(place["number"] or "0", 0)
    return place["base"], -number if place["sign"] == "-" else number


def stepped(one: Instruction) -> tuple[str, int] | None:
    """Of an instruction that makes an address of another one and a number: the register with that
    address before it, and the number."""
    parts = one.parts
    if one.mnemonic == "lea":
        return member(parts[1])
    # x86-64 adds to the first, and 0x80 by a sub of -0x80, which is shorter.
    if one.mnemonic not in ("add", "sub") or len(parts) not in (2, 3):
        return None
    number = _NUMBER.fullmatch(parts[-1])
    if number is None:
        return None
    step = int(number[1], 0)
    return parts[-2], step if one.mnemonic == "add" else -step


def tagged(inside: int | None, mark: str) -> int | None:
    """How far into an object an address leads after a number was set in its low bits: trees and
    locks mark pointers so. `inside` is where it led before; None for what is no such address."""
    number = None if inside is None else _NUMBER.fullmatch(mark)
    if inside is None or number is None:
        return None
    bits = int(number[1], 0)
    return inside | bits if 0 < bits <= _MOST_TAGS and not inside & bits else None
