"""A compressed kdump made anew: its pages packed in another way, its header without names, or all
of it flattened. Debian's makedumpfile packs by zlib and lzo alone; the libraries used here are
those that others are linked with."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crashext.hosts.decompress import FORMS, LIBRARIES, library
from crashext.hosts.dumpfile import PAGE_DESC, examine
from crashext.hosts.kdumpfile import KdumpFile

Pack = Callable[[bytes], bytes]
_TIME, _STATUS, _UTSNAME, _UTSNAME_SIZE = 408, 424, 12, 390
_PIECE = 65_000  # of a flattened file: not the size of anything else


def recompressed(whole: Path, target: Path, form: str) -> Path:
    """`whole` with pages in `form`, those that do not become smaller as they are."""
    dump, present = KdumpFile(whole), examine(whole).present
    assert present is not None
    data = whole.read_bytes()
    block, sub, blocks = struct.unpack_from("<iiI", data, 428)
    table = (1 + sub + blocks) * block
    frames = [a for start, end in present for a in range(start, end, block)]
    rows = np.frombuffer(data, PAGE_DESC, len(frames), table).copy()
    pack, bit = packer(form), next(bit for bit, name in FORMS.items() if name == form)
    at = int(rows["offset"].min())
    head = bytearray(data[:at])
    say_packed(head, form)
    with target.open("wb") as file:
        file.write(head)
        for row, address in zip(rows, frames, strict=True):
            page = dump.read(address, block)
            assert page is not None
            packed = pack(page)
            smaller = len(packed) < block
            packed = packed if smaller else page
            row["offset"], row["size"], row["flags"] = at, len(packed), bit if smaller else 0
            at += file.write(packed)
        file.seek(table)
        file.write(rows.tobytes())
    return target


def say_packed(head: bytearray, form: str) -> None:
    """In the header of a file."""
    status = struct.unpack_from("<I", head, _STATUS)[0]
    bit = next(bit for bit, name in FORMS.items() if name == form)
    struct.pack_into("<I", head, _STATUS, status & ~sum(FORMS) | bit)


def packer(form: str) -> Pack:
    """A function that packs one page."""
    loaded, size_t = library(LIBRARIES[form]), ctypes.c_size_t

    def pack(page: bytes) -> bytes:
        room, length = size_t(2 * len(page) + 256), size_t(len(page))
        packed = ctypes.create_string_buffer(room.value)
        if form == "lzo":
            work = ctypes.create_string_buffer(1 << 17)  # LZO1X_1_MEM_COMPRESS
            failed = loaded.lzo1x_1_compress(page, length, packed, ctypes.byref(room), work)
        elif form == "snappy":
            failed = loaded.snappy_compress(page, length, packed, ctypes.byref(room))
        else:
            loaded.ZSTD_compress.restype = size_t
            room.value = loaded.ZSTD_compress(packed, room, page, length, 1)
            failed = room.value > len(packed)
        assert not failed
        return packed.raw[: room.value]

    return pack


def without_names(path: Path) -> Path:
    """As QEMU's dump-guest-memory leaves the header: struct new_utsname is empty."""
    with path.open("r+b") as file:
        file.seek(_UTSNAME)
        file.write(bytes(_UTSNAME_SIZE))
    return path


def flattened(path: Path) -> Path:
    """As it comes out of a pipe: writes that makedumpfile -R would make. The last is of what was
    written before, as makedumpfile's is, and the first of what is not to stay."""
    data = path.read_bytes()
    with path.open("wb") as file:
        file.write(struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(4096, b"\0"))
        pieces = [(at, data[at : at + _PIECE]) for at in range(0, len(data), _PIECE)]
        pieces[0] = 0, data[:_TIME] + bytes(16) + data[_TIME + 16 : _PIECE]
        for at, piece in [*pieces, (0, data[:464])]:
            file.write(struct.pack(">qq", at, len(piece)) + piece)
        file.write(struct.pack(">qq", -1, -1))
    return path


def cut(path: Path, share: float) -> Path:
    """Its beginning."""
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    return path
