"""The text of crash's `kmem -S NAME` and `kmem -s NAME`: one cache, and the objects it shows.

Shapes are those of crash's memory.c (7.2 to 8.0.6), SLUB's and SLAB's. Crash mixes its complaints
into the text; they come beside the answer. No text makes this file raise, and it reads no memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from crashext.hosts.base import Addresses
from crashext.wording import plural

MAX_ERRORS = 16
_MAX_ERROR_LENGTH = 200
_ADDRESS = r"([0-9a-f]{8,16})"
_COUNT = r"(\d{1,19}|\?)"

# ffff93e400008e00      128      22403     50176    784     8k  kmalloc-128
_CACHE = re.compile(
    rf"{_ADDRESS}\s+(\d{{1,19}})\s+{_COUNT}\s+{_COUNT}\s+{_COUNT}\s+(\d{{1,15}})k\s+(\S.*)",
    re.ASCII,
)
# ffff93e400008e00 [IGNORED]                                    kmalloc-128
_TAGGED = re.compile(rf"{_ADDRESS}\s+(\[IGNORED\]|\[INVALID/CORRUPTED\])\s+(\S.*)", re.ASCII)
# SLUB, with the node:   ffffea0004c94e780  ffff88132539e000     0     42         29    13
_SLAB = re.compile(
    rf"\s*[0-9a-f]{{8,17}}\s+{_ADDRESS}\s+(?:-?\d+\s+)?-?\d+\s+(-?\d{{1,19}})\s+-?\d+\s*", re.ASCII
)
_ALLOCATED = re.compile(rf"\s*\[{_ADDRESS}\]\s*", re.ASCII)
# Any other word in parentheses belongs to an address that is no free object: "(kmem_bufctl_t)".
_FREE = re.compile(rf"\s+{_ADDRESS}\s*(?:\((?:cpu \d+|shared) cache\))?\s*", re.ASCII)
_NOTHING = re.compile(
    rf"""\s*(?:                                           # a blank line, or:
        | CACHE\s+OBJSIZE\s.*                              # the headers
        | SLAB\s+MEMORY\s.*
        | KMEM_CACHE_NODE\s.*
        | {_ADDRESS}\s+\d+\s+-?\d+\s+-?\d+\s+-?\d+         # a node's counters
        | {_ADDRESS}(?:\s+\([^()]*\))?                     # KMEM_CACHE_CPU; an object in no block
        | CPU\ \d+\ \[OFFLINE\]
        | \(empty\)
        | <\ SLUB:\ free\ list\ .*                         # debug level 8
    )\s*""",
    re.ASCII | re.VERBOSE,
)
_SECTION = re.compile(r"\s*(CPU|NODE) \d+ (KMEM_CACHE_CPU|SLAB|PARTIAL|FULL):\s*", re.ASCII)
_LISTED = re.compile(rf"{_ADDRESS} (\S.*)", re.ASCII)


@dataclass(frozen=True)
class CacheRow:
    """What crash says of the whole cache; None where it prints "?" or nothing."""

    address: int
    name: str
    object_size: int | None
    """SLUB: what a user may write to. SLAB: the slot, metadata included."""
    allocated: int | None
    total: int | None
    slabs: int | None
    slab_bytes: int | None


@dataclass(frozen=True)
class KmemText:
    """One cache's text, read."""

    cache: CacheRow | None
    """None where crash shows no cache: no such name, or it failed before."""
    allocated: Addresses
    """Addresses of listed objects that are allocated, sorted, each once."""
    free: Addresses
    """Addresses of listed objects that are free, per-CPU and shared ones included."""
    slabs: int
    """Slabs whose objects are listed."""
    row_only: int
    """Allocated objects in partial slabs of which only the row is shown."""
    full_tracked: bool
    """False where a node's list of full slabs is "(not tracked)"."""
    errors: tuple[str, ...]
    """Complaints, and lines of no known shape; at most `MAX_ERRORS`."""


def parse(text: str) -> KmemText:
    """Read the text of one cache; what follows a second cache's row is left out."""
    reader = _Reader()
    lines = text.split("\n")
    for line in lines[:-1]:
        if not reader.line(line.rstrip("\r")):
            break
    else:
        reader.last_line(lines[-1].rstrip("\r"))
    return reader.result()


def parse_names(text: str) -> list[str]:
    """Names in the text of `kmem -s list`."""
    found = (_LISTED.fullmatch(line.rstrip("\r")) for line in text.split("\n"))
    return sorted({match[2].strip() for match in found if match})


class _Reader:
    """Where in the text we are, and what it has told so far."""

    def __init__(self) -> None:
        self._cache: CacheRow | None = None
        self._allocated: list[int] = []
        self._free: list[int] = []
        self._slabs = self._row_only = self._dropped = 0
        self._full_tracked = True
        self._errors: list[str] = []
        self._in_block = False
        self._section = ""
        self._pending: int | None = None  # a row's allocated objects, until its block begins

    def line(self, line: str) -> bool:
        """Take one line; False when another cache begins."""
        if self._in_block and self._object(line):
            return True
        row = _row(line)
        if row is not None:
            if self._cache is not None:
                self._complain("more than one cache in this text: only the first is read")
                return False
            self._cache = row
            tag = _TAGGED.fullmatch(line)
            if tag:
                self._complain(f"{tag[3]}: {tag[2]}")
        elif line.strip() == "FREE / [ALLOCATED]":
            self._in_block, self._pending = True, None
            self._slabs += 1
        elif match := _SECTION.fullmatch(line):
            self._leave()
            self._section = f"{match[1]} {match[2]}"
        elif match := _SLAB.fullmatch(line):
            self._leave()
            self._pending = max(0, int(match[2]))
        elif line.strip() == "(not tracked)":
            self._full_tracked = False
        elif not _NOTHING.fullmatch(line):
            self._complain(line.strip())
        elif line.strip().startswith(("CACHE ", "SLAB ", "KMEM_CACHE_NODE ")):
            self._leave()
        return True

    def last_line(self, line: str) -> None:
        """The piece after the last line break: half a line, if text was cut; never half an address.

        An allocated object's closing bracket proves it whole.
        """
        if not (self._in_block and _FREE.fullmatch(line)):
            self.line(line)

    def result(self) -> KmemText:
        self._leave()
        allocated, free = _sorted(self._allocated), _sorted(self._free)
        both = np.isin(allocated, free)
        if both.any():
            self._complain(f"{plural(int(both.sum()), 'object')} listed as allocated and as free")
        if self._dropped:
            self._errors[-1] = f"{self._dropped + 1} more lines like these"
        return KmemText(
            self._cache,
            allocated[~both],
            free,
            self._slabs,
            self._row_only,
            self._full_tracked,
            tuple(self._errors),
        )

    def _object(self, line: str) -> bool:
        for pattern, found in ((_ALLOCATED, self._allocated), (_FREE, self._free)):
            match = pattern.fullmatch(line)
            if match:
                found.append(int(match[1], 16))
                return True
        return False

    def _leave(self) -> None:
        """A slab ends here, shown by its row alone or with its objects."""
        if self._pending is not None and self._section == "NODE PARTIAL":
            self._row_only += self._pending
        self._in_block, self._pending = False, None

    def _complain(self, line: str) -> None:
        if len(self._errors) < MAX_ERRORS:
            self._errors.append(line[:_MAX_ERROR_LENGTH])
        else:
            self._dropped += 1


def _row(line: str) -> CacheRow | None:
    match = _CACHE.fullmatch(line)
    if match:
        size, allocated, total, slabs, kib = (_number(text) for text in match.group(2, 3, 4, 5, 6))
        slab_bytes = None if kib is None else kib * 1024
        return CacheRow(
            int(match[1], 16), match[7].strip(), size, allocated, total, slabs, slab_bytes
        )
    match = _TAGGED.fullmatch(line)
    if match:
        return CacheRow(int(match[1], 16), match[3].strip(), None, None, None, None, None)
    return None


def _number(text: str) -> int | None:
    return None if text == "?" else int(text)


def _sorted(addresses: list[int]) -> Addresses:
    return np.unique(np.array(addresses, np.uint64))
