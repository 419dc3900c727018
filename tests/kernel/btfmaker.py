"""BTF made by hand: what include/uapi/linux/btf.h says, and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from crashext.hosts.base import Layout
from crashext.kernel.btf_types import BtfKind


def blob(types: bytes, text: bytes) -> bytes:
    """A header, types and strings."""
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(text))
    return head + types + text


def kind_of(name: int, kind: int, vlen: int, value: int, *rest: int) -> bytes:
    """One type: where its name is in the strings, and its words."""
    return struct.pack(f"<III{len(rest)}I", name, kind << 24 | vlen, value, *rest)


def btf_of(layouts: Iterable[Layout], enumerators: Mapping[str, int]) -> bytes:
    """Structs of these layouts, each member an integer of its size."""
    text, places = bytearray(b"\0"), dict[str, int]()

    def at(name: str) -> int:
        if name not in places:
            places[name] = len(text)
            text.extend(name.encode() + b"\0")
        return places[name]

    structs = [known for known in layouts if known.name.startswith("struct ")]
    sizes = sorted({m.size for known in structs for m in known.members.values()})
    types = b"".join(kind_of(at(f"u{n}"), BtfKind.INT, 0, n, 8 * n) for n in sizes)
    for known in structs:
        words = [
            word
            for name, m in known.members.items()
            for word in (at(name), 1 + sizes.index(m.size), 8 * m.offset)
        ]
        name = at(known.name.removeprefix("struct "))
        types += kind_of(name, BtfKind.STRUCT, len(known.members), known.size, *words)
    values = [word for name, value in enumerators.items() for word in (at(name), value)]
    types += kind_of(0, BtfKind.ENUM, len(enumerators), 4, *values)
    return blob(types, bytes(text))
