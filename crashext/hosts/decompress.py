"""Pages of a compressed kdump, unpacked: zlib by Python, others by the libraries that packed them.

drgn's libkdumpfile, makedumpfile and crash are linked with the same three: where one of these is,
so are they, and no package of Python's need be added for files that few ever see.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import ctypes

Unpack = Callable[[bytes, int], bytes | None]
"""(packed, size of the page) -> the page; None where it is damaged."""

FORMS = {0x1: "zlib", 0x2: "lzo", 0x4: "snappy", 0x20: "zstd"}
"""By bit of page_desc.flags (DUMP_DH_COMPRESSED_*, diskdump_mod.h)."""
LIBRARIES = {"lzo": "liblzo2.so.2", "snappy": "libsnappy.so.1", "zstd": "libzstd.so.1"}

_FUNCTIONS = {
    "lzo": "lzo1x_decompress_safe",
    "snappy": "snappy_uncompress",
    "zstd": "ZSTD_decompress",
}


@cache
def unpacker(form: str) -> Unpack | None:
    """Of a form in `FORMS`; None where its library is not on this machine."""
    if form == "zlib":
        return _zlib
    try:
        return {"lzo": _lzo, "snappy": _snappy, "zstd": _zstd}[form](library(LIBRARIES[form]))
    except (OSError, AttributeError):
        return None


@cache
def _together() -> Callable[..., int] | None:
    """unpack.c; None where the package was installed without a C compiler."""
    return load(Path(__file__).with_name("_unpack" + EXTENSION_SUFFIXES[0]))


def load(path: Path) -> Callable[..., int] | None:
    """That of a file; None where it is missing, or of another machine or version."""
    import ctypes

    try:
        function = ctypes.CDLL(str(path)).crashext_unpack
    except (OSError, AttributeError):
        return None
    place, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [place, ctypes.c_int32, *4 * [place], number, number, place]
    function.restype = number
    return function


@cache
def _function(form: str) -> ctypes._NamedFuncPointer | None:
    """What unpacks a page of a form, in its library."""
    try:
        return getattr(library(LIBRARIES[form]), _FUNCTIONS[form], None)
    except OSError:
        return None


def unpack_all(
    forms: int,
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    packed: NDArray[np.bool_],
    page: int,
    result: NDArray[np.uint8],
) -> bool:
    """Put into `result` all pages that stand at `offsets` of data, those that are `packed` in the
    one form of `forms`; False where that must be done page by page, or one of them is damaged."""
    import ctypes

    together, form = _together(), FORMS.get(forms, "")
    function = _function(form) if form in _FUNCTIONS else None
    if together is None or function is None:
        return False
    count = len(offsets)
    arrays = [np.ascontiguousarray(a) for a in (offsets, sizes, packed)]
    places = [a.ctypes.data for a in arrays]
    code = ctypes.cast(function, ctypes.c_void_p)
    rest = (*places, count, page, result.ctypes.data)
    return together(code, forms, data.ctypes.data, *rest) == count


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
