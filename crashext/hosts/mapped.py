"""Debug files that drgn has mapped, and memory that their pages take while nobody looks at them.

To index a kernel's types drgn reads 200 MB of its vmlinux. The file keeps them for whoever asks
again; a process that has read them once need not be counted as having them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_AREA = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)")
_DONT_NEED = 4  # MADV_DONTNEED, include/uapi/asm-generic/mman-common.h
_LEAST = 1 << 20


def let_go(files: Iterable[Path]) -> None:
    """Give up pages of mapped files; they are read again when needed.

    An area of which a page was changed is left as it is: that change is in no file.
    """
    names = {str(file.resolve()) for file in files}
    with suppress(OSError, AttributeError):  # no /proc, or a C library without madvise()
        import ctypes  # here, as most runs do without

        library = ctypes.CDLL(None, use_errno=True)
        for start, end in _unchanged(names):
            if end - start >= _LEAST:
                library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONT_NEED)


def _unchanged(names: set[str]) -> list[tuple[int, int]]:
    """[start, end) of areas of these files that are as the files are."""
    found: list[tuple[int, int]] = []
    mine = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        area = _AREA.fullmatch(line)
        if area is not None:
            mine = area[3] in names
            if mine:
                found.append((int(area[1], 16), int(area[2], 16)))
        elif mine and line.startswith("Anonymous:") and int(line.split()[1]):
            found.pop()
            mine = False
    return found
