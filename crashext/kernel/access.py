"""Typed access to kernel memory over a `Host`: scalars, strings, columns of many structures.

It knows C's little-endian scalars and nothing of any subsystem.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Addresses, Bytes, Host, Mask, Member, UnknownLayout
from crashext.kernel.scalars import require, string, u32, u64, variable

Words = NDArray[np.uint64]

__all__ = [
    "Structures",
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

_SCALARS = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8"}


def words_at(host: Host, addresses: Addresses) -> tuple[Words, Mask]:
    """One 64-bit word at each address: ``(uint64[n], ok[n])``."""
    data, ok = host.read_many(addresses, 8)
    return np.ascontiguousarray(data).view("<u8").reshape(len(addresses)), ok


class Structures:
    """Many structures whose members are asked for again and again: each is taken out once."""

    def __init__(self, rows: Bytes) -> None:
        self.rows = rows
        self._columns: dict[Member, Words] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, member: Member) -> Words:
        """Not to be changed."""
        if member not in self._columns:
            self._columns[member] = column(self.rows, member)
        return self._columns[member]


def column(rows: Bytes | Structures, member: Member) -> Words:
    """One unsigned member (bit fields too) of many structures: uint8[n, size] -> uint64[n]."""
    if isinstance(rows, Structures):
        return rows.column(member)
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
