"""Text files inside an archive: read in memory, within limits; nothing is written to disk.

tar, alone or as .gz, .bz2 or .xz, and one compressed text. An archive may come from a stranger:
only regular members with a plain path are read, links are not followed, and what unpacks to too
much is given up.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from crashext.hosts.base import HostError

_MIB = 1 << 20
_CHUNK = 1 << 18
_MOST_UNPACKED = 16 << 30
_MOST_TIMES = 200
_SURELY = 256 * _MIB
"""Texts of machines shrink to a twentieth, seldom to a hundredth; a bomb to less than a thousandth.
Below `_SURELY` nobody minds."""
_MOST_MEMBERS = 100_000
_MOST_AT_ONCE = 64 * _MIB
_LZMA_MEMORY = 512 * _MIB
_BLOCK = 512
_MAGICS = ((b"\x1f\x8b", "gz"), (b"BZh", "bz2"), (b"\xfd7zXZ\0", "xz"))
REFUSED = (b"PK\x03\x04", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
"""zip, 7z, rar, zstd, lz4: archives that are said to be none of ours."""


class TooMuch(HostError):
    """An archive that unpacks to more than anybody would save."""


class _Unpacked(io.RawIOBase):
    """What a compressed file unpacks to, forwards only, and only so much of it."""

    def __init__(self, file: BinaryIO, form: str) -> None:
        self._file, self._form = file, form
        self._unpack = _unpacker(form)
        self._ready = bytearray()
        self._at = self._taken = 0
        self._ended = False
        self.cut_off = False
        """It ends before it says that it does."""
        self.trailing = False
        """After its end comes something that is not of its form."""

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def seek(self, to: int, whence: int = 0) -> int:
        if whence or to < self._at:
            raise OSError("an archive is read forwards")
        while self._at < to and self._take(min(_CHUNK, to - self._at)):
            pass
        return self._at

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_AT_ONCE:
            raise TooMuch("the archive has a header that is larger than any")
        found = bytearray()
        while len(found) < size and (part := self._take(size - len(found))):
            found += part
        return bytes(found)

    def _take(self, size: int) -> bytes:
        while not self._ready and not self._ended:
            self._fill()
        part = bytes(self._ready[:size])
        del self._ready[:size]
        self._at += len(part)
        if self._at > _MOST_UNPACKED:
            raise TooMuch(f"the archive unpacks to more than {_MOST_UNPACKED >> 30} GiB")
        if self._at > max(_SURELY, _MOST_TIMES * self._taken):
            raise TooMuch(f"the archive unpacks to more than {_MOST_TIMES} times its size")
        return part

    def _fill(self) -> None:
        data = b"" if self._unpack.needs_input is False else self._file.read(_CHUNK)
        self._taken += len(data)
        self._unpacked(data)
        if self._unpack.ended:  # another stream may follow
            rest = self._unpack.rest
            another = self._file.read(_CHUNK)
            self._taken += len(another)
            more = rest + another
            if compression(more) == self._form:
                self._unpack = _unpacker(self._form)
                self._unpacked(more)
            else:
                self._ended, self.trailing = True, bool(more.strip(b"\0"))
        elif not data and not self._ready:
            self._ended = self.cut_off = True

    def _unpacked(self, data: bytes) -> None:
        try:
            self._ready += self._unpack.some(data)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, MemoryError, ValueError) as error:
            raise HostError(f"the archive is damaged: {error}") from error


class _Gzip:
    """zlib in the form that bz2 and lzma have: so much at a time, whatever comes in."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    needs_input: bool | None = None

    def some(self, data: bytes) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, 4 * _MIB)
        self.needs_input = not self._inner.unconsumed_tail
        return out

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data


class _Other:
    def __init__(self, form: str) -> None:
        self._inner = (
            bz2.BZ2Decompressor() if form == "bz2" else lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
        )

    @property
    def needs_input(self) -> bool | None:
        return self._inner.needs_input

    def some(self, data: bytes) -> bytes:
        return self._inner.decompress(data, 4 * _MIB)

    @property
    def ended(self) -> bool:
        return self._inner.eof

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data


def _unpacker(form: str) -> _Gzip | _Other:
    return _Gzip() if form == "gz" else _Other(form)


class _Plain:
    """A tar that is not compressed: it may seek, but reads no header of gigabytes at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, to: int, whence: int = 0) -> int:
        return self._file.seek(to, whence)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_AT_ONCE:
            raise TooMuch("the archive has a header that is larger than any")
        return self._file.read(size)


def compression(head: bytes) -> str:
    """``gz``, ``bz2``, ``xz``, or "" where the first bytes are of none of them."""
    return next((form for magic, form in _MAGICS if head.startswith(magic)), "")


def is_tar(head: bytes) -> bool:
    """Whether the first block is a tar's."""
    return len(head) >= _BLOCK and head[257:262] == b"ustar"


def members(
    path: Path, wanted: Callable[[str], bool], limit: int, complain: Callable[[str, str, int], None]
) -> Iterator[tuple[str, bytes, float]]:
    """(path inside, at most `limit` bytes, time) of every file that is `wanted`.

    A compressed text that is no tar is one member of its own name. Raises `HostError`.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(0)
            form = compression(head)
            stream: _Unpacked | _Plain = _Unpacked(file, form) if form else _Plain(file)
            first = stream.read(_BLOCK)
            if is_tar(first):
                file.seek(0)
                stream = _Unpacked(file, form) if form else _Plain(file)
                yield from _of_tar(stream, wanted, limit, complain)
            else:
                data = first + stream.read(min(limit, _MOST_AT_ONCE) - len(first))
                if form and not data:
                    raise HostError(f"{path} is damaged: nothing can be unpacked")
                yield path.stem, data, path.stat().st_mtime
            if isinstance(stream, _Unpacked) and stream.cut_off:
                complain("the archive", "it is cut off: its end is missing", 1)
            if isinstance(stream, _Unpacked) and stream.trailing:
                complain("the archive", "something else follows its end, and was not read", 1)
    except HostError as error:
        name = "" if str(path) in str(error) else f"{path}: "
        raise HostError(f"{name}{error}") from error
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror or error}") from error


def _of_tar(
    stream: _Unpacked | _Plain,
    wanted: Callable[[str], bool],
    limit: int,
    complain: Callable[[str, str, int], None],
) -> Iterator[tuple[str, bytes, float]]:
    refused: Counter[str] = Counter()
    count = 0
    try:
        with tarfile.TarFile(fileobj=stream) as tar:  # type: ignore[arg-type]
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                count += 1
                if count > _MOST_MEMBERS:
                    complain(
                        "rest of the archive", f"left out: more than {_MOST_MEMBERS:,} members", 1
                    )
                    break
                if why := _unusable(member, wanted):
                    refused[why] += 1
                elif member.isreg() and wanted(member.name):
                    file = tar.extractfile(member)
                    data = file.read(min(limit, member.size)) if file is not None else b""
                    if member.size > limit:
                        complain(member.name, f"only its first {limit >> 20} MiB were read", 1)
                    yield member.name, data, float(member.mtime)
            else:
                if any(stream.read(_BLOCK * 20)):  # tarfile takes a broken header for the end
                    complain("the archive", "the rest of it was not read: it is damaged", 1)
    except RecursionError:
        complain("the archive", "the rest of it was not read: headers of headers", 1)
    except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError) as error:
        complain("the archive", f"the rest of it was not read: {error}", 1)
    for why, number in refused.items():
        complain(why, _REFUSALS[why], number)


_OUTSIDE, _LINKS, _DEVICES, _INNER = (
    "archive members with .. or an absolute path",
    "links in the archive",
    "devices in the archive",
    "archives in the archive",
)
_REFUSALS = {
    _OUTSIDE: "refused: they lead out of it",
    _LINKS: "not followed",
    _DEVICES: "refused",
    _INNER: "not read: unpack them, and name one",
}
_INNER_NAME = re.compile(r"\.(?:tar|tgz|txz|tbz2?)(?:\.\w{1,4})?$", re.ASCII)


def _unusable(member: tarfile.TarInfo, wanted: Callable[[str], bool]) -> str:
    """Why a member is not read that might be asked for; "" where there is no such reason."""
    if not _is_plain(member.name):
        return _OUTSIDE
    if member.isdev():
        return _DEVICES
    if (member.issym() or member.islnk()) and wanted(member.name):
        return _LINKS
    return _INNER if member.isreg() and _INNER_NAME.search(member.name) else ""


def _is_plain(name: str) -> bool:
    return not name.startswith("/") and ".." not in PurePosixPath(name).parts
