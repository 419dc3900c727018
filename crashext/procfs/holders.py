"""Who else says how much memory he has: balloons, the ZFS cache, zram, modules, `free`, cgroups.

Short texts of one purpose each. Sizes in bytes; None where the text does not say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from crashext.procfs.counters import MemInfo

_MAX = 1 << 14
_KIB, _MIB = 1 << 10, 1 << 20
_VMMEMCTL = re.compile(r"\s*current:\s+(\d{1,15})(?: pages.*|\s*)", re.ASCII)
_HYPER_V = re.compile(r"\s*(pages_ballooned|page_size)\s*: (\d{1,15})\s*", re.ASCII)
_TOOLBOX = re.compile(r"\s*(\d{1,9}) MB\s*", re.ASCII)
_STAT = re.compile(r"\s*guest\.mem\.ballooned = (\d{1,15})\s*", re.ASCII)
_ARC = re.compile(r"\s*(\w{1,64})\s+\d\s+(-?\d{1,20})\s*", re.ASCII)
_NUMBERS = re.compile(r"\s*\d{1,20}(?:\s+\d{1,20}){6,9}\s*", re.ASCII)
_MODULE = re.compile(r"\s*([\w-]{1,64})\s+(\d{1,12})\s+(-?\d{1,9})(?:\s+(\S.{0,1024}))?", re.ASCII)
_FREE = re.compile(r"\s*(Mem|Swap):((?:\s+\d{1,15}(?:[.,]\d+)?[KMGT]?i?B?){2,7})\s*", re.ASCII)
_TOP = re.compile(r"\s*(?:([KMG])iB )?Mem ?:\s*[\d.]{1,18}k?\+? ?total", re.ASCII)
_TOP_VALUE = re.compile(r"(\d{1,15}(?:\.\d)?)k?\+?\s{0,3}(total|free|buff/cache|buffers)", re.ASCII)
_UNIT = re.compile(r"(\d+(?:[.,]\d+)?)([KMGT]?)i?B?", re.ASCII)
_DMA_BUF = re.compile(r"\s*Total (\d{1,9}) objects, (\d{1,18}) bytes\s*", re.ASCII)
_COUNT = re.compile(r"\s*([a-z_]\w{0,63})\s+(\d{1,20})\s*", re.ASCII)
_SOCKETS = re.compile(r"\s*(?:TCP|UDP|UDPLITE|RAW|FRAG6?):.*\bmem(?:ory)? (\d{1,12})\b.*", re.ASCII)
_POWERS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class ArcStats:
    """/proc/spl/kstat/zfs/arcstats."""

    size: int
    most: int | None
    """c_max: what it may grow to."""
    least: int | None


def balloon_pages(lines: Iterable[str]) -> int | None:
    """Pages of 4 KiB that vmmemctl (debugfs) says the balloon has now."""
    for line in lines:
        if match := _VMMEMCTL.fullmatch(line):
            return int(match[1])
    return None


def hyper_v_bytes(lines: Iterable[str]) -> int | None:
    """What /sys/kernel/debug/hv-balloon says (6.1+)."""
    found = {m[1]: int(m[2]) for line in lines if (m := _HYPER_V.fullmatch(line))}
    pages = found.get("pages_ballooned")
    return None if pages is None else pages * found.get("page_size", 4096)


def balloon_bytes(lines: Iterable[str]) -> int | None:
    """What `vmware-toolbox-cmd stat balloon`, or the raw resources text, says."""
    for line in lines:
        if match := _STAT.fullmatch(line):
            return int(match[1]) * _KIB
        if match := _TOOLBOX.fullmatch(line):
            return int(match[1]) * _MIB
    return None


def arcstats(lines: Iterable[str]) -> ArcStats | None:
    """Size and limits of the ZFS cache."""
    found: dict[str, int] = {}
    for line in lines:
        if (match := _ARC.fullmatch(line)) and len(found) < _MAX:
            found.setdefault(match[1], int(match[2]))
    size = found.get("size")
    return None if size is None else ArcStats(size, found.get("c_max"), found.get("c_min"))


def zram_bytes(lines: Iterable[str]) -> int | None:
    """mem_used_total of a zram device's mm_stat."""
    for line in lines:
        if _NUMBERS.fullmatch(line):
            return int(line.split()[2])
    return None


def modules(lines: Iterable[str]) -> tuple[str, ...]:
    """Names in lsmod's or /proc/modules' output."""
    found = (_MODULE.match(line) for line in lines)
    return tuple(dict.fromkeys(m[1] for m in found if m))[:_MAX]


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
        match = _FREE.fullmatch(line)
        if match is None:
            continue
        values = [_size(word) for word in match[2].split()]
        if match[1] == "Mem":
            scale = _scale(match[2].split(), values[0])
            named = dict(zip(columns or ["total", "used", "free"], values, strict=False))
            for column, name in _FREE_COLUMNS:
                if column in named:
                    sizes[name] = named[column] * scale
        elif len(values) >= 3:
            sizes["SwapTotal"], sizes["SwapFree"] = values[0] * scale, values[2] * scale
    return MemInfo(sizes, {})


def _of_top(line: str, unit: str) -> dict[str, int]:
    """``MiB Mem :  64000.0 total, ...``, or ``Mem:  16000k total, ...`` of procps before 3.3."""
    scale = {"": 1024, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[unit]
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


def _scale(words: list[str], total: int) -> int:
    """Bytes a number stands for: free says no unit but with -h. Nobody has 256 PiB, or 2 MiB."""
    if any(word[-1:].isalpha() for word in words):
        return 1
    for scale in (1, _KIB, _MIB, 1 << 30):
        if total * scale >= 32 * _MIB:
            return scale
    return 1 << 30


def dma_buf_bytes(lines: Iterable[str]) -> int | None:
    """Bytes of all buffers of /sys/kernel/debug/dma_buf/bufinfo."""
    for line in lines:
        if match := _DMA_BUF.fullmatch(line):
            return int(match[2])
    return None


def counts(lines: Iterable[str]) -> dict[str, int]:
    """A cgroup's memory.stat or cgroup.stat."""
    found: dict[str, int] = {}
    for line in lines:
        if (match := _COUNT.fullmatch(line)) and len(found) < _MAX:
            found.setdefault(match[1], int(match[2]))
    return found


def socket_pages(lines: Iterable[str]) -> int:
    """Pages that sockstat says protocols have."""
    found = (_SOCKETS.fullmatch(line) for line in lines)
    return sum(int(m[1]) for m in found if m)


def memory_cgroups(lines: Iterable[str]) -> int | None:
    """/proc/cgroups: how many memory cgroups the kernel keeps, dying ones included."""
    for line in lines:
        words = line.split()
        if words[:1] == ["memory"] and len(words) == 4 and words[2].isdigit():
            return int(words[2])
    return None
