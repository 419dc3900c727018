"""`free` of any age and unit, and the head of `top`: total and free memory, buffers and cache."""

from __future__ import annotations

import re
from collections.abc import Iterable

from crashext.procfs.counters import MemInfo

_KIB, _MIB = 1 << 10, 1 << 20
_FREE = re.compile(r"\s*(Mem|Swap):((?:\s+\d{1,15}(?:[.,]\d+)?[KMGT]?i?B?){2,7})\s*", re.ASCII)
_TOP = re.compile(r"\s*(?:([KMGT])iB )?Mem ?:\s*[\d.]{1,18}k?\+? ?total", re.ASCII)
_TOP_VALUE = re.compile(r"(\d{1,15}(?:\.\d)?)k?\+?\s{0,3}(total|free|buff/cache|buffers)", re.ASCII)
_TOP_CACHED = re.compile(r"\s*Swap:.*free,\s+(\d{1,15})k cached\s*", re.ASCII)
_UNIT = re.compile(r"(\d+(?:[.,]\d+)?)([KMGT]?)i?B?", re.ASCII)
_POWERS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def free_output(lines: Iterable[str]) -> MemInfo:
    """`free` of any age and unit: total and free, shared, buffers and cache as far as told."""
    sizes: dict[str, int] = {}
    columns: list[str] = []
    scale = 1024
    for line in lines:
        words = line.split()
        if words[:3] == ["total", "used", "free"]:
            columns = words
            continue
        if top := _TOP.match(line):
            sizes |= _of_top(line, top[1] or "")
            continue
        if (cached := _TOP_CACHED.fullmatch(line)) and "MemTotal" in sizes:
            sizes["Cached"] = int(cached[1]) * 1024  # before procps 3.3
            continue
        match = _FREE.fullmatch(line)
        if match is None:
            continue
        values = [_size(word) for word in match[2].split()]
        if match[1] == "Mem":
            scale = _scale(match[2].split(), values, "buff/cache" not in columns)
            named = dict(zip(columns or ["total", "used", "free"], values, strict=False))
            for column, name in _FREE_COLUMNS:
                if column in named:
                    sizes[name] = named[column] * scale
        elif len(values) >= 3:
            sizes["SwapTotal"], sizes["SwapFree"] = values[0] * scale, values[2] * scale
    return MemInfo(sizes, {})


def _of_top(line: str, unit: str) -> dict[str, int]:
    """``MiB Mem :  64000.0 total, ...``, or ``Mem:  16000k total, ...`` of procps before 3.3."""
    scale = _POWERS[unit] if unit else _KIB
    names = {"total": "MemTotal", "free": "MemFree", "buff/cache": "Cached", "buffers": "Buffers"}
    return {
        names[name]: round(float(number) * scale)
        for number, name in _TOP_VALUE.findall(line)
        if name in names
    }


_FREE_COLUMNS = (
    ("total", "MemTotal"),
    ("free", "MemFree"),
    ("shared", "Shmem"),
    ("buffers", "Buffers"),
    ("cached", "Cached"),
    ("cache", "Cached"),
    ("buff/cache", "Cached"),
    ("available", "MemAvailable"),
)


def _size(word: str) -> int:
    match = _UNIT.fullmatch(word)
    return round(float(match[1].replace(",", ".")) * _POWERS[match[2]]) if match else 0


def _scale(words: list[str], values: list[int], old: bool) -> int:
    """Bytes a number stands for: free says no unit but with -h, and KiB are usual.

    Numbers are of whole pages: those of -b are multiples of 4096, those of -k of 4. Nobody has
    32 MiB any more, and who has less than half a GiB of -m has an old free.
    """
    if any(word[-1:].isalpha() for word in words):
        return 1
    total = values[0]
    if total >= 32 * _MIB and not any(value % 4096 for value in values):
        return 1
    if total * _KIB >= 32 * _MIB and not any(value % 4 for value in values):
        return _KIB
    return _MIB if total >= (48 if old else 600) else 1 << 30
