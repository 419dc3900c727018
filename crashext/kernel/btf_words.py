"""How BTF is laid out in words: its header, and how long a type of each kind is. It needs no numpy.

Format: include/uapi/linux/btf.h.
"""

from __future__ import annotations

import struct

MAGIC = 0xEB9F
HEADER = 24
LAST_KIND = 19

ONCE = [0] * 32
"""Words after the three of every type, by kind."""
EACH = [0] * 32
"""Words of each of its vlen entries: a member, an enumerator, a parameter."""
for _kind, _words in ((1, 1), (3, 3), (14, 1), (17, 1)):
    ONCE[_kind] = _words
for _kind, _words in ((4, 3), (5, 3), (6, 2), (13, 2), (15, 3), (19, 3)):
    EACH[_kind] = _words


def sections(data: bytes) -> tuple[bytes, bytes]:
    """(types, strings) of one piece of BTF. Raises `ValueError` where the data is none."""
    if len(data) < HEADER:
        raise ValueError("no BTF data")
    magic, version, _, length, type_at, type_size, text_at, text_size = struct.unpack_from(
        "<HBBIIIII", data
    )
    type_at, text_at = length + type_at, length + text_at
    whole = max(type_at + type_size, text_at + text_size) <= len(data)
    if magic != MAGIC or version != 1 or type_size % 4 or not whole:
        raise ValueError("no BTF data")
    return data[type_at : type_at + type_size], data[text_at : text_at + text_size]
