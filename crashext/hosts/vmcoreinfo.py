"""VMCOREINFO as the dump's own memory has it, whether or not the dump has such a note.

The kernel writes it at boot, for the crash kernel to read (kernel/crash_core.c; kernel/kexec.c
before 4.13). QEMU only puts it into a dump with ``-device vmcoreinfo``, and where the guest has
told it where it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

_PIECE = 4 << 20
_LONGEST = 1 << 13
"""VMCOREINFO_BYTES is a page; a note of arm64 kernels with large pages is no longer."""
_START = b"OSRELEASE="
_MOST = 1 << 16
_LIKE = re.compile(rb"OSRELEASE=\d[\x21-\x7e]{1,63}\n(?:[A-Z][\x20-\x7e]{1,255}\n){5,}", re.ASCII)

Reader = Callable[[int, int], bytes | None]


def kept(read: Callable[[int, int], bytes], data: int, size: int) -> dict[str, str]:
    """The note's lines, from where the variables vmcoreinfo_data and vmcoreinfo_size are.

    203e9e41219b (4.13) made an array of bytes a pointer to a page. Raises what `read` raises.
    """
    length = min(int.from_bytes(read(size, 8), "little"), _MOST)
    first = read(data, 8)
    start = data if _START.startswith(first) else int.from_bytes(first, "little")
    text = read(start, length).decode("ascii", "replace")
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def texts(read: Reader, ranges: Iterable[tuple[int, int]]) -> Iterator[str]:
    """Every such text in physical memory, once; `read` gives bytes, None where one is missing."""
    seen = set()
    for start, end in ranges:
        before = b""
        for at in range(start, end, _PIECE):
            data = before + (read(at, min(_PIECE, end - at)) or b"")
            for found in re.finditer(_START, data):
                text = _text(data[found.start() : found.start() + _LONGEST])
                if text and text not in seen:
                    seen.add(text)
                    yield text
            # What begins near the end is looked at again with the next piece behind it.
            before = data[-_LONGEST:]


def _text(data: bytes) -> str:
    """The note at the start of `data`; "" where it is none, or only the front of one."""
    found = _LIKE.match(data)
    whole = found is not None and len(data) > found.end() and data[found.end()] == 0
    if found is None or not whole:
        return ""
    text = found[0].decode("ascii")
    return text if "\nPAGESIZE=" in text and "\nSYMBOL(_stext)=" in text else ""
