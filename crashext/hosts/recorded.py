"""Two hosts: one that records what a run asks of another host, and one that replays it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from crashext.hosts.base import (
    Addresses,
    Bytes,
    DebugFilesHost,
    Host,
    HostError,
    Info,
    Layout,
    Mask,
    Member,
    Module,
    ReadFault,
    SourceHost,
    Symbol,
)
from crashext.hosts.derived import derived
from crashext.hosts.session import MAX_MEMORY, NONSENSE, damaged, load, write

_MAX_STRUCT = 1 << 20
_MAX_BITS = 64
_WORD = (1 << 64) - 1


class RecordingHost:
    """Passes every question on to `host` and remembers the answer."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._pieces: list[tuple[int, bytes]] = []
        self._bytes = 0
        self._faults: set[int] = set()
        self._symbols: dict[int, Symbol | None] = {}
        self._names: dict[str, int | None] = {}
        self._layouts: dict[str, Layout | None] = {}
        self._enumerators: dict[str, int | None] = {}
        self._derived: dict[str, Any] = {}
        self._inner: dict[str, Any] = {}
        self._paused = False

    def info(self) -> Info:
        return self._host.info()

    def derived(self, key: str, compute: Callable[[], Any]) -> Any:
        """Work the answer out without recording what is read for it; keep the answer."""
        # A question inside another one is not asked again at a replay: its answer is kept for this
        # run alone.
        known = self._inner if self._paused else self._derived
        if key not in known and key in self._inner:
            known[key] = self._inner[key]
        if key not in known:
            paused, self._paused = self._paused, True
            try:
                answer = derived(self._host, key, compute)  # a session has it, too
            finally:
                self._paused = paused
            known[key] = answer
        return known[key]

    def read(self, address: int, size: int) -> bytes:
        if self._paused:
            return self._host.read(address, size)
        try:
            data = self._host.read(address, size)
        except ReadFault:
            self._faults.add(address)
            raise
        self._remember(address, data)
        return data

    def read_many(self, addresses: Addresses, size: int) -> tuple[Bytes, Mask]:
        data, ok = self._host.read_many(addresses, size)
        if self._paused:
            return data, ok
        unique, first = np.unique(addresses, return_index=True)
        for address, at in zip(unique.tolist(), first.tolist(), strict=True):
            if ok[at]:
                self._remember(address, data[at].tobytes())
            else:
                self._faults.add(address)
        return data, ok

    def _remember(self, address: int, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > 4 * MAX_MEMORY:
            raise HostError("this run reads too much memory to be recorded: ask for fewer caches")
        self._pieces.append((address, data))

    def present(self) -> list[tuple[int, int]] | None:
        return self._host.present()

    def registers(self) -> Sequence[tuple[int, ...]]:
        return self._host.registers()

    def symbol_at(self, address: int) -> Symbol | None:
        if self._paused:
            return self._host.symbol_at(address)
        if address not in self._symbols:
            self._symbols[address] = self._host.symbol_at(address)
        return self._symbols[address]

    def address_of(self, name: str) -> int | None:
        if name not in self._names:
            self._names[name] = self._host.address_of(name)
        return self._names[name]

    def modules(self) -> Sequence[Module]:
        return self._host.modules()

    def layout(self, type_name: str) -> Layout | None:
        if type_name not in self._layouts:
            self._layouts[type_name] = self._host.layout(type_name)
        return self._layouts[type_name]

    def enumerator(self, name: str) -> int | None:
        if name not in self._enumerators:
            self._enumerators[name] = self._host.enumerator(name)
        return self._enumerators[name]

    def source_of(self, address: int) -> list[tuple[str, str]]:
        """Only answers that are kept as a whole hold lines of source."""
        return self._host.source_of(address) if isinstance(self._host, SourceHost) else []

    def module_files(self) -> Mapping[str, Path]:
        """As above: what is read there is part of answers."""
        return self._host.module_files() if isinstance(self._host, DebugFilesHost) else {}

    def debug_folders(self) -> Sequence[Path]:
        return self._host.debug_folders() if isinstance(self._host, DebugFilesHost) else ()

    def save(self, path: Path, command: str) -> None:
        """Write the session file; raises `HostError` when it cannot be written."""
        document = {
            "command": command,
            "info": {**asdict(self.info()), "vmcoreinfo": dict(self.info().vmcoreinfo)},
            "present": self.present(),
            "faults": sorted(self._faults),
            "symbols": [
                [a, None if s is None else [s.name, s.address, s.size, s.module]]
                for a, s in sorted(self._symbols.items())
            ],
            "names": dict(sorted(self._names.items())),
            "modules": [[m.name, [list(r) for r in m.ranges]] for m in self.modules()],
            "layouts": {
                name: None
                if layout is None
                else [layout.size, {k: list(asdict(v).values()) for k, v in layout.members.items()}]
                for name, layout in sorted(self._layouts.items())
            },
            "enumerators": dict(sorted(self._enumerators.items())),
            "derived": dict(sorted(self._derived.items())),
        }
        write(path, document, _merge(self._pieces))


def _merge(pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Pieces that touch or overlap become one extent; the first to be read wins."""
    merged: list[tuple[int, bytearray]] = []
    for address, data in sorted(pieces, key=lambda p: (p[0], -len(p[1]))):
        if merged:
            start, held = merged[-1]
            end = start + len(held)
            if address <= end:
                held += data[end - address :] if end - address < len(data) else b""
                continue
        merged.append((address, bytearray(data)))
    return [(a, bytes(d)) for a, d in merged]


class RecordedHost:
    """Replays a session. A question that was not recorded has no answer, and is counted."""

    def __init__(self, path: Path) -> None:
        document, extents = load(path)
        self.command: str = document["command"]
        """The command line that was recorded."""
        self.unanswered = 0
        """Questions asked so far that the recorded run did not ask."""
        self._starts = [a for a, _ in extents]
        self._data = [d for _, d in extents]
        try:
            self._fill(document)
        except NONSENSE as error:
            raise damaged(path) from error

    def _fill(self, document: dict[str, Any]) -> None:
        info = document["info"]
        self._info = Info(
            release=str(info["release"]),
            arch=str(info["arch"]),
            page_size=int(info["page_size"]),
            live=bool(info["live"]),
            source=str(info["source"]),
            vmcoreinfo={str(k): str(v) for k, v in info["vmcoreinfo"].items()},
            damage=str(info.get("damage", "")),  # sessions before it had none
        )
        present = document["present"]
        self._present = None if present is None else [(int(a), int(b)) for a, b in present]
        self._symbols = {
            int(a): None if s is None else Symbol(str(s[0]), int(s[1]), int(s[2]), str(s[3]))
            for a, s in document["symbols"]
        }
        self._names = _integers(document["names"])
        self._modules = tuple(
            Module(str(n), tuple((int(a) & _WORD, int(b) & _WORD) for a, b in r))
            for n, r in document["modules"]
        )
        self._layouts = {
            str(n): None if layout is None else _layout(str(n), *layout)
            for n, layout in document["layouts"].items()
        }
        self._enumerators = _integers(document["enumerators"])
        self._faults = frozenset(int(a) for a in document["faults"])
        self._derived = dict(document.get("derived", {}))  # sessions before it had none

    def info(self) -> Info:
        return self._info

    def derived(self, key: str, compute: Callable[[], Any]) -> Any:
        """The recorded answer, or None: what it was worked out from is not in the session."""
        return self._derived.get(key)

    def _find(self, address: int, size: int) -> memoryview | None:
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        offset = address - self._starts[at]
        data = self._data[at]
        return data[offset : offset + size] if offset + size <= len(data) else None

    def read(self, address: int, size: int) -> bytes:
        found = self._find(address, size)
        if found is None:
            self.unanswered += address not in self._faults
            raise ReadFault(address, "not in this session")
        return bytes(found)

    def read_many(self, addresses: Addresses, size: int) -> tuple[Bytes, Mask]:
        data = np.zeros((len(addresses), size), np.uint8)
        ok = np.zeros(len(addresses), np.bool_)
        for i, address in enumerate(addresses.tolist()):
            found = self._find(address, size)
            if found is not None:
                data[i], ok[i] = np.frombuffer(found, np.uint8), True
        self.unanswered += len(set(addresses[~ok].tolist()) - self._faults)
        return data, ok

    def present(self) -> list[tuple[int, int]] | None:
        return self._present

    def registers(self) -> Sequence[tuple[int, ...]]:
        return ()  # only passes over all memory ask, and their answers are recorded instead

    def symbol_at(self, address: int) -> Symbol | None:
        if address in self._symbols:
            return self._symbols[address]
        # Any recorded symbol whose range holds the address is as good as a recorded question.
        for symbol in self._symbols.values():
            if symbol is not None and symbol.address <= address < symbol.address + symbol.size:
                return symbol
        self.unanswered += 1
        return None

    def address_of(self, name: str) -> int | None:
        self.unanswered += name not in self._names
        return self._names.get(name)

    def modules(self) -> Sequence[Module]:
        return self._modules

    def layout(self, type_name: str) -> Layout | None:
        self.unanswered += type_name not in self._layouts
        return self._layouts.get(type_name)

    def enumerator(self, name: str) -> int | None:
        self.unanswered += name not in self._enumerators
        return self._enumerators.get(name)


def _integers(table: dict[str, Any]) -> dict[str, int | None]:
    return {str(k): None if v is None else int(v) & _WORD for k, v in table.items()}


def _layout(name: str, size: int, members: dict[str, list[Any]]) -> Layout:
    """A layout that cannot lead a reader outside its own structure."""
    result: dict[str, Member] = {}
    for key, (offset, length, bit_offset, bit_size) in members.items():
        member = Member(int(offset), int(length), int(bit_offset), int(bit_size))
        bits = member.bit_offset + member.bit_size
        # A bit field's declared type may reach past the end: union handle_parts, for one.
        end = member.offset + ((bits + 7) // 8 if member.bit_size else member.size)
        if min(offset, length, bit_offset, bit_size) < 0 or bits > _MAX_BITS or end > size:
            raise ValueError(f"{name}.{key} is not inside {name}")
        result[str(key)] = member
    if not 0 < size <= _MAX_STRUCT:
        raise ValueError(f"{name} has an impossible size")
    return Layout(name, int(size), result)
