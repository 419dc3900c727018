"""What the engine may ask of a source of kernel memory, and the words of the answers.

A host answers primitive questions only, so that every host is thin and every answer can be
recorded. It knows nothing of slabs, pages or leaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from crashext.hosts.faults import GONE, HostError, ReadFault, UnknownLayout
from crashext.hosts.layouts import Layout, Member

__all__ = [
    "U64",
    "Addresses",
    "Bytes",
    "CommandHost",
    "DebugFilesHost",
    "DebugTypesHost",
    "Host",
    "HostError",
    "Info",
    "KernelMissing",
    "Layout",
    "Mask",
    "Member",
    "Module",
    "ReadFault",
    "SourceHost",
    "Symbol",
    "Types",
    "UnknownLayout",
    "coalesce",
    "cut",
]

Addresses = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class U64(int):
    """An address or a word of the kernel's memory: a number for sessions, hex for readers.

    Many readers of JSON keep 53 bits of a number, so a report has it as a string.
    """

    __slots__ = ()


class KernelMissing(HostError):
    """A dump was cut short before what everything else is read with; says what that is."""

    def __init__(self, info: Info, why: str) -> None:
        super().__init__(f"{info.source} is {info.damage}; {why}")
        self.info = info
        self.why = why


@dataclass(frozen=True)
class Info:
    """Facts about the source that do not change while it is open."""

    release: str
    arch: str
    page_size: int
    live: bool
    source: str
    """What was opened, as the user knows it: the dump's file name, or ``/proc/kcore``."""
    vmcoreinfo: Mapping[str, str]
    """The VMCOREINFO note's ``KEY=VALUE`` lines; empty where the source has none."""
    damage: str = ""
    """Why memory is missing that the dump was to hold, and how much; "" where none is."""

    def fault(self, address: int) -> ReadFault:
        """That memory at `address` is not to be read."""
        return ReadFault(address, GONE) if self.live else ReadFault(address)


@dataclass(frozen=True)
class Symbol:
    """A named range of the kernel image or of a module (`module` is "" for the image)."""

    name: str
    address: int
    size: int
    module: str = ""


@dataclass(frozen=True)
class Module:
    """A loaded module's code and data; newer kernels scatter them over several areas."""

    name: str
    ranges: tuple[tuple[int, int], ...]
    """(start, end) of each area."""


class Host(Protocol):
    """A source of kernel memory. Every method may be slow; the batch forms are the cheap ones."""

    def info(self) -> Info: ...

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory; raises `ReadFault` when any byte of it is missing."""
        ...

    def read_many(self, addresses: Addresses, size: int) -> tuple[Bytes, Mask]:
        """Read `size` bytes at each address: ``(uint8[n, size], ok[n])``, zeros where not ok."""
        ...

    def present(self) -> list[tuple[int, int]] | None:
        """Physical ranges (start, end) that the dump holds, sorted; None where it cannot say."""
        ...

    def registers(self) -> Sequence[tuple[int, ...]]:
        """General registers of each CPU as the dump notes them (struct user_regs_struct)."""
        ...

    def symbol_at(self, address: int) -> Symbol | None:
        """The symbol whose range holds `address`."""
        ...

    def address_of(self, name: str) -> int | None:
        """Address of a kernel symbol, or None: this kernel has no such thing."""
        ...

    def modules(self) -> Sequence[Module]: ...

    def layout(self, type_name: str) -> Layout | None:
        """Layout of e.g. ``struct page``; None means this kernel has no such type."""
        ...

    def enumerator(self, name: str) -> int | None:
        """Value of an enumerator, or None where this kernel has none of that name."""
        ...


class Types(Protocol):
    """A source of layouts and enumerators besides a host's own debug info.

    The order of all is: the types that the dump carries, debug files, then a debugger's questions.
    """

    @property
    def known(self) -> bool:
        """Whether it is one: what it does not know, the kernel has not."""
        ...

    def layout(self, type_name: str) -> Layout | None: ...

    def enumerator(self, name: str) -> int | None: ...


@runtime_checkable
class DebugTypesHost(Protocol):
    """A host that knows types from debug files, whatever the dump carries."""

    def debug_layout(self, type_name: str) -> Layout | None: ...

    def debug_enumerator(self, name: str) -> int | None: ...


@runtime_checkable
class CommandHost(Protocol):
    """What a host inside crash can do besides."""

    def crash_command(self, line: str) -> str:
        """Output of a crash command; raises `HostError` with crash's words when it fails."""
        ...

    def evaluate(self, expression: str) -> int | None:
        """Value of a C expression over the kernel's symbols; None where it has none."""
        ...


@runtime_checkable
class SourceHost(Protocol):
    """A host whose debug info may know lines of source."""

    def source_of(self, address: int) -> list[tuple[str, str]]:
        """(function, ``file:line``) of the instruction at `address`, the innermost inlined function
        first; empty where the debug info does not say. The function may be "".
        """
        ...


@runtime_checkable
class DebugFilesHost(Protocol):
    """A host that knows where debug files are."""

    def module_files(self) -> Mapping[str, Path]:
        """Those of loaded modules that the user gave, or that the tool has open, by module."""
        ...

    def debug_folders(self) -> Sequence[Path]:
        """Folders that have other debug files of this kernel."""
        ...


def cut(piece: bytes, addresses: Addresses, size: int) -> Bytes:
    """What is at each of a run's addresses, out of the bytes from the first on: uint8[n, size]."""
    data = np.frombuffer(piece, np.uint8)
    if len(data) == len(addresses) * size:
        return data.reshape(-1, size)
    rows: Bytes = sliding_window_view(data, size)[(addresses - addresses[0]).astype(np.intp)]
    return rows


def coalesce(addresses: Addresses, size: int, limit: int, gap: int = 0) -> list[tuple[int, int]]:
    """Cut sorted, unique `addresses` into runs [i, j) that follow each other without a gap.

    A run is at most `limit` bytes long, so one fault costs one run's retry and a read never
    needs more memory than that. Up to `gap` bytes between two of a run are read with them.
    """
    if not len(addresses):
        return []
    per_run = max(1, limit // (size + gap))
    steps = np.diff(addresses)
    apart = steps > np.uint64(size + gap) if gap else steps != np.uint64(size)
    breaks = np.flatnonzero(apart) + 1
    edges = [0, *breaks.tolist(), len(addresses)]
    return [
        (start, min(start + per_run, edge))
        for begin, edge in pairwise(edges)
        for start in range(begin, edge, per_run)
    ]
