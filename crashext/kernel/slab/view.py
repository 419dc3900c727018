"""One kernel, ready to be asked: address space, memory map, caches, slabs, and what an address is.

It only joins the other files of this folder; each of them knows its own subsystem.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crashext.hosts.base import Host, Info, Symbol
from crashext.hosts.derived import derived
from crashext.kernel.access import UnknownLayout
from crashext.kernel.addresses import AddressSpace, address_space
from crashext.kernel.btf import Btf
from crashext.kernel.memmap import MemoryMap, memory_map
from crashext.kernel.module_types import KernelTypes
from crashext.kernel.slab.caches import Caches, SlabCache, read_caches
from crashext.kernel.slab.freelist import Encoding, Proof
from crashext.kernel.slab.objects import SlabReader, State
from crashext.kernel.slab.pointers import SlabPointers
from crashext.kernel.slab.slabs import MAP_BUDGET, Along, SlabIndex, find_slabs, fits
from crashext.progress import Progress, silent
from crashext.wording import missing


class NoMemoryMap(UnknownLayout):
    """The struct pages of all slabs are missing: only counters say anything of the slabs."""


@dataclass(frozen=True)
class Slot:
    """The slot of a slab that an address is in."""

    cache: SlabCache
    address: int
    """Start of its object."""
    offset: int
    """Of the address from there; negative in a left red zone, past `object_size` in metadata."""
    state: State


class KernelView:
    """Everything the analyses need of one kernel. Cheap until `scan` is called."""

    def __init__(self, host: Host) -> None:
        """Raises `UnknownLayout` where this kernel cannot be understood."""
        self.host = host
        self.space: AddressSpace = address_space(host)
        self.caches: Caches = read_caches(host)
        self.memory: MemoryMap = memory_map(host, self.space)
        self._readers: dict[int, SlabReader] = {}
        self._index: SlabIndex | None = None
        self._whole = False
        self._pointers: SlabPointers | None = None

    def scan(
        self,
        wanted: dict[int, int],
        seed: int,
        progress: Progress = silent,
        budget: int = MAP_BUDGET,
        along: Along | None = None,
    ) -> SlabIndex:
        """The pass over the memory map that finds the slabs; see `slabs.find_slabs`.

        Raises `UnknownLayout` where there is none: no kernel runs without, so this one is misread.
        A map that was read whole is not read again: `keep` may have kept this view.
        """
        whole = fits(self.memory, budget)
        if self._index is None or not (whole and self._whole) or self.host.info().live:
            index = find_slabs(
                self.host, self.memory, self.caches, wanted, seed, progress, budget, along
            )
            if not len(index.address):
                why = _no_slab(index, len(self.caches.all), self.host.info())
                raise NoMemoryMap(why) if index.missing else UnknownLayout(why)
            self._index, self._pointers = index, None
            self._whole = whole
        return self._index

    @property
    def scanned(self) -> bool:
        """Whether `scan` was called."""
        return self._index is not None

    @property
    def index(self) -> SlabIndex:
        if self._index is None:
            raise RuntimeError("scan() comes first")
        return self._index

    @property
    def pointers(self) -> SlabPointers:
        if self._pointers is None:
            self._pointers = SlabPointers(
                self.host, self.space, self.memory, self.caches, self.index
            )
        return self._pointers

    @property
    def btf(self) -> Btf | None:
        """The kernel's and its modules' types; None where the dump has no BTF."""
        return self.types.with_modules()

    @cached_property
    def types(self) -> KernelTypes:
        """The same, with what debug files tell of modules that carry no BTF."""
        return KernelTypes(self.host)

    def reader(self, cache: SlabCache) -> SlabReader:
        """The reader of one cache's slabs; kept, because it holds the CPUs' freelists."""
        if cache.address not in self._readers:
            self._readers[cache.address] = self._reader(cache)
        return self._readers[cache.address]

    def _reader(self, cache: SlabCache) -> SlabReader:
        """A new one. What is worked out for a session that keeps the answer alone keeps none of
        them: what they have read would be missing there."""
        return SlabReader(self.host, self.memory, self.space, cache, lambda: self.encoding)

    @cached_property
    def encoding(self) -> Encoding | None:
        """How this kernel encodes freelists: one form, proved over as many caches as it takes.

        The lists of one cache alone would not do: where it is full everywhere it has none. None:
        a session that was recorded before it kept the answer.
        """
        if all(c.freelist_random is None for c in self.caches.all):
            return Encoding.PLAIN
        known = derived(self.host, "freelist encoding", lambda: self._proved().value)
        return next((form for form in Encoding if form.value == known), None)

    def _proved(self) -> Encoding:
        proof = Proof()
        for number in np.argsort(-np.bincount(self.index.cache, minlength=1)).tolist():
            rows = self.index.rows_of(number)
            proof += self._reader(self.caches.all[number]).prove(self.index, rows)
            if proof.decided:
                break
        return proof.encoding

    def slot(self, address: int) -> Slot | None:
        """The slot that holds `address`; None where no slab does."""
        values = np.array([address], np.uint64)
        targets = self.pointers.resolve(values)
        if targets.cache[0] < 0:
            return None
        cache = self.caches.all[int(targets.cache[0])]
        base = int(targets.base[0])
        batch = self.reader(cache).read_one(base)
        if batch is None:
            return None
        slot = (address - base) // cache.slot_size
        if slot >= batch.state.shape[1]:
            return None
        start = int(batch.address[0, slot])
        return Slot(cache, start, address - start, State(int(batch.state[0, slot])))

    def symbol(self, address: int) -> Symbol | None:
        return self.host.symbol_at(address)


def _no_slab(index: SlabIndex, caches: int, info: Info) -> str:
    """Why no slab was found, as far as the pass itself can tell."""
    why = "no page frame is marked as a slab"
    if index.missing:
        why = f"{index.missing:,} struct pages are {missing(info.live)}"
    elif index.unknown or index.impossible:
        why = f"{index.unknown:,} slabs name no known cache, {index.impossible:,} are impossible"
    said = f"no slab was found of {caches} caches ({why}): the memory map cannot be read"
    return f"{said}; the dump is {info.damage}" if info.damage else said
