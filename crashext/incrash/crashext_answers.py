"""The engine's questions, answered by PyKdump: memory, symbols, layouts, commands.

Whatever is wrong with a question becomes FAILED or an empty answer. Nothing here may let crash jump
out over Python's frames to its prompt, which ends a crash sooner or later: what ends in crash's
`gdb_interface()` does so when the reader of the output is gone. `gdb_typeinfo` does not end there.
"""

import select
import struct
import sys
from typing import Any, Iterable, List, Tuple

import crash

import crashext_wire as wire


class _Unread(Exception):
    """Nobody reads the output of this command any more."""


def answer(code: int, payload: bytes) -> Tuple[int, bytes]:
    """(code, payload) of the answer to one question. Raises `wire.Garbage` for what is none."""
    question = _QUESTIONS.get(code)
    if question is None:
        raise wire.Garbage("an unknown question (%d)" % code)
    try:
        return wire.OK, question(payload)
    except struct.error:
        raise wire.Garbage("a question of the wrong length") from None
    except wire.Garbage:
        raise
    except _Unread:
        return wire.UNREAD, b""
    except Exception as error:  # crash.error, or whatever a damaged dump makes PyKdump raise
        return wire.FAILED, str(error).encode("utf-8", "replace")


def reader_gone(descriptor: int) -> bool:
    """Whether nobody reads any more what is written there."""
    watched = select.poll()
    watched.register(descriptor, 0)
    return bool(watched.poll(0))


def _read(payload: bytes) -> bytes:
    if sum(size for _, size in struct.iter_unpack("<QI", payload)) > wire.MAX_READ:
        raise wire.Garbage("a read of too many bytes")
    flags, pieces = bytearray(), []
    for address, size in struct.iter_unpack("<QI", payload):
        try:
            # PyKdump refuses address 0 with IndexError, all else with crash.error.
            pieces.append(crash.readmem(address, size))
            flags.append(1)
        except (crash.error, IndexError, OverflowError):
            flags.append(0)
    return bytes(flags) + b"".join(pieces)


def _symbols(payload: bytes) -> bytes:
    lines = []
    for (address,) in struct.iter_unpack("<Q", payload):
        name, offset = crash.addr2sym(address, 1)
        lines.append("%s %d" % (name, offset) if name else "")
    return "\n".join(lines).encode("utf-8", "replace")


def _addresses(payload: bytes) -> bytes:
    names = payload.decode("utf-8", "replace").split("\0")
    return struct.pack("<%dQ" % len(names), *[_address(name) for name in names])


def _address(name: str) -> int:
    return crash.sym2addr(name) & 0xFFFFFFFFFFFFFFFF if crash.symbol_exists(name) else 0


def _layout(payload: bytes) -> bytes:
    try:
        info = crash.gdb_typeinfo(payload.decode("utf-8", "replace"))
    except crash.error:
        return b""
    lines = [str(info["typelength"])]
    _members(info.get("body", ()), 0, lines)
    return "\n".join(lines).encode("utf-8", "replace")


def _members(body: Iterable[Any], base: int, lines: List[str]) -> None:
    """Flatten, through anonymous structs and unions: "name offset size bit_offset bit_size"."""
    for member in body:
        bits = base + member["bitoffset"]
        if not member["fname"]:
            _members(member.get("body", ()), bits, lines)
            continue
        size = member["typelength"]
        for count in member.get("dims", ()):
            size *= max(count, 0)
        width = member.get("bitsize", 0)
        lines.append(
            "%s %d %d %d %d" % (member["fname"], bits // 8, size, bits % 8 if width else 0, width)
        )


def _enumerator(payload: bytes) -> bytes:
    # Not enumerator_value: that one goes through gdb_interface(), and takes 20 times as long.
    name = payload.decode("utf-8", "replace")
    try:
        info = crash.gdb_typeinfo(name)
    except crash.error:
        return b""
    return next((str(v).encode() for n, v in info.get("edef", ()) if n == name), b"")


def _command(payload: bytes) -> bytes:
    if reader_gone(sys.stdout.fileno()):  # most commands ask gdb, even sys
        raise _Unread
    text = crash.exec_crash_command(payload.decode("utf-8", "replace"), 1)
    return str(text).encode("utf-8", "replace")


_QUESTIONS = {
    wire.READ: _read,
    wire.SYMBOLS: _symbols,
    wire.ADDRESSES: _addresses,
    wire.LAYOUT: _layout,
    wire.ENUMERATOR: _enumerator,
    wire.COMMAND: _command,
}
