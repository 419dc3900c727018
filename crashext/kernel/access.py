"""Typed access to kernel memory over a `Host`: scalars, strings, columns of many structures.

It knows C's little-endian scalars and nothing of any subsystem.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import (
    Addresses,
    Bytes,
    Host,
    Layout,
    Mask,
    Member,
    ReadFault,
    UnknownLayout,
)

Words = NDArray[np.uint64]

__all__ = [
    "UnknownLayout",
    "Words",
    "column",
    "require",
    "string",
    "u32",
    "u64",
    "variable",
    "words_at",
]

MAX_STRING = 256
_SCALARS = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8"}


def u32(host: Host, address: int) -> int:
    """Unsigned 32-bit value; raises `ReadFault`."""
    return int.from_bytes(host.read(address, 4), "little")


def u64(host: Host, address: int) -> int:
    """Unsigned 64-bit value; raises `ReadFault`."""
    return int.from_bytes(host.read(address, 8), "little")


def variable(host: Host, name: str, size: int = 8) -> int | None:
    """Value of a global unsigned scalar, None where the kernel has no such symbol."""
    address = host.address_of(name)
    if address is None:
        return None
    try:
        return int.from_bytes(host.read(address, size), "little")
    except ReadFault:
        return None


def words_at(host: Host, addresses: Addresses) -> tuple[Words, Mask]:
    """One 64-bit word at each address: ``(uint64[n], ok[n])``."""
    data, ok = host.read_many(addresses, 8)
    return np.ascontiguousarray(data).view("<u8").reshape(len(addresses)), ok


def string(host: Host, address: int, limit: int = MAX_STRING) -> str:
    """NUL-terminated string, cut at `limit` bytes; bytes that are no text become backslash escapes.

    Raises `ReadFault` when nothing can be read at `address`.
    """
    page = 4096
    data = b""
    while len(data) < limit and b"\0" not in data:
        # A string may end just before a missing page: never read across one.
        piece = min(limit - len(data), page - (address + len(data)) % page)
        try:
            data += host.read(address + len(data), piece)
        except ReadFault:
            if not data:
                raise
            break
    return data.split(b"\0", 1)[0].decode("ascii", "backslashreplace")


def require(host: Host, type_name: str, *members: str) -> Layout:
    """Layout of a type that must exist with these members; raises `UnknownLayout`."""
    layout = host.layout(type_name)
    if layout is None:
        raise UnknownLayout(f"this kernel's debug info has no {type_name}")
    for member in members:
        if member not in layout:
            raise UnknownLayout(f"{type_name} has no member {member} in this kernel")
    return layout


def column(rows: Bytes, member: Member) -> Words:
    """One unsigned member (bit fields too) of many structures: uint8[n, size] -> uint64[n]."""
    span = member.size if not member.bit_size else (member.bit_offset + member.bit_size + 7) // 8
    span = min(span, 8)
    part = rows[:, member.offset : member.offset + span]
    if span in _SCALARS and part.strides[1] == 1:  # six times as fast as byte by byte
        values: Words = part.view(_SCALARS[span])[:, 0].astype(np.uint64)
    else:
        wide = np.zeros((len(rows), 8), np.uint8)
        wide[:, :span] = part
        values = wide.view("<u8").reshape(len(rows))
    if not member.bit_size:
        return values
    mask = np.uint64((1 << member.bit_size) - 1)
    return cast(Words, (values >> np.uint64(member.bit_offset)) & mask)
