"""The base dump's kernel as the generator changes it: members and variables by name, page tables.

What is read comes from the image, so that what was changed before is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Layout
from crashext.hosts.drgn import DrgnHost, open_core
from crashext.kernel.addresses import image_shift
from crashext.kernel.pages.frames import Frames, frames
from crashext.kernel.pages.pagetables import physical
from crashext.kernel.pages.zones import node_addresses
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent

from .image import Image

_WORD = (1 << 64) - 1
_TABLE = 0x63  # present, writable, accessed, dirty: _KERNPG_TABLE
_LARGE = 0xE3  # the same, and a large page
_FRAME = 0x000FFFFFFFFFF000


class Kernel:
    """Reads and writes the image by virtual addresses of the direct map and of the image."""

    def __init__(self, host: DrgnHost, image: Image) -> None:
        self.host, self.image = host, image
        self.view = KernelView(host)
        self.view.scan({}, 0, budget=1 << 62)
        self.space = self.view.space
        self.nodes = node_addresses(host)
        self._tables: dict[int, NDArray[np.uint64]] = {}
        shift = image_shift(host)
        assert shift is not None
        self._shift = shift

    @cached_property
    def frames(self) -> Frames:
        """What the base dump's pages are."""
        return frames(self.host, self.view.memory, self.space, silent)

    def layout(self, name: str) -> Layout:
        found = self.host.layout(name)
        assert found is not None, name
        return found

    def symbol(self, name: str) -> int:
        address = self.host.address_of(name)
        assert address is not None, name
        return address

    def physical(self, address: int) -> int:
        """Where a virtual address of the kernel is."""
        if self.space.direct.start <= address < self.space.vmalloc.start:
            return address - self.space.direct.start
        if self.space.image.start <= address < self.space.image.end:
            return (address - self._shift) & _WORD
        found, ok = physical(self.host, self.space, np.array([address], np.uint64))
        assert ok[0], hex(address)
        return int(found[0])

    def read(self, address: int, size: int = 8) -> int:
        return int.from_bytes(self.image.read(self.physical(address), size), "little")

    def write(self, address: int, value: int, size: int = 8) -> None:
        self.image.write(
            self.physical(address), (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        )

    def bump(self, address: int, by: int) -> None:
        """Add to a counter of 64 bits."""
        self.write(address, self.read(address) + by)

    def item(self, table: int, name: str) -> int:
        """Address of a counter of an array that an enumerator numbers."""
        number = self.host.enumerator(name)
        assert number is not None, name
        return table + 8 * number

    # Page tables

    def map_large(self, address: int, targets: NDArray[np.uint64], spare: Iterator[int]) -> None:
        """Map 2 MiB pages, all under one table, from `address` on; `spare` gives pages."""
        top = self.physical(self.symbol("init_top_pgt"))
        middle = self._below(top, address >> 39 & 511, spare)
        table = self._table(self._below(middle, address >> 30 & 511, spare))
        begin = address >> 21 & 511
        table[begin : begin + len(targets)] = targets | np.uint64(_LARGE)

    def map_gigabyte(self, start: int, number: int, spare: Iterator[int]) -> None:
        """Map a gigabyte of physical memory in the direct map that begins at `start`."""
        physical_address = number << 30
        address = start + physical_address
        top = self.physical(self.symbol("init_top_pgt"))
        table = self._table(self._below(top, address >> 39 & 511, spare))
        if not int(table[address >> 30 & 511]) & 1:
            table[address >> 30 & 511] = physical_address | _LARGE

    def _table(self, at: int) -> NDArray[np.uint64]:
        if at not in self._tables:
            self._tables[at] = np.frombuffer(self.image.read(at, 4096), "<u8").copy()
        return self._tables[at]

    def _below(self, table: int, index: int, spare: Iterator[int]) -> int:
        entries = self._table(table)
        if not int(entries[index]) & 1:
            fresh = next(spare)
            self._tables[fresh] = np.zeros(512, np.uint64)
            entries[index] = fresh | _TABLE
        return int(entries[index]) & _FRAME

    def flush(self) -> None:
        """Write the page tables back."""
        for at, table in self._tables.items():
            self.image.write(at, table)


def open_base(folder: Path, image: Image) -> Kernel:
    """The kernel of a lab's dump folder."""
    return Kernel(open_core(folder / "vmcore", [folder / "vmlinux"]), image)
