"""Memory of processes: /proc/PID/status, and the output of ps.

Sources: fs/proc/array.c and fs/proc/task_mmu.c, 3.10 to 6.18. Kernel threads have no memory of
their own and come out with zeros.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_MAX_PROCESSES = 1 << 18
_LINE = re.compile(r"([A-Za-z_]\w{0,63}):[ \t]*(.*)", re.ASCII)
_SIZE = re.compile(r"(\d{1,12}(?:[.,]\d{1,3})?)([kmgtKMGT]?)", re.ASCII)
_UNITS = {"": 1 << 10, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_KB = re.compile(r"(\d{1,15}) kB", re.ASCII)


@dataclass(frozen=True, slots=True)
class Process:
    """One process. Sizes in bytes; None where the source does not say (before 4.5; ps)."""

    pid: int
    comm: str
    rss: int
    rss_anon: int | None = None
    rss_file: int | None = None
    rss_shmem: int | None = None
    swap: int | None = None
    locked: int | None = None
    page_tables: int | None = None
    hugetlb: int | None = None


@dataclass(frozen=True)
class Processes:
    """Output of ps."""

    processes: tuple[Process, ...]
    damaged: int = 0


def parse_status(lines: Iterable[str]) -> tuple[Process | None, int]:
    """The process of a status file, and lines of no known shape. None without a Pid line."""
    values: dict[str, str] = {}
    damaged = 0
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is not None and len(values) < 256:
            values.setdefault(match[1], match[2].strip(" \t"))
        else:
            damaged += bool(line.strip())
    pid = values.get("Pid", "")
    if not pid.isascii() or not pid.isdigit() or len(pid) > 10:
        return None, damaged

    def size(name: str) -> int | None:
        match = _KB.fullmatch(values.get(name, ""))
        return int(match[1]) * 1024 if match else None

    return (
        Process(
            int(pid),
            values.get("Name", ""),
            size("VmRSS") or 0,
            size("RssAnon"),
            size("RssFile"),
            size("RssShmem"),
            size("VmSwap"),
            size("VmLck"),
            size("VmPTE"),
            size("HugetlbPages"),
        ),
        damaged,
    )


def parse_ps(lines: Iterable[str]) -> Processes:
    """Rows of any ps listing that has the columns PID and RSS; of threads, the first row."""
    columns: list[str] = []
    found: dict[int, Process] = {}
    damaged = 0
    for line in lines:
        words = line.split(None, len(columns) - 1 if columns else -1)
        if not words:
            continue
        if "PID" in words and "RSS" in words and not columns:
            columns = words
            continue
        row = dict(zip(columns, words, strict=False))
        pid, rss = row.get("PID", ""), row.get("RSS", "")
        if pid == "-":  # a thread's line, of ps -m
            continue
        if len(words) < len(columns) or not _number(pid) or not _number(rss):
            damaged += 1
        elif len(found) < _MAX_PROCESSES:
            comm = row.get("COMMAND", row.get("CMD", row.get("COMM", ""))).strip()[:256]
            found.setdefault(int(pid), Process(int(pid), comm, int(rss) * 1024))
    return Processes(tuple(found.values()), damaged)


def parse_top(lines: Iterable[str]) -> Processes:
    """Rows of top: RES may have a unit (``1.2g``); without one it is in KiB."""
    columns: list[str] = []
    found: dict[int, Process] = {}
    damaged = 0
    for line in lines:
        words = line.split(None, len(columns) - 1 if columns else -1)
        if "PID" in words and "RES" in words:
            columns = columns or words
            continue
        row = dict(zip(columns, words, strict=False))
        pid, size = row.get("PID", ""), _SIZE.fullmatch(row.get("RES", ""))
        if not words or not columns:
            continue  # its head
        if not _number(pid) or size is None:
            damaged += 1
        elif len(found) < _MAX_PROCESSES:
            rss = round(float(size[1].replace(",", ".")) * _UNITS[size[2].lower()])
            found.setdefault(int(pid), Process(int(pid), row.get("COMMAND", "").strip()[:256], rss))
    return Processes(tuple(found.values()), damaged)


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15
