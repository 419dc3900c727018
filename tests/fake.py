"""A kernel made of nothing: a `Host` over a few extents, symbols and layouts that a test names.

For corner cases only: what real kernels look like is the lab's to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from crashext.hosts.base import (
    Addresses,
    Bytes,
    Info,
    Layout,
    Mask,
    Member,
    Module,
    ReadFault,
    Symbol,
)
from crashext.kernel.slab.caches import SlabCache

INFO = Info("6.1.0-9-amd64", "x86_64", 4096, False, "vmcore", {"PAGESIZE": "4096"})


def layout(name: str, size: int, /, **members: tuple[int, ...]) -> Layout:
    """Members as (offset, size) or, for bit fields, (offset, size, bit offset, bit size)."""
    return Layout(
        name,
        size,
        {
            k: Member(v[0], v[1], **dict(zip(("bit_offset", "bit_size"), v[2:], strict=False)))
            for k, v in members.items()
        },
    )


def word(*values: int) -> bytes:
    """Little-endian 64-bit words."""
    return b"".join((v & (1 << 64) - 1).to_bytes(8, "little") for v in values)


class FakeHost:
    """A `Host` whose every answer was put there by the test. Memory not put there is missing."""

    def __init__(
        self,
        *layouts: Layout,
        symbols: Mapping[str, int] | None = None,
        enumerators: Mapping[str, int] | None = None,
        modules: Sequence[Module] = (),
        present: list[tuple[int, int]] | None = None,
        info: Info = INFO,
    ) -> None:
        self.extents: dict[int, bytearray] = {}
        self.symbols = dict(symbols or {})
        self.layouts = {known.name: known for known in layouts}
        self.enumerators = dict(enumerators or {})
        self._modules, self._present, self._info = tuple(modules), present, info

    def put(self, address: int, data: bytes) -> None:
        """Write into an extent that is there, or add one."""
        start = self._extent(address)
        if start is None:
            self.extents[address] = bytearray(data)
            return
        offset = address - start
        self.extents[start][offset : offset + len(data)] = data

    def _extent(self, address: int) -> int | None:
        return next((s for s, d in self.extents.items() if s <= address < s + len(d)), None)

    def vmcoreinfo(self, **fields: str) -> None:
        """Add fields; ``SYMBOL__x`` stands for ``SYMBOL(x)``."""
        named = {f"{k.replace('__', '(', 1)})" if "__" in k else k: v for k, v in fields.items()}
        self._info = replace(self._info, vmcoreinfo={**self._info.vmcoreinfo, **named})

    def info(self) -> Info:
        return self._info

    def read(self, address: int, size: int) -> bytes:
        data, at = b"", address
        while len(data) < size:
            start = self._extent(at)
            if start is None:
                raise ReadFault(at)
            piece = self.extents[start][at - start : at - start + size - len(data)]
            data += piece
            at += len(piece)
        return data

    def read_many(self, addresses: Addresses, size: int) -> tuple[Bytes, Mask]:
        data = np.zeros((len(addresses), size), np.uint8)
        ok = np.zeros(len(addresses), np.bool_)
        for i, address in enumerate(addresses.tolist()):
            try:
                data[i], ok[i] = np.frombuffer(self.read(address, size), np.uint8), True
            except ReadFault:
                continue
        return data, ok

    def present(self) -> list[tuple[int, int]] | None:
        return self._present

    def registers(self) -> Sequence[tuple[int, ...]]:
        return ()

    def symbol_at(self, address: int) -> Symbol | None:
        return next(
            (Symbol(n, a, 8) for n, a in self.symbols.items() if a <= address < a + 8), None
        )

    def address_of(self, name: str) -> int | None:
        return self.symbols.get(name)

    def modules(self) -> Sequence[Module]:
        return self._modules

    def layout(self, type_name: str) -> Layout | None:
        return self.layouts.get(type_name)

    def enumerator(self, name: str) -> int | None:
        return self.enumerators.get(name)


def slab_cache(
    name: str = "kmalloc-64",
    size: int = 64,
    *,
    address: int = 0xFFFF888000100000,
    object_size: int | None = None,
    freelist_offset: int = 0,
    red_left_pad: int = 0,
    random: int | None = None,
    objects: int = 8,
    nodes: tuple[int, ...] = (),
) -> SlabCache:
    """A cache as `read_caches` would have read it."""
    return SlabCache(
        address=address,
        name=name,
        aliases=(),
        object_size=object_size or size,
        slot_size=size,
        freelist_offset=freelist_offset,
        red_left_pad=red_left_pad,
        freelist_random=random,
        objects_per_slab=objects,
        order=0,
        flags=frozenset(),
        has_constructor=False,
        refcount=1,
        counters=None,
        nodes=nodes,
    )
