"""Scalars and strings of the kernel over a host, one at a time. It needs no numpy."""

from __future__ import annotations

from typing import Protocol

from crashext.hosts.faults import HostError, ReadFault, UnknownLayout
from crashext.hosts.layouts import Layout

MAX_STRING = 256
_LEAST_ALIGNED = 4


class Memory(Protocol):
    """What is asked here of a host."""

    def read(self, address: int, size: int) -> bytes:
        """Raises `ReadFault`."""
        ...


class NamedMemory(Memory, Protocol):
    """With symbols and types."""

    def address_of(self, name: str) -> int | None: ...

    def layout(self, type_name: str) -> Layout | None: ...

    def enumerator(self, name: str) -> int | None: ...


def u32(host: Memory, address: int) -> int:
    """Unsigned 32-bit value; raises `ReadFault`."""
    return int.from_bytes(host.read(address, 4), "little")


def u64(host: Memory, address: int) -> int:
    """Unsigned 64-bit value; raises `ReadFault`."""
    return int.from_bytes(host.read(address, 8), "little")


def variable(host: NamedMemory, name: str, size: int = 8) -> int | None:
    """Value of a global unsigned scalar, None where the kernel has no such symbol.

    Raises `HostError` where none can be: compilers align them. Some were an int once, and are read
    as long as they are today.
    """
    address = host.address_of(name)
    if address is None:
        return None
    if address % min(size, _LEAST_ALIGNED):
        raise HostError(f"the kernel's symbols are damaged: no variable {name} can be there")
    try:
        return int.from_bytes(host.read(address, size), "little")
    except ReadFault:
        return None


def string(host: Memory, address: int, limit: int = MAX_STRING) -> str:
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


def require(host: NamedMemory, type_name: str, *members: str) -> Layout:
    """Layout of a type that must exist with these members; raises `UnknownLayout`."""
    layout = host.layout(type_name)
    if layout is None:
        raise UnknownLayout(f"this kernel's debug info has no {type_name}")
    for member in members:
        if member not in layout:
            raise UnknownLayout(f"{type_name} has no member {member} in this kernel")
    return layout
