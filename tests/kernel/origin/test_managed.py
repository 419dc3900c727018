"""Memory that is freed with its device has a struct devres before it, in the same object."""

from __future__ import annotations

import struct

from crashext.hosts.base import Module, Symbol
from crashext.kernel.origin.entrypoints import Kind
from crashext.kernel.origin.requests import Requests
from crashext.kernel.slab.caches import Caches
from tests.fake import FakeHost, layout, slab_cache

KERNEL, TEXT = 0xFFFFFFFF81000000, 0xFFFFFFFFC0000000
# mov esi, 24; call devm_kmalloc; mov dword [rax + 8], 7
BEFORE, AFTER = b"\xbe\x18\0\0\0", b"\xc7\x40\x08\x07\0\0\0\xc3"


class Sized(FakeHost):
    def symbol_at(self, address: int) -> Symbol | None:
        return Symbol("probe", address & ~0xFF, 0x100, "leaky")


def requests(*layouts: object) -> Requests:
    host = Sized(
        *layouts,  # type: ignore[arg-type]
        symbols={"devm_kmalloc": KERNEL},
        modules=[Module("leaky", ((TEXT, TEXT + 0x1000),))],
    )
    call = b"\xe8" + struct.pack("<i", KERNEL - (TEXT + 10))
    host.put(TEXT, (BEFORE + call + AFTER).ljust(0x1000, b"\xcc"))
    return Requests(host, Caches((slab_cache("kmalloc-64", 64),), None))


def test_what_is_asked_for_and_written_lies_behind_it() -> None:
    known = requests(layout("struct devres", 40, node=(0, 40), data=(40, 0)))
    (request,) = known.of((Kind.SIZED,))
    assert request.sizes == (64,)
    (store,) = known.filled(request).stores
    assert (store.offset, store.value) == (48, 7)


def test_where_its_size_is_not_known_neither_is_the_objects() -> None:
    known = requests()
    (request,) = known.of((Kind.SIZED,))
    assert (request.sizes, known.filled(request).stores) == ((), ())
