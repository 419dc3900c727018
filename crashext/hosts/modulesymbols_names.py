"""Whether the names of a module's symbols are whole: each rule is one that damage breaks and no
module does that the kernel loaded.

add_kallsyms() puts one name behind the other. GNU ld writes global symbols in the order of its hash
table, so where each stands tells of its letters. Functions have their names in the module's BTF
(5.11), and before them where there is padding for callers to patch (x86, 6.2). What is left are
letters of static variables, and of static functions where there is neither.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.absent import bit_flips

STB_GLOBAL = 1
_NAMES = re.compile(rb"(?:\.L[\w.$\x01\x02]*+|[A-Za-z_.$][\w.$]*+)", re.ASCII)
_LONGEST = 127  # KSYM_NAME_LEN - 1 until 6.1: what is longer was cut
_PADDING = "__pfx_"
_COLD = ".cold"
_SIZES = (4051, 4093, 8191, 16381, 32749, 65521)
"""Of bfd's hash table: as it begins, and as it grows (bfd/hash.c)."""
_ORDERED = 11
"""Names: as many are in no linker's order by chance, but for one, once in 60,000 times."""
_WORD = (1 << 64) - 1


def strange_chain(offsets: NDArray[np.uint32], names: Sequence[bytes]) -> bool:
    """Whether names do not stand one behind the other, the first being none."""
    lengths = np.array([len(name) for name in names], np.int64)
    right = np.diff(offsets.astype(np.int64)) == lengths[:-1] + 1
    return bool(names[0]) or bool((~right & (lengths[:-1] < _LONGEST)).any())


def no_name(names: Sequence[bytes]) -> str:
    """One that no symbol has; "" where all may be."""
    found = next((name for name in names if not _NAMES.fullmatch(name)), b"")
    return found.decode("ascii", "backslashreplace")


def out_of_order(names: Sequence[bytes]) -> bool:
    """Whether one of a linker's global names, and no other, is out of the order of its hash
    table."""
    if len(names) < _ORDERED:
        return False
    hashes = np.array([_bfd_hash(name) for name in names], np.uint64)
    each = [(hashes % np.uint64(size)).astype(np.int64) for size in _SIZES]
    return not any(map(_ascending, each)) and any(map(_ascending_but_one, each))


def _ascending(places: NDArray[np.int64]) -> bool:
    return bool((np.diff(places) >= 0).all())


def _ascending_but_one(places: NDArray[np.int64]) -> bool:
    """Whether they ascend where they do not but for one of the first two that do not."""
    first = int(np.argmax(np.diff(places) < 0))
    return any(_ascending(np.delete(places, at)) for at in (first, first + 1))


def _bfd_hash(name: bytes) -> int:
    """bfd_hash_hash() of bfd/hash.c, the same for thirty years."""
    found = 0
    for letter in (*name, len(name)):
        found = found + letter + (letter << 17) & _WORD
        found ^= found >> 2
    return found


def without_its_own(names: Collection[str]) -> str:
    """A part whose function is not there: padding before it, what the compiler moved out of it."""
    for name in names:
        whole = name.removeprefix(_PADDING)
        if whole == name and _COLD in name:
            whole = name.partition(_COLD)[0]
        if whole != name and whole not in names:
            return name
    return ""


def a_bit_from(names: Collection[str], functions: Collection[str]) -> str:
    """A symbol whose name is a bit from a function's that is not there; "" where none is."""
    if not functions:
        return ""
    whole = {name.partition(".")[0]: name for name in names}  # without what the compiler adds
    for missing in functions:
        if missing in whole:
            continue
        for name in bit_flips(missing):
            if name in whole and name not in functions:
                return whole[name]
    return ""
