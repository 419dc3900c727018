"""A session: everything one run asked of its host, in one small file, and its replay.

The file is plain data with limits, because it comes from strangers: a magic line with the
format's version, then one xz stream of a JSON document, a table of extents, and their bytes.

    CRASHEXT-SESSION 1\\n
    xz( u64 length of JSON | JSON | u64 n | n * (u64 address, u64 size) | bytes of the extents )
"""

from __future__ import annotations

import json
import lzma
import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .base import (
    Addresses,
    Bytes,
    Host,
    HostError,
    Info,
    Layout,
    Mask,
    Member,
    Module,
    ReadFault,
    Symbol,
)

VERSION = 1
_MAGIC = b"CRASHEXT-SESSION "
_MAX_JSON = 32 << 20
_MAX_EXTENTS = 1 << 22
_MAX_MEMORY = 300 << 20
_XZ_MEMORY = 128 << 20


class RecordingHost:
    """Passes every question on to `host` and remembers the answer."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._pieces: list[tuple[int, bytes]] = []
        self._bytes = 0
        self._symbols: dict[int, Symbol | None] = {}
        self._names: dict[str, int | None] = {}
        self._layouts: dict[str, Layout | None] = {}
        self._enumerators: dict[str, int | None] = {}

    def info(self) -> Info:
        return self._host.info()

    def read(self, address: int, size: int) -> bytes:
        data = self._host.read(address, size)
        self._remember(address, data)
        return data

    def read_many(self, addresses: Addresses, size: int) -> tuple[Bytes, Mask]:
        data, ok = self._host.read_many(addresses, size)
        unique, first = np.unique(addresses, return_index=True)
        for address, at in zip(unique.tolist(), first.tolist(), strict=True):
            if ok[at]:
                self._remember(address, data[at].tobytes())
        return data, ok

    def _remember(self, address: int, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > 4 * _MAX_MEMORY:
            raise HostError("this run reads too much memory to be recorded: ask for fewer caches")
        self._pieces.append((address, data))

    def present(self) -> list[tuple[int, int]] | None:
        return self._host.present()

    def symbol_at(self, address: int) -> Symbol | None:
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

    def save(self, path: Path, command: str) -> None:
        """Write the session file; raises `HostError` when it cannot be written."""
        extents = _merge(self._pieces)
        if sum(len(data) for _, data in extents) > _MAX_MEMORY:
            raise HostError("this run read too much memory to be recorded: ask for fewer caches")
        document = {
            "command": command,
            "info": {**asdict(self.info()), "vmcoreinfo": dict(self.info().vmcoreinfo)},
            "present": self.present(),
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
        }
        text = json.dumps(document, separators=(",", ":")).encode()
        table = np.array([[a, len(d)] for a, d in extents], "<u8").tobytes()
        packer = lzma.LZMACompressor(preset=6)
        try:
            with path.open("wb") as file:
                file.write(_MAGIC + b"%d\n" % VERSION)
                file.write(packer.compress(struct.pack("<Q", len(text)) + text))
                file.write(packer.compress(struct.pack("<Q", len(extents)) + table))
                for _, data in extents:
                    file.write(packer.compress(data))
                file.write(packer.flush())
        except OSError as error:
            raise HostError(f"cannot write session {path}: {error.strerror}") from error


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
        document, extents = _load(path)
        self.command: str = document["command"]
        self.unanswered = 0
        self._starts = [a for a, _ in extents]
        self._data = [d for _, d in extents]
        self._info = Info(**document["info"])
        present = document["present"]
        self._present = None if present is None else [(int(a), int(b)) for a, b in present]
        self._symbols = {
            int(a): None if s is None else Symbol(str(s[0]), int(s[1]), int(s[2]), str(s[3]))
            for a, s in document["symbols"]
        }
        self._names: dict[str, int | None] = document["names"]
        self._modules = tuple(
            Module(str(n), tuple((int(a), int(b)) for a, b in r)) for n, r in document["modules"]
        )
        self._layouts = {
            str(n): None
            if layout is None
            else Layout(str(n), int(layout[0]), {k: Member(*v) for k, v in layout[1].items()})
            for n, layout in document["layouts"].items()
        }
        self._enumerators: dict[str, int | None] = document["enumerators"]

    def info(self) -> Info:
        return self._info

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
            self.unanswered += 1
            raise ReadFault(address, "not in this session")
        return bytes(found)

    def read_many(self, addresses: Addresses, size: int) -> tuple[Bytes, Mask]:
        data = np.zeros((len(addresses), size), np.uint8)
        ok = np.zeros(len(addresses), np.bool_)
        for i, address in enumerate(addresses.tolist()):
            found = self._find(address, size)
            if found is not None:
                data[i], ok[i] = np.frombuffer(found, np.uint8), True
        self.unanswered += int((~ok).sum())
        return data, ok

    def present(self) -> list[tuple[int, int]] | None:
        return self._present

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


def _load(path: Path) -> tuple[dict[str, Any], list[tuple[int, memoryview]]]:
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC) + 16)
            if not head.startswith(_MAGIC):
                raise HostError(f"{path} is not a crashext session (they are made with --record)")
            line, newline, _ = head[len(_MAGIC) :].partition(b"\n")
            if not newline or not line.isdigit():
                raise HostError(f"{path} is a damaged session: its first line makes no sense")
            if int(line) > VERSION:
                raise HostError(
                    f"{path} is a session of format {int(line)}, this crashext reads up to "
                    f"{VERSION}: update crashext"
                )
            file.seek(len(_MAGIC) + len(line) + 1)
            packed = file.read(_MAX_MEMORY)
    except OSError as error:
        raise HostError(f"cannot open session {path}: {error.strerror}") from error
    try:
        return _unpack(packed)
    except HostError as error:
        raise HostError(f"{path} {error}") from None
    except (
        lzma.LZMAError,
        EOFError,
        struct.error,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
        MemoryError,
        IndexError,
    ) as error:
        raise HostError(f"{path} is a damaged session: ask for it to be sent again") from error


def _unpack(packed: bytes) -> tuple[dict[str, Any], list[tuple[int, memoryview]]]:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    limit = _MAX_JSON + 16 * _MAX_EXTENTS + _MAX_MEMORY
    whole = memoryview(unpacker.decompress(packed, limit))
    if not unpacker.eof:
        raise HostError("is cut short or larger than a session may be")
    (length,) = struct.unpack_from("<Q", whole)
    if length > _MAX_JSON:
        raise HostError("is a damaged session: its description is too large")
    document = json.loads(bytes(whole[8 : 8 + length]))
    at = 8 + length
    (count,) = struct.unpack_from("<Q", whole, at)
    if count > _MAX_EXTENTS:
        raise HostError("is a damaged session: it describes too many extents")
    table = np.frombuffer(whole, "<u8", 2 * count, at + 8).reshape(-1, 2).tolist()
    at += 8 + 16 * count
    extents = []
    previous = 0
    for address, size in table:
        if address < previous or at + size > len(whole):
            raise ValueError("extents overlap or run past the end")
        extents.append((address, whole[at : at + size]))
        at += size
        previous = address + size
    if not isinstance(document, dict) or not isinstance(document["command"], str):
        raise ValueError("not a session document")
    return document, extents
