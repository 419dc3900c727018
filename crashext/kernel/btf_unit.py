"""One piece of BTF, the kernel's or a module's, cut into types and strings.

Format: include/uapi/linux/btf.h. What ends too early, or is no BTF, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from crashext.kernel.btf_words import EACH, HEADER, LAST_KIND, MAGIC, ONCE

# Words after the three of every type: once, and for each of its vlen entries.
_ONCE = np.array(ONCE, np.int32)
_EACH = np.array(EACH, np.int32)
_KNOWN = np.arange(32) <= LAST_KIND
_KNOWN[0] = False


@dataclass(frozen=True)
class Unit:
    """The BTF of the kernel or of one module, cut into its parts."""

    name: str
    words: NDArray[np.uint32]
    starts: NDArray[np.int64]
    """Where each type begins in `words`."""
    strings: bytes


def parse(name: str, data: bytes) -> Unit | None:
    """One BTF blob; None where it is not one. Types after the first impossible one are dropped."""
    parts = _parts(data)
    if parts is None:
        return None
    types, strings = parts
    words = np.frombuffer(types, "<u4")
    return Unit(name, words, _starts(words), strings)


def strings_of(data: bytes) -> bytes:
    """The names in one BTF blob."""
    parts = _parts(data)
    return b"" if parts is None else parts[1]


def _parts(data: bytes) -> tuple[bytes, bytes] | None:
    """Types and strings."""
    if len(data) < HEADER:
        return None
    head = np.frombuffer(data[:HEADER], "<u4").tolist()
    magic, version = head[0] & 0xFFFF, head[0] >> 16 & 0xFF
    _, length, type_at, type_size, text_at, text_size = head
    if magic != MAGIC or version != 1 or length < HEADER or type_at % 4 or type_size % 4:
        return None
    type_at, text_at = length + type_at, length + text_at
    if max(type_at + type_size, text_at + text_size) > len(data):
        return None
    return data[type_at : type_at + type_size], data[text_at : text_at + text_size]


@lru_cache(maxsize=1)
def parse_kernel(data: bytes) -> Unit | None:
    """`parse` of the kernel's, which several readers of one dump ask for: 5 MB take 20 ms."""
    return parse("", data)


def words_of(kind: int, entries: int) -> int:
    """Words that a type of a kind takes, with so many entries."""
    return 3 + ONCE[kind] + EACH[kind] * entries


def entry_words(kind: int) -> int:
    """Words that one entry of a type of a kind takes: a member, an enumerator, a parameter."""
    return EACH[kind]


def _starts(words: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Where types begin: int64[n]. How long a type is, is worked out for every word at once."""
    if len(words) < 3:
        return np.zeros(0, np.int64)
    info = words[1:-1]
    kind = (info >> np.uint32(24)).astype(np.uint8) & np.uint8(0x1F)
    follows = (info & np.uint32(0xFFFF)).astype(np.int32)
    follows *= _EACH.take(kind)
    follows += _ONCE.take(kind)
    follows += np.arange(3, len(info) + 3, dtype=np.int32)
    follows[~_KNOWN.take(kind) | (follows > len(words))] = 0
    steps = follows.data
    starts: list[int] = []
    at = 0
    while at < len(info):
        following = steps[at]
        if not following:
            break
        starts.append(at)
        at = following
    return np.array(starts, np.int64)
