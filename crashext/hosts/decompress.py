"""Pages of a compressed kdump, unpacked: zlib by Python, others by the libraries that packed them.

drgn's libkdumpfile, makedumpfile and crash are linked with the same three: where one of these is,
so are they, and no package of Python's need be added for files that few ever see.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

Unpack = Callable[[bytes, int], bytes | None]
"""(packed, size of the page) -> the page; None where it is damaged."""

FORMS = {0x1: "zlib", 0x2: "lzo", 0x4: "snappy", 0x20: "zstd"}
"""By bit of page_desc.flags (DUMP_DH_COMPRESSED_*, diskdump_mod.h)."""
LIBRARIES = {"lzo": "liblzo2.so.2", "snappy": "libsnappy.so.1", "zstd": "libzstd.so.1"}


@cache
def unpacker(form: str) -> Unpack | None:
    """Of a form in `FORMS`; None where its library is not on this machine."""
    if form == "zlib":
        return _zlib
    try:
        return {"lzo": _lzo, "snappy": _snappy, "zstd": _zstd}[form](library(LIBRARIES[form]))
    except (OSError, AttributeError):
        return None


def _zlib(packed: bytes, size: int) -> bytes | None:
    stream = zlib.decompressobj()
    try:
        page = stream.decompress(packed, size + 1)  # one more, or its end is not seen
    except zlib.error:
        return None
    return page if stream.eof else None


def library(name: str) -> ctypes.CDLL:
    """The one that is loaded, under whatever name a wheel gave it, or the system's."""
    import ctypes  # here, as most runs do without

    stem = name.partition(".")[0]
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        path = "/" + line.partition("/")[2]
        if Path(path).name.startswith((f"{stem}.so", f"{stem}-")):
            return ctypes.CDLL(path)
    return ctypes.CDLL(name)


def _lzo(library: ctypes.CDLL) -> Unpack:
    return _into(library.lzo1x_decompress_safe, None)


def _snappy(library: ctypes.CDLL) -> Unpack:
    return _into(library.snappy_uncompress)


def _into(function: Callable[..., int], *more: None) -> Unpack:
    """(from, size, to, &room, …) -> 0; `room` becomes how much there was."""
    import ctypes

    def unpack(packed: bytes, size: int) -> bytes | None:
        page, room = ctypes.create_string_buffer(size), ctypes.c_size_t(size)
        length = ctypes.c_size_t(len(packed))
        failed = function(packed, length, page, ctypes.byref(room), *more)
        return None if failed else page.raw[: room.value]

    return unpack


def _zstd(library: ctypes.CDLL) -> Unpack:
    import ctypes

    library.ZSTD_decompress.restype = ctypes.c_size_t
    library.ZSTD_isError.argtypes = [ctypes.c_size_t]

    def unpack(packed: bytes, size: int) -> bytes | None:
        page, sizes = ctypes.create_string_buffer(size), (size, len(packed))
        room, length = map(ctypes.c_size_t, sizes)
        got = library.ZSTD_decompress(page, room, packed, length)
        return None if library.ZSTD_isError(got) else page.raw[:got]

    return unpack
