"""What a trace leaves for those who look into memory: outstanding objects and their places.

A session keeps it beside the objects, so that a replay needs no trace.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crashext.analysis.results.joined import Traced, TracedSite
from crashext.hosts.base import U64, Host
from crashext.hosts.plain import answered, no_answer
from crashext.hosts.recorded import RecordedHost
from crashext.trace.summary import TraceSummary

_KEY = "trace"
_MOST_KEPT = 1 << 18
"""Outstanding objects that a session keeps, spread over them."""


def outstanding(trace: TraceSummary) -> Traced:
    """The slab objects of a trace that were not freed in it; `TraceSummary.sites` keeps order."""
    objects = trace.outstanding
    stacks = _stacks(trace)
    return Traced(
        source=trace.source,
        seconds=trace.seconds,
        hashed=trace.hashed,
        address=objects.address,
        size=objects.size,
        site=objects.site,
        sites=tuple(
            TracedSite(s.function, s.module, s.outstanding, s.allocs, stacks.get(i, ()))
            for i, s in enumerate(trace.sites)
        ),
        remarks=trace.remarks,
    )


def _stacks(trace: TraceSummary) -> dict[int, tuple[str, ...]]:
    """The most frequent stack of each site's outstanding objects."""
    if not trace.has_stacks:
        return {}
    pairs = (trace.outstanding.site.astype(np.int64) << 32) | trace.outstanding.stack
    distinct, counts = np.unique(pairs, return_counts=True)
    found: dict[int, tuple[str, ...]] = {}
    for pair in distinct[np.argsort(-counts, kind="stable")].tolist():
        found.setdefault(pair >> 32, trace.stacks[pair & 0xFFFFFFFF])
    return found


@dataclass(frozen=True)
class _Kept:
    """`Traced` as a session has it."""

    source: str
    seconds: float
    hashed: bool
    address: tuple[U64, ...]
    size: tuple[int, ...]
    site: tuple[int, ...]
    sites: tuple[TracedSite, ...]
    remarks: tuple[str, ...]


def kept(host: Host, traced: Traced | None) -> Traced | None:
    """`traced`, kept where `host` records; where it replays, what was kept. None: there is none.

    Raises `HostError` where a session is damaged.
    """
    if traced is None and not isinstance(host, RecordedHost):
        return None
    data = answered(host, _KEY, _Kept, lambda: None if traced is None else _keep(traced))
    if traced is not None or data is None:
        return traced
    try:
        found = Traced(
            source=data.source,
            seconds=data.seconds,
            hashed=data.hashed,
            address=np.array(data.address, np.uint64),
            size=np.array(data.size, np.int64),
            site=np.array(data.site, np.int32),
            sites=data.sites,
            remarks=data.remarks,
        )
    except OverflowError as error:
        raise no_answer(_KEY) from error
    columns = (found.size, found.site)
    sane = all(len(c) == len(found) for c in columns) and (
        not len(found) or (found.site.min() >= 0 and found.site.max() < len(found.sites))
    )
    if not sane:
        raise no_answer(_KEY)
    return found


def _keep(traced: Traced) -> _Kept:
    some = np.arange(len(traced))
    if len(some) > _MOST_KEPT:
        some = np.linspace(0, len(traced) - 1, _MOST_KEPT).astype(np.int64)
    return _Kept(
        source=traced.source,
        seconds=traced.seconds,
        hashed=traced.hashed,
        address=tuple(map(U64, traced.address[some].tolist())),
        size=tuple(traced.size[some].tolist()),
        site=tuple(traced.site[some].tolist()),
        sites=traced.sites,
        remarks=traced.remarks,
    )
