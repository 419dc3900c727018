"""Counters of one moment, from a dump's overview or its JSON report, to be compared in growth.py.

A dump counts objects exactly; /proc/slabinfo counts those on CPUs' lists as allocated. Between a
dump and proc files some growth or shrinking is only that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from crashext.analysis.memory.growth import Caller
from crashext.analysis.memory.quantities import Line
from crashext.analysis.overview import Overview
from crashext.analysis.verdict.facts import AreaFact, CacheFact
from crashext.hosts.base import HostError
from crashext.hosts.plain import from_plain
from crashext.procfs.counters import MemInfo
from crashext.procfs.folder import Moment
from crashext.procfs.slabinfo import SlabInfo, SlabLine

_SCHEMAS = ("crashext/verdict/2", "crashext/procfs/2")
_MOST = 1 << 19
_UNIT = 4096  # bytes that slabs are counted in here, whatever the pages are


@dataclass(frozen=True)
class Counted:
    """What growth.py compares."""

    path: str
    moment: Moment
    meminfo: MemInfo | None
    slabs: SlabInfo | None
    callers: tuple[Caller, ...] | None
    exact: bool
    """Objects were counted one by one, or by /proc."""
    page_size: int = _UNIT
    """The unit of `slabs`, whatever the machine's pages are."""


@dataclass(frozen=True, slots=True)
class _Facts:
    caches: tuple[CacheFact, ...]
    areas: tuple[AreaFact, ...]


@dataclass(frozen=True, slots=True)
class _Accounting:
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class _Report:
    """Of a report, what is compared: a dump's has `accounting`, one of proc files `files`."""

    moment: Moment
    facts: _Facts
    accounting: _Accounting | None = None
    meminfo: MemInfo | None = None
    files: tuple[str, ...] = ()


def of_overview(path: str, overview: Overview) -> Counted:
    """The counters of a dump, or of a session that holds its overview."""
    lines = overview.accounting.lines if overview.accounting is not None else None
    return Counted(
        path,
        overview.moment,
        None if lines is None else MemInfo({line.name: line.bytes for line in lines}, {}),
        _counted(overview.facts.caches),
        _callers(overview.facts.areas),
        True,
    )


def of_document(path: str, document: Any) -> Counted:
    """The counters of a `--json` report. Raises `HostError` where it is none."""
    if not isinstance(document, dict) or document.get("schema") not in _SCHEMAS:
        raise HostError(
            f"{path} is no report of leakscan --json without CACHE ({' or '.join(_SCHEMAS)})"
        )
    try:
        told = from_plain(_Report, document)
    except ValueError as error:
        raise HostError(f"{path} is damaged: it is not what leakscan --json writes") from error
    lines = () if told.accounting is None else told.accounting.lines
    counters = MemInfo({line.name: line.bytes for line in lines}, {}) if lines else told.meminfo
    return Counted(
        path,
        told.moment,
        counters,
        None if told.files and "slabinfo" not in told.files else _counted(told.facts.caches),
        None if told.files and "vmallocinfo" not in told.files else _callers(told.facts.areas),
        not told.files,
    )


def _counted(caches: Sequence[CacheFact]) -> SlabInfo | None:
    """None where only the bytes of some are known: those are no objects that could be compared."""
    return _slabs(caches) if all(c.counted for c in caches) else None


def _slabs(caches: Iterable[CacheFact]) -> SlabInfo:
    lines = []
    for cache in caches:
        slabs = max(0, cache.slabs)
        per_slab = (cache.slots // slabs, cache.bytes // _UNIT // slabs) if slabs else (0, 0)
        lines.append(
            SlabLine(
                cache.name,
                max(0, cache.allocated),
                max(0, cache.slots),
                cache.slot_size,
                *per_slab,
                slabs,
                slabs,
            )
        )
    return SlabInfo(tuple(lines[:_MOST]))


def _callers(areas: Iterable[AreaFact]) -> tuple[Caller, ...]:
    sums: dict[tuple[str, str], Caller] = {}
    for area in areas:
        key = (area.caller, area.module)
        before = sums.get(key, Caller(*key, 0, 0))
        sums[key] = Caller(*key, before.areas + area.areas, before.bytes + area.bytes)
    return tuple(sums.values())
