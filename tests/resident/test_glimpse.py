"""Names of caches at a glance: the same as a closer look finds, or nothing at all."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from crashext.hosts.bridge import Bridge
from crashext.incrash import crashext_wire as wire
from crashext.kernel.btf_types import BtfKind
from crashext.kernel.slab.caches import read_caches
from crashext.resident.glimpse import names_of_caches, names_of_types
from tests.fake import FakeHost, layout, word
from tests.kernel.btfmaker import blob, btf_of, kind_of
from tests.kernel.slab.test_caches import FIRST, HEAD, KERNFS_LINK, NAMES, kernel, with_sysfs

IMAGE, DIRECT, VMALLOC = 0xFFFFFFFF81000000, 0xFFFF888000000000, 0xFFFFC90000000000
BTF = IMAGE + 0x10000
PAGE = 4096


class FakeBridge(Bridge):
    """A crash session over a kernel made of nothing; what is around an extent is zeros."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.asked = 0
        self.mod = "MODULE NAME TEXT_BASE SIZE OBJECT FILE"

    def _ask(self, code: int, payload: bytes) -> bytes:
        self.asked += 1
        if code == wire.ADDRESSES:
            names = payload.decode().split("\0")
            return word(*(self.host.symbols.get(name, 0) for name in names))
        if code == wire.COMMAND:
            assert payload == b"mod"
            return self.mod.encode()
        assert code == wire.READ
        pieces = [self._piece(*run) for run in struct.iter_unpack("<QI", payload)]
        return bytes(p is not None for p in pieces) + b"".join(p or b"" for p in pieces)

    def _piece(self, at: int, size: int) -> bytes | None:
        data, touched = bytearray(size), False
        for start, extent in self.host.extents.items():
            low, high = max(at, start), min(at + size, start + len(extent))
            if low < high:
                data[low - at : high - at] = extent[low - start : high - start]
                touched = True
        return bytes(data) if touched else None


def booted(count: int = 40, module: bytes = b"") -> FakeHost:
    """Caches c00 to c39, one with an alias, and the kernel's types in its own memory, with those of
    the module `mine`."""
    host = kernel(*({"name": f"c{i:02}"} for i in range(count)))
    if module:
        _with_module(host, module)
    with_sysfs(host, [("kmalloc-1k", KERNFS_LINK, FIRST, None, None)])
    data = btf_of(host.layouts.values(), host.enumerators)
    host.put(BTF, data)
    host.put(IMAGE, word(DIRECT, VMALLOC))
    host.symbols |= {
        "_text": IMAGE,
        "_end": HEAD + 0x1000,
        "page_offset_base": IMAGE,
        "vmalloc_base": IMAGE + 8,
        "__start_BTF": BTF,
        "__stop_BTF": BTF + len(data),
    }
    return host


def _with_module(host: FakeHost, types: bytes) -> None:
    link = layout("struct btf_module", 24, list=(0, 16), btf=(16, 8))
    btf = layout("struct btf", 80, data=(0, 8), data_size=(8, 4), name=(16, 64))
    host.layouts |= {known.name: known for known in (link, btf)}
    host.symbols["btf_modules"] = head = IMAGE + 0x20
    entry, blob_of, data = (DIRECT + 0x400000 + i for i in (0, 0x100, 0x1000))
    host.put(head, word(entry, entry))
    host.put(entry, word(head, head, blob_of))
    host.put(blob_of, word(data, len(types)) + b"mine\0")
    host.put(data, types)


def test_names_are_those_of_a_closer_look() -> None:
    bridge = FakeBridge(booted())
    found, closer = names_of_caches(bridge), read_caches(bridge.host)
    assert found is not None
    assert (found.count, set(found.every)) == (len(closer.all), set(closer.names()))
    assert [found.wrong(name) for name in ("c39", "kmalloc-1k", "kmalloc-1024")] == ["", "", ""]
    assert found.wrong("c399") == "no slab cache is called c399: did you mean c39?"
    assert found.wrong("xyz") == "no slab cache is called xyz among the 40 of this kernel"


def test_pages_are_asked_for_once() -> None:
    """A question for each cache and name would cost more than loading numpy."""
    bridge = FakeBridge(booted())
    assert names_of_caches(bridge) is not None
    assert bridge.asked < 40


def _lost_list(host: FakeHost) -> None:
    host.put(FIRST + 104, word(FIRST + 104))  # the first cache's link leads to itself


def _name(pointer: int) -> Callable[[FakeHost], None]:
    return lambda host: host.put(FIRST + 96, word(pointer))


def _symbol(name: str, value: int) -> Callable[[FakeHost], None]:
    return lambda host: host.symbols.update({name: value})


@pytest.mark.parametrize(
    "odd",
    [
        _lost_list,
        _name(0),
        _name(VMALLOC + 0x1000),  # crash would want page tables for it
        _name(DIRECT + 0x900000),  # not in the dump
        lambda host: host.put(NAMES, b"\x01\xff\0"),
        lambda host: host.put(NAMES, b"\0"),
        lambda host: host.put(BTF, bytes(24)),
        _symbol("__start_BTF", 0),
        _symbol("page_offset_base", 0),
        _symbol("slab_caches", 0),
        _symbol("__hwasan_tag_memory", IMAGE),
    ],
)
def test_where_anything_is_odd_nothing_is_known(odd: Callable[[FakeHost], None]) -> None:
    host = booted()
    odd(host)
    assert names_of_caches(FakeBridge(host)) is None


def test_a_kernel_with_few_caches_is_none() -> None:
    assert names_of_caches(FakeBridge(booted(4))) is None


MINE = blob(kind_of(1 << 20, BtfKind.STRUCT, 0, 8), b"")
"""A module's one struct, whose name is nowhere."""


def test_a_type_that_nobody_has_is_told() -> None:
    bridge = FakeBridge(booted())
    found = names_of_types(bridge)
    assert found is not None
    assert found.wrong("struct kmem_cache") == ""
    assert (
        found.wrong("kmem_cach")
        == "this kernel has no kmem_cach: did you mean kmem_cache, kmem_cache_node?"
    )


def _row(name: str, file: str) -> str:
    return f"\n{VMALLOC:x}  {name}  {VMALLOC + 0x1000:x}  36864  {file}"


@pytest.mark.parametrize(
    ("rows", "known"),
    [
        ((), True),
        ((_row("mine", "(not loaded)"),), True),
        ((_row("mine", "/srv/mine.ko"),), False),
        ((_row("mine", "(not loaded)"), _row("theirs", "(not loaded)")), False),
    ],
)
def test_types_may_be_where_a_glance_does_not_look(rows: tuple[str, ...], known: bool) -> None:
    plain = FakeBridge(booted(module=blob(b"", b"")))
    plain.mod += "".join(rows)
    assert (names_of_types(plain) is not None) == known
    damaged = FakeBridge(booted(module=MINE))
    damaged.mod += "".join(rows)
    assert names_of_types(damaged) is None
