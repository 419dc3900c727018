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

from .base import HostError

Extents = list[tuple[int, memoryview]]
"""(address, bytes), ascending and apart."""

VERSION = 1
_MAGIC = b"CRASHEXT-SESSION "
_MAX_JSON = 32 << 20
_MAX_EXTENTS = 1 << 22
MAX_MEMORY = 300 << 20
_XZ_MEMORY = 128 << 20
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


def write(path: Path, document: dict[str, Any], extents: list[tuple[int, bytes]]) -> None:
    """Write a session; raises `HostError` when it cannot be written."""
    text = json.dumps(document, separators=(",", ":")).encode()
    if len(text) > _MAX_JSON or sum(len(data) for _, data in extents) > MAX_MEMORY:
        raise HostError("this run asked for too much to be recorded: ask for fewer caches")
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
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    limit = _MAX_JSON + 16 * _MAX_EXTENTS + MAX_MEMORY
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
