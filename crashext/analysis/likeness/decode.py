"""What a word means, in the words of the field: symbols, cache+offset, poison, text, numbers.

It decodes the few words that are shown, so it may look things up one by one.
"""

from __future__ import annotations

import numpy as np

from crashext.analysis.likeness.words import PAIR_HALF, Classifier, Kind
from crashext.analysis.results.reports import Hop
from crashext.hosts.base import U64, Host, ReadFault
from crashext.kernel.errnos import as_error, error_name
from crashext.kernel.markers import BY_VALUE, FILLED, MAGIC32, POISON_END, describe, release_tuple
from crashext.kernel.pages.describe import describe_page
from crashext.kernel.pages.vmalloc import area_at
from crashext.kernel.slab.caches import Caches
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.view import KernelView

_HOP_BYTES = 4096
_HOP_WIDTH = 8


def symbolic(host: Host, address: int) -> str:
    """``name+0x10 [module]``; the bare address where nothing has a name."""
    symbol = host.symbol_at(address)
    module = _module_of(host, address)
    if symbol is None:
        return f"{address:#x}" + (f" [{module}]" if module else "")
    offset = f"+{address - symbol.address:#x}" if address != symbol.address else ""
    return f"{symbol.name}{offset}" + (f" [{symbol.module}]" if symbol.module else "")


def _module_of(host: Host, address: int) -> str:
    return next((m.name for m in host.modules() if any(a <= address < b for a, b in m.ranges)), "")


def printable_run(word: int) -> str:
    """The printable characters a word begins with."""
    text = ""
    for byte in word.to_bytes(8, "little"):
        if not 0x20 <= byte < 0x7F:
            break
        text += chr(byte)
    return text


def number_text(value: int, bits: int) -> str:
    """A word of `bits` bits as a number; small negative ones with the error they may be."""
    negative = as_error(value, bits)
    if negative is None:
        return str(value)
    error = error_name(negative)
    return f"{negative} ({error})" if error else str(negative)


def two_numbers(word: int) -> str:
    """``-110 (-ETIMEDOUT), 5 (two 32-bit numbers)``"""
    low, high = number_text(word & 0xFFFFFFFF, 32), number_text(word >> 32, 32)
    return f"{low}, {high} (two 32-bit numbers)"


class Decoder:
    """Meanings for one kernel.

    With `view` None, for a kernel whose slabs and pages are not understood: names only. With
    `host` None too, for words out of context.
    """

    def __init__(self, host: Host | None, view: KernelView | None, classifier: Classifier) -> None:
        self._host, self._view, self._classifier = host, view, classifier
        self._release = release_tuple(host.info().release) if host else None

    @property
    def caches(self) -> Caches | None:
        """The kernel's caches, for naming what pointers lead to."""
        return self._view.caches if self._view else None

    def meaning(self, value: int, kind: Kind, offset: int, detail: int) -> str:
        """One word at `offset` of its object, whose kind and detail are known."""
        match kind:
            case Kind.ZERO:
                return "0"
            case Kind.SELF:
                if detail == offset:
                    return "itself: an empty list_head"
                if detail == offset - 8:
                    return "the word before: an empty list_head"
                return f"this object+{detail:#x}"
            case Kind.LIST_POISON | Kind.POISON:
                return self._poison(value)
            case Kind.TEXT_SYMBOL | Kind.DATA_SYMBOL | Kind.MODULE:
                return self._symbol(value, kind)
            case Kind.SLAB | Kind.DIRECT | Kind.VMALLOC | Kind.VMEMMAP:
                return self.pointer(value) if self._view else self._bare_pointer(value, kind)
            case Kind.PERCPU:
                return "per-CPU pointer"
            case Kind.ERR_PTR:
                number = value - (1 << 64)
                return f"{error_name(number) or number} (error pointer)"
            case Kind.NEGATIVE:
                return str(value - (1 << 64))
            case Kind.SMALL | Kind.INT:
                return self._number(value)
            case Kind.PAIR:
                return two_numbers(value)
            case Kind.ASCII:
                return f'"{printable_run(value)}"'
            case Kind.USER:
                return "user-space address"
            case _:
                return self._opaque(value)

    def _poison(self, value: int) -> str:
        if value in BY_VALUE:
            return describe(BY_VALUE[value], self._release)
        if value == POISON_END:
            return "POISON_FREE, POISON_END: a free object's last word, poisoned by slub_debug=P"
        name, implies = FILLED[value & 0xFF]
        return f"{name}: {implies}"

    def _symbol(self, value: int, kind: Kind) -> str:
        if self._host is None:
            return "kernel text or data" if kind is Kind.TEXT_SYMBOL else "a module's text or data"
        return symbolic(self._host, value)

    def _number(self, value: int) -> str:
        if value in MAGIC32:
            return "{}: {}".format(*MAGIC32[value])
        return str(value) if as_error(value, 32) is None else two_numbers(value)

    def _opaque(self, value: int) -> str:
        halves = (value & 0xFFFFFFFF, value >> 32)
        for half in halves:
            if half in MAGIC32:
                return "{}: {}".format(*MAGIC32[half])
        errors = [as_error(half, 32) is not None for half in halves]
        plausible = all(e or half < PAIR_HALF for e, half in zip(errors, halves, strict=True))
        return two_numbers(value) if plausible or halves[1] == 0xFFFFFFFF else ""

    def _bare_pointer(self, value: int, kind: Kind) -> str:
        """A kernel address by its range alone, and a vmalloc area by the kernel's own list."""
        if kind is Kind.DIRECT:
            return "kernel pointer (direct map)"
        if self._host is not None and kind is Kind.VMALLOC:
            return self._vmalloc(self._host, value) or "kernel pointer"
        if self._host is not None and kind is Kind.VMEMMAP:
            return "struct page pointer"
        return "kernel pointer"

    def pointer(self, value: int) -> str:
        """What a kernel address is: slab object, page, vmalloc area, struct page."""
        view = self._view
        if view is None:
            return "kernel pointer"
        slot = view.slot(value)
        if slot is not None:
            return _slot_text(slot.cache.name, slot.offset, slot.cache.object_size, slot.state)
        number = np.array([value], np.uint64)
        if view.space.direct.holds(number)[0]:
            return describe_page(view.host, view.memory, view.space.pfn(value))
        if view.space.vmemmap.holds(number)[0]:
            pfns, known = view.memory.pfns_of(number)
            if not known[0]:
                return "struct page pointer"
            inside = view.slot(view.space.address(int(pfns[0])))
            owner = f" of a slab of {inside.cache.name}" if inside else ""
            return f"struct page{owner} (page frame {int(pfns[0]):#x})"
        if view.space.vmalloc.holds(number)[0]:
            return self._vmalloc(view.host, value) or "vmalloc address, in no area"
        return "kernel address"

    def _vmalloc(self, host: Host, value: int) -> str:
        """The vmalloc area that holds an address; "" where none does."""
        area = area_at(host, value)
        if area is None:
            return ""
        by = f", by {symbolic(host, area.caller)}" if area.caller else ""
        return f"vmalloc area+{value - area.start:#x} of {area.end - area.start:,} bytes{by}"

    def hops(self, value: int, depth: int) -> tuple[Hop, ...]:
        """Follow a slab pointer, at most `depth` objects, until something has a name."""
        view = self._view
        if view is None or depth < 1:
            return ()
        level: list[tuple[int, tuple[Hop, ...]]] = [(value, ())]
        seen: set[int] = set()
        for _ in range(depth):
            following: list[tuple[int, tuple[Hop, ...]]] = []
            for address, path in level[:_HOP_WIDTH]:
                slot = view.slot(address)
                if slot is None or slot.address in seen:
                    continue
                seen.add(slot.address)
                name, pointers = self._names_in(slot.address, slot.cache.object_size)
                place = f"{slot.cache.name} object"
                if name:
                    return (*path, Hop(U64(slot.address), f"{place}: {name}"))
                step = (*path, Hop(U64(slot.address), place))
                following += [(p, step) for p in pointers]
            if not following:
                break
            level = following[:_HOP_WIDTH]
        return ()

    def _names_in(self, address: int, size: int) -> tuple[str, list[int]]:
        """The most telling named word of an object, and the slab pointers it holds."""
        assert self._host is not None
        try:
            data = self._host.read(address, min(size, _HOP_BYTES))
        except ReadFault:
            return "", []
        words = self._classifier.classify(
            np.frombuffer(data, np.uint8)[None], np.array([address], np.uint64)
        )
        values, kinds = words.values[0].tolist(), words.kinds[0].tolist()
        for wanted in ((Kind.MODULE,), (Kind.TEXT_SYMBOL, Kind.DATA_SYMBOL), (Kind.ASCII,)):
            for i, (value, kind) in enumerate(zip(values, kinds, strict=True)):
                if kind in wanted:
                    text = self.meaning(value, Kind(kind), 8 * i, 0)
                    return f"+{8 * i:#x} {text}", []
        return "", [v for v, k in zip(values, kinds, strict=True) if k == Kind.SLAB]


def _slot_text(cache: str, offset: int, size: int, state: State) -> str:
    if 0 <= offset < size:
        free = " (a free slot)" if state is State.FREE else ""
        return f"[{cache}+{offset:#x}]{free}"
    return f"[{cache}: metadata {offset:+#x} from an object]"
