"""What the two makers of made-up allocators share: empty memory, a list of caches, reading back."""

from __future__ import annotations

from dataclasses import replace

from crashext.hosts.base import Layout
from crashext.kernel.memmap import MemoryMap, memory_map
from crashext.kernel.slab.caches import Caches, read_caches
from crashext.kernel.slab.objects import SlabReader
from crashext.kernel.slab.slabs import SlabIndex, find_slabs
from crashext.progress import silent
from tests.fake import FakeHost, word
from tests.kernel.machine import DIRECT, PG_SLAB, VMEMMAP, address_space

PAGE = 4096
HEAD = 0xFFFFFFFF82000000
CPUS = (0xFFFF88803FC00000, 0xFFFF88803FD00000)
PG_HEAD, PG_TAIL, PG_RESERVED = 14, 15, 10
LINE = 64
PERCPU = 0x4000
"""Where per-CPU memory that caches get begins."""
Members = dict[str, tuple[int, ...]]


class AllocatorMaker:
    """A kernel of `pages` pages with no cache yet; the last `bytes_pages` hold what is no slab."""

    def __init__(
        self, *layouts: Layout, pages: int, bytes_pages: int, caches: str = "slab_caches"
    ) -> None:
        bits = {"PG_slab": PG_SLAB, "PG_head": PG_HEAD, "PG_tail": PG_TAIL}
        self.host = FakeHost(
            *layouts,
            enumerators={**bits, "PG_reserved": PG_RESERVED},
            symbols={caches: HEAD, "nr_node_ids": HEAD + 64, "nr_cpu_ids": HEAD + 72},
        )
        self.host.put(DIRECT, bytes(PAGE * pages))
        self.host.put(VMEMMAP, bytes(64 * pages))
        self.host.put(HEAD, word(HEAD, HEAD).ljust(64, b"\0") + word(1, len(CPUS)))
        for cpu in CPUS:
            self.host.put(cpu, bytes(1 << 16))
        self.space = replace(address_space(pages), percpu_offsets=CPUS)
        self._byte, self._percpu = DIRECT + PAGE * (pages - bytes_pages), PERCPU

    def bytes(self, size: int) -> int:
        """Some zeroed memory that is no slab."""
        at = self._byte
        self._byte += -(-size // LINE) * LINE
        return at

    def text(self, name: str) -> int:
        """A string somewhere; returns its address."""
        at = self.bytes(LINE)
        self.host.put(at, name.encode())
        return at

    def link(self, entry: int) -> None:
        """Put a cache, by its list entry, in front of the list of caches."""
        first = int.from_bytes(self.host.read(HEAD, 8), "little")
        self.host.put(entry, word(first, HEAD))
        self.host.put(HEAD, word(entry))

    # Reading back

    @property
    def memory(self) -> MemoryMap:
        return memory_map(self.host, self.space)

    def read_caches(self) -> Caches:
        return read_caches(self.host)

    def index(self) -> SlabIndex:
        return find_slabs(self.host, self.memory, self.read_caches(), {}, 0, silent)

    def reader(self, name: str) -> SlabReader:
        cache = self.read_caches().find(name)
        assert cache is not None
        return SlabReader(self.host, self.memory, self.space, cache, lambda: None)
