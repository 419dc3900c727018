"""Which frees are of a cache's objects, in functions made by hand."""

from __future__ import annotations

import struct

from crashext.hosts.base import Module, Symbol
from crashext.kernel.origin.freeing import Freeing, Sure
from crashext.kernel.origin.requests import Requests
from crashext.kernel.slab.caches import Caches
from tests.fake import FakeHost, slab_cache, word

KERNEL, TEXT = 0xFFFFFFFF81000000, 0xFFFFFFFFC0000000
FREE, FREE_OF, ALLOC, LATER, RELEASE, SLOT = (KERNEL + 0x100 * i for i in range(6))
CALLBACK, OTHER = TEXT + 0x800, TEXT + 0x900
SMALL, LARGE, OWN = (
    slab_cache("kmalloc-32", 32, address=KERNEL + 0x10000),
    slab_cache("kmalloc-64", 64, address=KERNEL + 0x20000),
    slab_cache("own", 48, address=KERNEL + 0x30000),
)
NAMES = {
    "kfree": FREE,
    "kmem_cache_free": FREE_OF,
    "__kmalloc": ALLOC,
    "call_rcu": LATER,
    "kernel_release": RELEASE,
    "callback": CALLBACK,
    "other": OTHER,
}


class Sized(FakeHost):
    """One whose functions have a size, and belong to the module where they are."""

    def symbol_at(self, address: int) -> Symbol | None:
        start = address & ~0xFF
        name = next((n for n, a in self.symbols.items() if a == start), "function")
        return Symbol(name, start, 0x100, "leaky" if start >= TEXT else "")


def call(at: int, to: int, jump: bool = False) -> bytes:
    return (b"\xe9" if jump else b"\xe8") + struct.pack("<i", to - (at + 5))


def sure(*functions: tuple[int, bytes]) -> dict[str, list[Sure]]:
    """What is said of each cache, a place each, where these are the functions of a module."""
    host = Sized(symbols=NAMES, modules=[Module("leaky", ((TEXT, TEXT + 0x1000),))])
    host.put(TEXT, b"\xcc" * 0x1000)
    host.put(KERNEL, b"\xc3".ljust(0x100, b"\xcc") * 5 + word(OWN.address).ljust(0x100, b"\0"))
    for at, text in functions:
        host.put(at, b"")
        host.extents[TEXT][at - TEXT : at - TEXT + len(text)] = text
    all_of = (SMALL, LARGE, OWN)
    caches = Caches(all_of, None)
    freeing = Freeing(host, caches, Requests(host, caches))
    return {c.name: [found for _, found in freeing.of(c, "leaky")] for c in all_of}


MOV_RDI_RAX, MOV_RSI_RAX = b"\x48\x89\xc7", b"\x48\x89\xc6"


def size(number: int) -> bytes:
    return b"\xbf" + struct.pack("<I", number)  # mov edi, number


def test_a_cache_that_is_given_is_the_one() -> None:
    given = b"\x48\xc7\xc7" + struct.pack("<i", OWN.address - (1 << 64))  # mov rdi, own
    text = given + call(TEXT + len(given), FREE_OF)
    assert sure((TEXT, text)) == {"kmalloc-32": [], "kmalloc-64": [], "own": [Sure.YES]}


def test_a_cache_that_nobody_tells_may_be_any_but_one_of_kmallocs() -> None:
    text = b"\x48\x8b\x3e" + call(TEXT + 3, FREE_OF)  # mov rdi, [rsi]
    assert sure((TEXT, text)) == {"kmalloc-32": [], "kmalloc-64": [], "own": [Sure.PERHAPS]}


def test_what_was_allocated_in_the_same_function_has_that_size() -> None:
    text = size(40) + call(TEXT + 5, ALLOC) + MOV_RDI_RAX
    text += call(TEXT + len(text), FREE)
    assert sure((TEXT, text)) == {"kmalloc-32": [], "kmalloc-64": [Sure.YES], "own": []}


def test_what_comes_from_elsewhere_may_be_of_any_size() -> None:
    text = b"\x48\x8b\x3e" + call(TEXT + 3, FREE)
    expected = {"kmalloc-32": [Sure.PERHAPS], "kmalloc-64": [Sure.PERHAPS], "own": []}
    assert sure((TEXT, text)) == expected


def test_what_is_written_or_pointed_to_beyond_the_end_is_too_large() -> None:
    far = b"\x48\xc7\x47\x20\0\0\0\0"  # mov qword [rdi + 0x20], 0
    text = far + call(TEXT + len(far), FREE, jump=True)
    assert sure((TEXT, text)) == {"kmalloc-32": [], "kmalloc-64": [Sure.PERHAPS], "own": []}
    inner = b"\x48\x83\xef\x30"  # sub rdi, 0x30
    text = inner + call(TEXT + len(inner), FREE, jump=True)
    assert sure((TEXT, text)) == {"kmalloc-32": [], "kmalloc-64": [Sure.PERHAPS], "own": []}


def defers(function: int) -> tuple[int, bytes]:
    given = b"\x48\xc7\xc6" + struct.pack("<i", function - (1 << 64))  # mov rsi, function
    return TEXT, given + call(TEXT + len(given), LATER)


def test_what_is_freed_later_is_decided_by_the_function_given() -> None:
    """An rcu_head at offset 0x20 of kmalloc-64's objects, hardly one of kmalloc-32's."""
    inner = b"\x48\x83\xef\x20"
    callback = CALLBACK, inner + call(CALLBACK + 4, FREE, jump=True)
    found = sure(defers(CALLBACK), callback)
    assert found == {"kmalloc-32": [], "kmalloc-64": [Sure.PERHAPS] * 2, "own": []}


def test_a_function_given_that_hands_on_to_another_is_followed() -> None:
    callback = CALLBACK, call(CALLBACK, OTHER, jump=True)
    other = OTHER, call(OTHER, FREE, jump=True)
    assert sure(defers(CALLBACK), callback, other)["kmalloc-32"] == [Sure.PERHAPS] * 2


def test_what_the_kernel_frees_itself_is_no_object_of_the_modules() -> None:
    """put_task_struct(), inlined: call_rcu() with a function that frees no such thing."""
    found = sure(defers(RELEASE))
    assert found == {"kmalloc-32": [], "kmalloc-64": [], "own": []}
