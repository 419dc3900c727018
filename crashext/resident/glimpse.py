"""The little of a crash session that a mistake is told by: its caches' names, and no numpy.

A mistyped name is the one mistake that needs the dump. What does the work takes a tenth of a second
to load and as long to open; a glimpse takes some pages and a few of the kernel's own types. It is
as strict as it is quick: where anything is odd it knows nothing, and the answer is left to those
that can tell damage from another kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crashext.hosts.bridge import Bridge
from crashext.hosts.crash_mod import knows_files, module_names
from crashext.hosts.faults import HostError, ReadFault, UnknownLayout
from crashext.hosts.layouts import Layout
from crashext.kernel.btf_lookup import BtfLookup
from crashext.kernel.btf_modules import module_btf
from crashext.kernel.btf_names import TypeNames, type_names
from crashext.kernel.slab.listed import CacheNames, cache_names

_PAGE = 4096
_MOST_PAGES = 1 << 14
_MOST_TYPES = 64 << 20
_MOST_AT_ONCE = 1024  # pages
_LEAST_CACHES = 32  # that a kernel has when it has booted
_TAGGED = ("kasan_init_hw_tags_cpu", "__hwasan_tag_memory")


def names_of_caches(bridge: Bridge) -> CacheNames | None:
    """Of the open dump or machine; None where a closer look must tell."""
    try:
        memory = _open(bridge)
        found = None if memory is None else cache_names(memory, memory.many)
    except (HostError, ReadFault, UnknownLayout, ValueError):
        return None
    if found is None or memory is None or memory.missed or found.damage is not None:
        return None
    sound = all(name.isascii() and name.isprintable() and name for name in found.every)
    return found if sound and found.count >= _LEAST_CACHES else None


def names_of_types(bridge: Bridge) -> TypeNames | None:
    """Of the open dump or machine; None where a closer look must tell: where a module's types are
    in a debug file, or the kernel's memory may not hold all of them."""
    try:
        mod = bridge.command("mod")
        memory = None if knows_files(mod) else _open(bridge)
        if memory is None:
            return None
        modules = dict(module_btf(memory))
        if memory.missed or not module_names(mod) <= modules.keys():
            return None
        return type_names(memory.btf, list(modules.values()))
    except (HostError, ReadFault, UnknownLayout, ValueError):
        return None


def _open(bridge: Bridge) -> _Glimpse | None:
    """x86-64 alone: crash translates these addresses without page tables, which the dump may lack;
    crash would jump to its prompt."""
    where = bridge.addresses_of(
        "__start_BTF", "__stop_BTF", "_text", "_end", "page_offset_base", "vmalloc_base", *_TAGGED
    )
    start, stop, text, end, direct, vmalloc, *tagged = where
    if any(tagged) or not all((start, stop, text, end, direct, vmalloc)):
        return None
    if not 0 < stop - start <= _MOST_TYPES:
        return None
    bounds = [bridge.read(variable, 8) for variable in (direct, vmalloc)]
    low, high = (int.from_bytes(bound, "little") for bound in bounds)
    return _Glimpse(bridge, bridge.read(start, stop - start), ((text, end), (low, high)))


class _Glimpse:
    """Whole pages of the direct map and the image, each read once, with the kernel's types."""

    def __init__(self, bridge: Bridge, btf: bytes, ranges: Sequence[tuple[int, int]]) -> None:
        self._bridge, self._ranges = bridge, ranges
        self.btf = btf
        types = BtfLookup(btf)
        self._pages: dict[int, bytes] = {}
        self.missed = False
        """Something was not to be read."""
        self.address_of: Callable[[str], int | None] = bridge.address_of
        self.layout: Callable[[str], Layout | None] = types.layout
        self.enumerator: Callable[[str], int | None] = types.enumerator

    def read(self, address: int, size: int) -> bytes:
        found = self.many([address], size)[0]
        if found is None:
            raise ReadFault(address)
        return found

    def many(self, addresses: Sequence[int], size: int) -> list[bytes | None]:
        """What is at each address; None where something is not to be read."""
        wanted = {p for at in addresses for p in range(at // _PAGE, (at + size - 1) // _PAGE + 1)}
        self._take(sorted(wanted - self._pages.keys()))
        return [self._piece(at, size) for at in addresses]

    def _take(self, numbers: list[int]) -> None:
        safe = [n for n in numbers if any(a <= n * _PAGE < b for a, b in self._ranges)]
        if len(self._pages) + len(safe) > _MOST_PAGES:
            raise UnknownLayout("too much to look at for a glimpse")
        for first in range(0, len(safe), _MOST_AT_ONCE):
            some = safe[first : first + _MOST_AT_ONCE]
            found = self._bridge.runs([(n * _PAGE, _PAGE) for n in some])
            for number, page in zip(some, found, strict=True):
                if page is not None:
                    self._pages[number] = page

    def _piece(self, address: int, size: int) -> bytes | None:
        first, skip = divmod(address, _PAGE)
        pages = [self._pages.get(n) for n in range(first, (address + size - 1) // _PAGE + 1)]
        whole = [page for page in pages if page is not None]
        if len(whole) < len(pages):
            self.missed = True
            return None
        return b"".join(whole)[skip : skip + size]
