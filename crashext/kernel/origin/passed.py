"""Arguments of x86-64's functions beyond the sixth: the caller pushes them, the last one first."""

from __future__ import annotations

import re

from crashext.kernel.origin.code import Code
from crashext.kernel.origin.instruction import slot_at

_NEAR = 12
"""Instructions between a push and the call that it is for, at most."""
_PROLOGUE = 16
_WORD = 8
_FRAME = re.compile(r"rsp, (0x[0-9a-f]+|\d+)", re.ASCII)


def pushed(code: Code, place: int) -> tuple[int, int] | None:
    """The function that what the instruction at `place` pushes is an argument of, and its number;
    None where it is none."""
    number = len(code.isa.arguments)
    for one in code.all[place + 1 : place + 1 + _NEAR]:
        if one.mnemonic == "call":
            return None if one.target is None else (one.target, number)
        if one.jumps or one.ends_block or one.mnemonic == "pop":
            return None
        number += one.mnemonic == "push"
    return None


def slot_of(code: Code, number: int) -> str:
    """The slot of the stack, as code spells it behind the function's beginning, in which an
    argument that was pushed arrives; "" for one that is in a register."""
    further = number - len(code.isa.arguments)
    if further < 0:
        return ""
    frame = 0
    for one in code.all[:_PROLOGUE]:
        if one.operands == "rbp, rsp":
            return slot_at("rbp", _WORD * (further + 2))
        if one.mnemonic == "push":
            frame += _WORD
        taken = _FRAME.fullmatch(one.operands) if one.mnemonic == "sub" else None
        if taken is not None:
            frame += int(taken[1], 0)
            break
    return slot_at("rsp", frame + _WORD * (further + 1))
