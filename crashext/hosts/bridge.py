"""Questions to a crash session through the bridge's socket: memory, symbols, types, commands.

The engine's side of `incrash/crashext_bridge.py`. It only asks: what may be asked of crash, and
what a dump is known to lack, `crash.py` knows. It needs no numpy.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from crashext.hosts.faults import HostError, ReadFault
from crashext.hosts.layouts import Layout, Member
from crashext.incrash import crashext_wire as wire

_EXPRESSION = re.compile(r"^[\w\s.>()&*+\-\[\]]{1,200}$")
_CALL = re.compile(r"\w\s*\(|--|\+\+")


class Refused(HostError):
    """crash answered a question with an error."""


class Bridge:
    """Raises `HostError` when crash is gone."""

    def __init__(
        self, sock: socket.socket, whole: AbstractContextManager[None] | None = None
    ) -> None:
        """`whole` lets nothing interrupt a question: the next one would get its answer."""
        self._sock, self._whole = sock, whole or nullcontext()
        self._values: dict[str, int | None] = {}

    def fresh(self) -> Bridge:
        """As a command finds it: what symbols mean may have changed since the one before."""
        self._values.clear()
        return self

    def _ask(self, code: int, payload: bytes) -> bytes:
        """One question; raises `Refused` when crash answers with an error, and as a write to the
        output would, `BrokenPipeError`, where that has no reader any more."""
        try:
            with self._whole:
                wire.send(self._sock, code, payload)
                status, answer = wire.receive(self._sock)
        except (wire.Closed, wire.Garbage) as error:
            raise HostError(f"the crash session is gone ({error})") from error
        if status == wire.UNREAD:
            raise BrokenPipeError
        if status != wire.OK:
            raise Refused(answer.decode("utf-8", "backslashreplace").strip())
        return answer

    def runs(self, runs: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """What is at each (address, bytes), at most `wire.MAX_READ` in all; None where crash
        cannot read it."""
        answer = self._ask(wire.READ, b"".join(struct.pack("<QI", *run) for run in runs))
        flags, at = answer[: len(runs)], len(runs)
        pieces: list[bytes | None] = []
        for (_, size), flag in zip(runs, flags, strict=True):
            pieces.append(answer[at : at + size] if flag else None)
            at += size if flag else 0
        return pieces

    def read(self, address: int, size: int) -> bytes:
        """Raises `ReadFault`."""
        data = b""
        while len(data) < size:
            piece = min(size - len(data), wire.MAX_READ)
            answer = self.runs([(address + len(data), piece)])[0]
            if answer is None:
                raise ReadFault(address)
            data += answer
        return data

    def nearest_symbol(self, address: int) -> tuple[str, int] | None:
        """(name, offset of the address in it) of the symbol at or before an address."""
        line = self._ask(wire.SYMBOLS, struct.pack("<Q", address)).decode("ascii", "replace")
        name, _, offset = line.rpartition(" ")
        return (name, int(offset)) if name else None

    def address_of(self, name: str) -> int | None:
        """Address of a symbol, None where crash knows none of that name."""
        return self.addresses_of(name)[0] or None

    def addresses_of(self, *names: str) -> tuple[int, ...]:
        """Addresses of symbols, 0 for one that crash does not know."""
        answer = self._ask(wire.ADDRESSES, "\0".join(names).encode())
        return struct.unpack(f"<{len(names)}Q", answer)

    def layout(self, type_name: str) -> Layout | None:
        """What crash's gdb knows of a type: up to 30 ms."""
        lines = self._ask(wire.LAYOUT, type_name.encode()).decode("ascii", "replace").splitlines()
        if not lines:
            return None
        members: dict[str, Member] = {}
        for line in lines[1:]:
            name, *numbers = line.split()
            members.setdefault(name, Member(*map(int, numbers)))
        return Layout(type_name, int(lines[0]), members)

    def enumerator(self, name: str) -> int | None:
        """As crash's gdb knows it."""
        answer = self._ask(wire.ENUMERATOR, name.encode())
        return int(answer) if answer else None

    def command(self, line: str) -> str:
        """Output of a crash command; raises `Refused` with crash's words when it fails."""
        return self._ask(wire.COMMAND, line.encode()).decode("utf-8", "replace")

    def evaluate(self, expression: str) -> int | None:
        """Value of a C expression, by gdb inside crash. Nothing in it may assign or call."""
        if expression not in self._values:
            self._values[expression] = self._evaluated(expression)
        return self._values[expression]

    def _evaluated(self, expression: str) -> int | None:
        if not _EXPRESSION.match(expression) or _CALL.search(expression):
            return None
        try:
            answer = self.command(f'gdb printf "%lx\\n", (unsigned long)({expression})')
            return int(answer.split()[-1], 16)
        except (Refused, ValueError, IndexError):
            return None
