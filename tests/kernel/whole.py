"""A whole small kernel made of nothing: memory, a memory map, caches, slabs, areas, tasks.

Everything lies where a real one of 6.1 keeps it, as far as the mark looks: the kernel image in
reserved page frames, slabs with freelists, vmalloc areas mapped page by page, tasks on the task
list with stacks of their own. What real kernels look like is the lab's to say; this one has only
what a test puts there, so that the test can say what must come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from crashext.analysis.reach.reachability import Class, Reach, reach
from crashext.analysis.settings import MEMORY_BUDGET
from crashext.hosts.base import Symbol
from crashext.kernel.slab.view import KernelView
from crashext.progress import silent
from tests.fake import INFO, FakeHost, layout, word

DIRECT, VMEMMAP, VMALLOC = 0xFFFF888000000000, 0xFFFFEA0000000000, 0xFFFFC90000000000
TEXT, DATA = 0xFFFFFFFF81000000, 0xFFFFFFFF81008000
PAGE = 4096
CALLER = TEXT + 64
"""Of whatever the kernel allocated for itself."""
_IMAGE_PFN, _IMAGE_PAGES = 16, 16
_IMAGE = PAGE * _IMAGE_PFN  # physical
_KERNEL_MAP = 0xFFFFFFFF80000000
RESERVED, _SLAB, _LRU = 1 << 11, 1 << 9, 1 << 5
_BUDDY, _NO_TYPE = 0xFFFFFF7F, 0xFFFFFFFF
_TABLE = 0x67  # present, writable, accessed, dirty
THREAD_SIZE = 4 * PAGE
_MOST_PAGES = 1 << 20

LAYOUTS = (
    layout(
        "struct page",
        64,
        flags=(0, 8),
        lru=(8, 16),
        compound_head=(8, 8),
        mapping=(24, 8),
        slab_cache=(24, 8),
        freelist=(32, 8),
        private=(40, 8),
        inuse=(40, 4, 0, 16),
        objects=(42, 4, 0, 15),
        page_type=(48, 4),
        _refcount=(52, 4),
    ),
    layout(
        "struct kmem_cache",
        64,
        flags=(0, 8),
        size=(8, 4),
        object_size=(12, 4),
        offset=(16, 4),
        oo=(20, 4),
        name=(24, 8),
        list=(32, 16),
    ),
    layout("struct rb_node", 24, rb_right=(8, 8), rb_left=(16, 8)),
    layout("struct vmap_area", 64, va_start=(0, 8), va_end=(8, 8), rb_node=(16, 24), vm=(40, 8)),
    layout(
        "struct vm_struct",
        64,
        addr=(8, 8),
        size=(16, 8),
        flags=(24, 8),
        pages=(32, 8),
        nr_pages=(40, 4),
        caller=(56, 8),
    ),
    layout(
        "struct task_struct",
        128,
        tasks=(0, 16),
        stack=(16, 8),
        pid=(24, 4),
        on_cpu=(28, 4),
        comm=(32, 16),
        thread=(48, 16),
        last_wakee=(64, 8),
        exit_state=(72, 4),
    ),
    layout("struct thread_struct", 16, sp=(0, 8)),
    layout("struct kmemleak_object", 128, rcu=(16, 16)),
)


class Host(FakeHost):
    """Memory that the kernel image and vmalloc areas see through mappings of their own."""

    def __init__(self) -> None:
        bits = {"PG_slab": 9, "PG_reserved": 11, "PG_lru": 5}
        super().__init__(*LAYOUTS, enumerators=bits, info=INFO)
        self.mapped: dict[int, int] = {}
        """Virtual page -> direct-map address of its page frame."""
        self.running: list[tuple[int, ...]] = []
        """Registers of each CPU."""
        self.lost: set[int] = set()
        """Page frames that are not in the dump."""
        self.tells = True
        """Whether it can say which page frames it has."""

    def present(self) -> list[tuple[int, int]] | None:
        if not self.tells:
            return None
        edges = [-1, *sorted(self.lost), _MOST_PAGES]
        return [((a + 1) * PAGE, b * PAGE) for a, b in pairwise(edges)]

    def symbol_at(self, address: int) -> Symbol | None:
        """The last symbol before an address of the image."""
        if not TEXT <= address < TEXT + PAGE * _IMAGE_PAGES:
            return None
        at, name = max((a, n) for n, a in self.symbols.items() if a <= address)
        return Symbol(name, at, 0)

    def registers(self) -> Sequence[tuple[int, ...]]:
        return self.running

    def _seen(self, address: int) -> int:
        page = self.mapped.get(address & -PAGE)
        return address if page is None else page + address % PAGE

    def read(self, address: int, size: int) -> bytes:
        if address & -PAGE not in self.mapped:
            return super().read(address, size)
        first = min(size, PAGE - address % PAGE)
        rest = self.read(address + first, size - first) if size > first else b""
        return super().read(self._seen(address), first) + rest

    def put(self, address: int, data: bytes) -> None:
        super().put(self._seen(address), data)


@dataclass
class Cache:
    """A cache of this kernel, and the slabs it has so far."""

    name: str
    size: int
    address: int
    slabs: list[int] = field(default_factory=list)
    used: int = 0
    """Objects ever taken from the last slab."""

    @property
    def per_slab(self) -> int:
        return PAGE // self.size


def struct_page(page: int) -> int:
    """Where the descriptor is of the page at a direct-map address."""
    return VMEMMAP + 64 * ((page - DIRECT) // PAGE)


class Kernel:
    """Puts things into memory; `marked` looks at them as the product does."""

    def __init__(self, pages: int = 512) -> None:
        self.host = Host()
        self.host.put(DIRECT, bytes(PAGE * pages))
        self._next_pfn = _IMAGE_PFN + _IMAGE_PAGES
        top = self._map_memory_map(pages)
        for pfn in range(pages):
            self._page(pfn, kind=_BUDDY)
        for i in range(_IMAGE_PAGES):
            self._page(_IMAGE_PFN + i, flags=RESERVED, references=1)
            self.host.mapped[TEXT + PAGE * i] = DIRECT + PAGE * (_IMAGE_PFN + i)
        for pfn in range(_IMAGE_PFN + _IMAGE_PAGES, self._next_pfn):
            self._page(pfn, flags=RESERVED, references=1)
        self._next_data = DATA
        self._next_area = VMALLOC + 16 * PAGE
        self._free: dict[int, list[int]] = {}
        end = TEXT + PAGE * _IMAGE_PAGES
        self.host.symbols.update(_text=TEXT, _etext=DATA, _end=end, start_kernel=CALLER)
        self.host.symbols["init_top_pgt"] = top
        self.variable("max_pfn", pages)
        self.variable("phys_base", _IMAGE - (TEXT - _KERNEL_MAP))
        caches = self.variable("slab_caches", 0, 0)
        self.host.put(caches, word(caches, caches))
        self._caches: dict[str, Cache] = {}
        # The first cache is the one that the descriptors of all caches are from.
        self._descriptors = Cache("kmem_cache", 64, 0)
        self._caches["kmem_cache"] = self._descriptors
        self._describe(self._descriptors)
        self._areas = self.variable("vmap_area_root", 0)
        self._last_area = 0
        self.init_task = self.variable("init_task", *([0] * 16))
        self.host.put(self.init_task, word(self.init_task, self.init_task))

    # Memory

    def _map_memory_map(self, pages: int) -> int:
        """The struct pages, in page frames of their own, and the page tables that map them."""
        behind = range(self._next_pfn, self._next_pfn + -(-64 * pages // PAGE))
        self._next_pfn = behind.stop + 4
        top, *tables = (DIRECT + PAGE * (behind.stop + i) for i in range(4))
        for i, pfn in enumerate(behind):
            self.host.mapped[VMEMMAP + PAGE * i] = DIRECT + PAGE * pfn
            self.write(tables[-1] + 8 * i, PAGE * pfn | _TABLE)
        for level, (table, below) in enumerate(pairwise([top, *tables])):
            index = VMEMMAP >> (39 - 9 * level) & 511
            self.write(table + 8 * index, below - DIRECT | _TABLE)
        return top

    def page(self, mapping: int = 0, flags: int = 0) -> int:
        """A page of the page allocator's; returns its direct-map address."""
        pfn, self._next_pfn = self._next_pfn, self._next_pfn + 1
        self._page(pfn, flags=flags, references=1, mapping=mapping)
        return DIRECT + PAGE * pfn

    def user_page(self) -> int:
        """An anonymous page."""
        return self.page(mapping=DIRECT | 1, flags=_LRU)

    def block(self, pages: int) -> int:
        """Neighbours of which only the first counts references: an allocation, not compound."""
        first = self.page()
        for _ in range(pages - 1):
            self._page((self.page() - DIRECT) // PAGE, references=0)
        return first

    def align(self, pages: int) -> None:
        """The next page is the first of as many whose number is a multiple."""
        self._next_pfn = -(-self._next_pfn // pages) * pages

    def free_page(self) -> int:
        """A page in the buddy allocator's lists."""
        pfn, self._next_pfn = self._next_pfn, self._next_pfn + 1
        return DIRECT + PAGE * pfn

    def _page(
        self, pfn: int, flags: int = 0, references: int = 0, mapping: int = 0, kind: int = _NO_TYPE
    ) -> None:
        at = VMEMMAP + 64 * pfn
        self.host.put(at, word(flags, 0, 0, mapping, 0, 0))
        self.host.put(at + 48, kind.to_bytes(4, "little") + references.to_bytes(4, "little"))

    def write(self, address: int, *words: int) -> None:
        """Words from `address` on."""
        self.host.put(address, word(*words))

    def lose(self, address: int) -> None:
        """Take a page out of the dump."""
        start = self.host._extent(address)
        assert start is not None
        data, at = self.host.extents.pop(start), address - start
        self.host.extents[start] = data[:at]
        self.host.extents[address + PAGE] = data[at + PAGE :]
        self.host.lost.add((address - DIRECT) // PAGE)

    def variable(self, name: str, *words: int) -> int:
        """A variable of the kernel image; returns its address."""
        at = self._next_data
        self._next_data += 8 * max(1, len(words))
        assert self._next_data <= TEXT + PAGE * _IMAGE_PAGES
        self.host.symbols[name] = at
        self.host.put(at, word(*words))
        return at

    # Slabs

    def _describe(self, cache: Cache) -> None:
        """A kmem_cache on the list of them all."""
        name = self.variable(f"name_of_{cache.name}", *_text(cache.name))
        if cache is self._descriptors:
            cache.address = DIRECT + PAGE * self._next_pfn
        at = self.object("kmem_cache")
        cache.address = at
        head = self.host.symbols["slab_caches"]
        first = int.from_bytes(self.host.read(head, 8), "little")
        sizes = [cache.size | cache.size << 32, cache.per_slab << 32, name, first, head]
        self.host.put(at, word(0, *sizes))
        self.host.put(head, word(at + 32))
        self.host.put(first + 8, word(at + 32))

    def cache(self, name: str) -> Cache:
        """The cache called `name`; it is made when it is first asked for."""
        if name not in self._caches:
            known = self.host.layouts.get(f"struct {name}")
            kmalloc = name.removeprefix("kmalloc-")
            size = known.size if known else int(kmalloc) if kmalloc.isdigit() else 64
            self._caches[name] = Cache(name, size, 0)
            self._describe(self._caches[name])
        return self._caches[name]

    def object(self, name: str = "kmalloc-64", *words: int) -> int:
        """A new allocated object that begins with `words`; returns its address."""
        cache = self.cache(name)
        if not cache.slabs or cache.used == cache.per_slab:
            self._slab(cache)
        at = cache.slabs[-1] + cache.size * cache.used
        cache.used += 1
        self._free[cache.slabs[-1]].remove(at)
        self._freelist(cache.slabs[-1], cache)
        self.host.put(at, bytes(cache.size))
        if words:
            self.write(at, *words)
        return at

    def _slab(self, cache: Cache) -> None:
        at = self.page()
        cache.slabs.append(at)
        cache.used = 0
        self._free[at] = [at + cache.size * i for i in range(cache.per_slab)]
        self._page((at - DIRECT) // PAGE, _SLAB, 1, cache.address)
        self._freelist(at, cache)

    def free(self, cache: str, address: int) -> None:
        """Give an object back; what is in it past the first word stays, as in a real kernel."""
        slab = address & -PAGE
        self._free[slab].insert(0, address)
        self._freelist(slab, self._caches[cache])

    def _freelist(self, slab: int, cache: Cache) -> None:
        chain = [*self._free[slab], 0]
        for at, following in pairwise(chain):
            self.write(at, following)
        page = VMEMMAP + 64 * ((slab - DIRECT) // PAGE)
        used = cache.per_slab - len(self._free[slab])
        self.host.put(page + 32, word(chain[0], used | cache.per_slab << 16))

    def break_freelist(self, address: int) -> None:
        """The slab of `address` has a freelist that leads astray after its first object."""
        self.write(self._free[address & -PAGE][0], DIRECT + 12345)

    # Areas, stacks and tasks

    def vmap(self, pages: Sequence[int]) -> int:
        """An area that maps pages of others, of which its vm_struct has no array."""
        at = self._next_area
        self._next_area += PAGE * (len(pages) + 1)
        top = self.host.symbols["init_top_pgt"]
        for i, page in enumerate(pages):
            table = top
            for shift in (39, 30, 21):
                entry = table + 8 * ((at >> shift) & 511)
                below = int.from_bytes(self.host.read(entry, 8), "little")
                if not below:
                    below = (self.page() - DIRECT) | _TABLE
                    self.write(entry, below)
                table = DIRECT + (below & -PAGE)
            self.write(table + 8 * ((at >> 12) + i & 511), page - DIRECT | _TABLE)
            self.host.mapped[at + PAGE * i] = page
        size = PAGE * (len(pages) + 1)
        self._describe_area(at, size, self.object("kmalloc-64", 0, at, size, 4, 0, 0, 0, CALLER))
        return at

    def area(self, pages: int, caller: int = CALLER, at: int = 0) -> int:
        """A vmalloc area with all its bookkeeping, `at` an address of its own or at the next;
        returns its address."""
        if not at:
            at = self._next_area
            self._next_area += PAGE * (pages + 1)
        behind = [self.page() for _ in range(pages)]
        for i, page in enumerate(behind):
            self.host.mapped[at + PAGE * i] = page
        maps = [VMEMMAP + 64 * ((p - DIRECT) // PAGE) for p in behind]
        array = self.object("kmalloc-128", *maps)
        vm = self.object("kmalloc-64", 0, at, PAGE * (pages + 1), 2, array, pages, 0, caller)
        self._describe_area(at, PAGE * (pages + 1), vm)
        return at

    def _describe_area(self, at: int, size: int, vm: int) -> None:
        area = self.object("vmap_area", at, at + size, 0, 0, 0, vm)
        self.write(self._last_area + 8 if self._last_area else self._areas, area + 16)
        self._last_area = area + 16

    def task(self, pid: int, comm: str, used: int, stack: int | None = None) -> tuple[int, int]:
        """A sleeping task on the task list, `used` bytes of its stack in use: task and stack."""
        stack = self.area(4, CALLER) if stack is None else stack
        last = int.from_bytes(self.host.read(self.init_task + 8, 8), "little")
        name = [int.from_bytes(comm.encode().ljust(16, b"\0")[i : i + 8], "little") for i in (0, 8)]
        sp = stack + THREAD_SIZE - used
        task = self.object("task_struct", self.init_task, last, stack, pid, *name, sp)
        self.write(last, task)
        self.write(self.init_task + 8, task)
        return task, stack

    # Looking

    def view(self) -> KernelView:
        """As it is now."""
        return KernelView(self.host)

    def marked(self, budget: int = MEMORY_BUDGET) -> Reach:
        """Marked, as it is now."""
        return reach(self.view(), silent, lambda name: np.random.default_rng(1), budget)


def _text(name: str) -> list[int]:
    data = name.encode() + bytes(8 - len(name) % 8)
    return [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]


def class_of(marked: Reach, *addresses: int) -> list[Class]:
    """What the mark says of some objects."""
    slots = marked.table.at(np.array(addresses, np.uint64))
    return [Class(c) for c in marked.classes(slots).tolist()]
