"""The session file: what one run asked of its host and what it was told. Format and limits only.

It is plain data with limits, because it comes from strangers: a magic line with the format's
version, then one xz stream of a JSON document, a table of extents, and their bytes.

    CRASHEXT-SESSION 1\\n
    xz( u64 length of JSON | JSON | u64 n | n * (u64 address, u64 size) | bytes of the extents )
"""

from __future__ import annotations

import json
import lzma
import struct
from pathlib import Path
from typing import Any

import numpy as np

from crashext.hosts.base import HostError
from crashext.hosts.written import writing

Extents = list[tuple[int, memoryview]]
"""(address, bytes), ascending and apart."""

VERSION = 1
_MAGIC = b"CRASHEXT-SESSION "
_MAX_JSON = 4 << 20  # Python makes up to thirty times that of nested lists
_MAX_EXTENTS = 1 << 22
MAX_MEMORY = 256 << 20
_XZ_MEMORY = 128 << 20
_PIECE = 1 << 20
_CUT = "is a damaged session, or cut short: ask for it to be sent again"
# What unpacking or reading a file of nonsense can raise.
NONSENSE = (
    lzma.LZMAError,
    EOFError,
    struct.error,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    MemoryError,
    IndexError,
    OverflowError,
)


_PRESET = 3
"""Of xz: 6 makes files 3 to 25 % smaller and takes ten times longer, 4 s for a cache's 10 MB."""


def write(path: Path, document: dict[str, Any], extents: list[tuple[int, bytes]]) -> None:
    """Write a session; raises `HostError` when it cannot be written."""
    text = json.dumps(document, separators=(",", ":")).encode()
    if len(text) > _MAX_JSON or sum(len(data) for _, data in extents) > MAX_MEMORY:
        raise HostError("this run asked for too much to be recorded: ask for fewer caches")
    table = np.array([[a, len(d)] for a, d in extents], "<u8").tobytes()
    packer = lzma.LZMACompressor(preset=_PRESET)
    with writing(path, "session ") as file:
        file.write(_MAGIC + b"%d\n" % VERSION)
        file.write(packer.compress(struct.pack("<Q", len(text)) + text))
        file.write(packer.compress(struct.pack("<Q", len(extents)) + table))
        for _, data in extents:
            file.write(packer.compress(data))
        file.write(packer.flush())


def damaged(path: Path) -> HostError:
    """The error for a file of nonsense."""
    return HostError(f"{path} is a damaged session: ask for it to be sent again")


def load(path: Path) -> tuple[dict[str, Any], Extents]:
    """The document and the extents; raises `HostError` with one line for the user."""
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
            packed = file.read(MAX_MEMORY)
    except OSError as error:
        raise HostError(f"cannot open session {path}: {error.strerror}") from error
    try:
        return _unpack(packed)
    except HostError as error:
        raise HostError(f"{path} {error}") from None
    except NONSENSE as error:
        raise damaged(path) from error


def _unpack(packed: bytes) -> tuple[dict[str, Any], Extents]:
    """Unpack piece by piece, each length checked before its bytes are made."""
    stream = _Stream(packed)
    (length,) = struct.unpack("<Q", stream.take(8))
    if length > _MAX_JSON:
        raise HostError("is a damaged session: its description is too large")
    document = json.loads(stream.take(length))
    (count,) = struct.unpack("<Q", stream.take(8))
    if count > _MAX_EXTENTS:
        raise HostError("is a damaged session: it describes too many extents")
    table = np.frombuffer(stream.take(16 * count), "<u8").reshape(-1, 2).tolist()
    if sum(size for _, size in table) > MAX_MEMORY:
        raise HostError("is a damaged session: it describes too much memory")
    extents = []
    previous = 0
    for address, size in table:
        if address < previous or address + size > 1 << 64:
            raise ValueError("extents overlap or run past the end")
        extents.append((address, memoryview(stream.take(size))))
        previous = address + size
    stream.finish()
    if not isinstance(document, dict) or not isinstance(document["command"], str):
        raise ValueError("not a session document")
    return document, extents


class _Stream:
    """Reads an xz stream a piece at a time."""

    def __init__(self, packed: bytes) -> None:
        self._unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        self._packed = packed
        self._ready = b""

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes; raises `HostError` where the stream ends before."""
        pieces = [self._ready[:size]]
        self._ready = self._ready[size:]
        missing = size - len(pieces[0])
        while missing:
            if self._unpacker.eof:
                raise HostError(_CUT)
            piece = self._unpacker.decompress(self._packed, _PIECE)
            self._packed = b""
            if not piece and self._unpacker.needs_input:
                raise HostError(_CUT)
            pieces.append(piece[:missing])
            self._ready = piece[missing:]
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def finish(self) -> None:
        """Nothing may follow, and the stream's own check must be there and right."""
        rest = self._unpacker.decompress(b"", _PIECE) if not self._unpacker.eof else b""
        if self._ready or rest or not self._unpacker.eof:
            raise HostError(_CUT)
