"""What grew between two moments: caches, lines of meminfo, callers of vmalloc.

It compares counters of one machine in time order. It does not say whether growth is a leak; it
tells growth in use from slabs that fill up with holes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from crashext.analysis.memory.boots import another_boot
from crashext.analysis.memory.memsplit import memory_split
from crashext.kernel.slab.families import Family, bucket_owners, by_name, family
from crashext.procfs.counters import MemInfo
from crashext.procfs.folder import Moment
from crashext.procfs.slabinfo import SlabInfo, SlabLine

IN_USE = "in use, by processes or the kernel"
"""The same where the source does not tell processes and the kernel apart."""
IN_NO_COUNTER = "in no counter"
"""What is missing from the counters of meminfo, as a line of its own."""
_ONE_MACHINE = 0.08
"""Most by which the MemTotal of one machine may differ between two sources."""
RATE_FROM = 600
"""Least seconds between two moments that tell a rate: what comes and goes in less is no trend."""
_FALLEN = 0.05
"""A cache's use must have fallen by this share of its objects to be called fragmented."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The vmalloc areas of one function of one module."""

    function: str
    module: str
    areas: int
    bytes: int


class Compared(Protocol):
    """What growth needs of a snapshot."""

    @property
    def path(self) -> str: ...
    @property
    def moment(self) -> Moment: ...
    @property
    def page_size(self) -> int: ...
    @property
    def meminfo(self) -> MemInfo | None: ...
    @property
    def slabs(self) -> SlabInfo | None: ...
    @property
    def callers(self) -> tuple[Caller, ...] | None: ...
    @property
    def exact(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class CacheGrowth:
    """One family of caches, from the first moment to the last that has a slabinfo."""

    name: str
    active_objs: int | None
    num_objs: int | None
    slabs: int | None
    bytes: int
    """Differences: last less first. null where one of the moments counts bytes only."""
    use: tuple[float, float]
    """Active share of the objects, first and last."""
    steps: tuple[int, ...]
    """Bytes at every moment that has a slabinfo."""
    alike: bool
    """Both count objects in one way, so that `use` can be compared."""
    bytes_per_hour: float | None = None
    """null where no clock tells."""
    fragmenting: bool = field(init=False)
    """More slabs, but mostly holes: use fell, and fewer objects came than room for them."""

    def __post_init__(self) -> None:
        fragmenting = (
            self.alike
            and self.slabs is not None
            and self.active_objs is not None
            and self.num_objs is not None
            and self.slabs > 0
            and self.use[1] < self.use[0] - _FALLEN
            and self.active_objs * 2 < self.num_objs
        )
        object.__setattr__(self, "fragmenting", fragmenting)

    @property
    def steady(self) -> bool:
        """Whether it grew at every step."""
        return all(b > a for a, b in pairwise(self.steps))


@dataclass(frozen=True, slots=True)
class LineGrowth:
    """One line of meminfo, in bytes."""

    name: str
    first: int
    last: int
    bytes: int = field(init=False)
    """Last less first."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bytes", self.last - self.first)


@dataclass(frozen=True, slots=True)
class CallerGrowth:
    """One function that calls vmalloc."""

    function: str
    module: str
    areas: int
    bytes: int
    """Differences: last less first."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Differences between the first and the last of `paths`, largest growth first."""

    paths: tuple[str, ...]
    seconds: float | None
    """Between first and last; None where no clock tells."""
    clock: str
    """``date``, ``uptime`` or ``file times``; "" where no clock tells."""
    backwards: bool
    """By their dates the moments are not in time order."""
    caches: tuple[CacheGrowth, ...]
    meminfo: tuple[LineGrowth, ...]
    vmalloc: tuple[CallerGrowth, ...]
    """None of the three lists holds what did not change."""
    compared: tuple[str, ...]
    """What two moments have, of ``slabinfo``, ``meminfo`` and ``vmallocinfo``."""
    alike: bool
    """All count objects in one way. A dump is exact; /proc counts those on CPUs' lists too."""
    unlisted: tuple[str, ...] = ()
    """Families of which nobody knows whether they grew: a moment's list, which is not whole, lacks
    them."""
    machines: tuple[int, int] | None = None
    """MemTotal of first and last, where they differ so much that it is not one machine."""
    another_boot: str = ""
    """Why the moments are not of one boot: there is no time between them then, and no rate."""

    @property
    def judged(self) -> bool:
        """Whether a difference says anything of what leaks."""
        return self.machines is None

    def per_hour(self, difference: int) -> float | None:
        """A difference as a rate; None where the time is not known, or too short to tell one."""
        return difference * 3600 / self._long if self._long else None

    @property
    def _long(self) -> float:
        """Seconds, where they tell a rate."""
        return self.seconds if self.seconds is not None and self.seconds >= RATE_FROM else 0.0

    def lasts(self, difference: int, free: int) -> float | None:
        """Seconds until `free` bytes are used up, if what grew by `difference` goes on so; None
        where it did not grow, or no rate is known."""
        if not self._long or difference <= 0:
            return None
        return max(0, free) * self._long / difference


def growth(snapshots: Sequence[Compared]) -> Growth:
    """Compare at least two moments in time order. What only one of them has is not compared."""
    reboot = another_boot([(s.moment, s.exact) for s in snapshots])
    seconds, clock = (None, "") if reboot else elapsed([s.moment for s in snapshots])
    caches, unlisted = _caches(snapshots, seconds)
    return Growth(
        tuple(s.path for s in snapshots),
        seconds,
        clock,
        _backwards([s.moment.date for s in snapshots]),
        caches,
        _meminfo(snapshots),
        _vmalloc(snapshots),
        tuple(
            kind
            for kind, number in (
                ("slabinfo", sum(s.slabs is not None for s in snapshots)),
                ("meminfo", sum(s.meminfo is not None for s in snapshots)),
                ("vmallocinfo", sum(s.callers is not None for s in snapshots)),
            )
            if number > 1
        ),
        len({s.exact for s in snapshots if s.slabs is not None}) < 2,
        unlisted,
        _machines(snapshots),
        reboot,
    )


def elapsed(moments: Sequence[Moment]) -> tuple[float | None, str]:
    """Seconds from first to last, by the best clock that all have and that runs forwards."""
    for clock, times in (
        ("date", [m.date for m in moments]),
        ("uptime", [m.uptime for m in moments]),
        ("file times", [m.modified for m in moments]),
    ):
        known = [t for t in times if t is not None]
        forwards = all(b > a for a, b in pairwise(known))
        if len(known) == len(times) and forwards and known[-1] - known[0] >= 1:
            return known[-1] - known[0], clock
    return None, ""


def _backwards(dates: Sequence[float | None]) -> bool:
    known = [d for d in dates if d is not None]
    return any(b < a for a, b in pairwise(known))


def _machines(snapshots: Sequence[Compared]) -> tuple[int, int] | None:
    """Both sizes, where they are not of one machine. Sources differ a little: crash counts what the
    kernel reserved."""
    totals = [t for s in snapshots if s.meminfo is not None and (t := s.meminfo.get("MemTotal"))]
    if len(totals) < 2 or abs(totals[-1] - totals[0]) <= _ONE_MACHINE * max(totals[0], totals[-1]):
        return None
    return totals[0], totals[-1]


def _comparable(lists: Sequence[SlabInfo]) -> tuple[list[Mapping[str, Family]], tuple[str, ...]]:
    """Families of every list, and those that cannot be compared.

    Of lists that are not whole only caches count that they have: elsewhere 0 would be a guess.
    """
    kept = [by_name(s.caches) for s in lists]
    if all(s.whole for s in lists):
        return kept, ()
    members = [_members(s.caches) for s in lists]
    parts = [found for found, s in zip(members, lists, strict=True) if not s.whole]
    common = frozenset.intersection(*(frozenset(part) for part in parts))
    known = [by_name(line for k, ls in m.items() if k in common for line in ls) for m in members]
    every = {name for found in kept for name in found}
    return known, tuple(sorted(every - {name for found in known for name in found}))


def _members(caches: Sequence[SlabLine]) -> dict[tuple[str, str], list[SlabLine]]:
    """Caches by family and variant, whatever a kernel calls them: kmalloc-1024 is kmalloc-1k."""
    owners = bucket_owners(line.name for line in caches)
    found: dict[tuple[str, str], list[SlabLine]] = {}
    for line in caches:
        name, variant = family(line.name, owners)
        found.setdefault((name, variant.removeprefix("size").strip()), []).append(line)
    return found


def _caches(
    snapshots: Sequence[Compared], seconds: float | None
) -> tuple[tuple[CacheGrowth, ...], tuple[str, ...]]:
    counted = [s for s in snapshots if s.slabs is not None]
    if len(counted) < 2:
        return (), ()
    known, unlisted = _comparable([s.slabs for s in counted if s.slabs is not None])
    kept = [(names, s.page_size) for names, s in zip(known, counted, strict=True)]
    alike = counted[0].exact == counted[-1].exact
    (first, _), (last, _) = kept[0], kept[-1]
    objects = all(s.slabs is not None and s.slabs.counts_objects for s in counted)
    empty = Family("", (), ())
    found = []
    for name in first.keys() | last.keys():
        a, b = first.get(name, empty), last.get(name, empty)
        steps = tuple(_pages(names, name) * size for names, size in kept)
        change = CacheGrowth(
            name,
            b.active_objs - a.active_objs if objects else None,
            b.num_objs - a.num_objs if objects else None,
            b.num_slabs - a.num_slabs if objects else None,
            steps[-1] - steps[0],
            (a.use, b.use),
            steps,
            alike,
            (steps[-1] - steps[0]) * 3600 / seconds if seconds else None,
        )
        if change.active_objs or change.num_objs or change.bytes:
            found.append(change)
    found.sort(key=lambda c: (-c.bytes, -(c.active_objs or 0), c.name))
    return tuple(found), unlisted


def _pages(families: Mapping[str, Family], name: str) -> int:
    return families[name].pages if name in families else 0


def _meminfo(snapshots: Sequence[Compared]) -> tuple[LineGrowth, ...]:
    told = [s for s in snapshots if s.meminfo is not None]
    kept = [s.meminfo.sizes for s in told if s.meminfo is not None]
    if len(kept) < 2:
        return ()
    lines = [LineGrowth(n, kept[0][n], kept[-1][n]) for n in kept[0] if n in kept[-1]]
    first, last = (_in_no_counter(s) for s in (told[0], told[-1]))
    if first is not None and last is not None:
        lines.append(LineGrowth(IN_NO_COUNTER, first, last))
    first, last = (_in_use(s) for s in (told[0], told[-1]))
    if first is not None and last is not None:
        lines.append(LineGrowth(IN_USE, first, last))
    return tuple(sorted((n for n in lines if n.bytes), key=lambda n: (-n.bytes, n.name)))


def _in_no_counter(snapshot: Compared) -> int | None:
    """Bytes that no counter has, where processes' memory is counted and nobody else's is not."""
    meminfo = snapshot.meminfo
    if meminfo is None or meminfo.get("AnonPages") is None or snapshot.exact:
        return None
    split = memory_split(meminfo, None, snapshot.page_size)
    return None if split is None else split.unaccounted


def _in_use(snapshot: Compared) -> int | None:
    """Bytes that are neither free nor a cache, where more is not told: `free`, crash's kmem -i."""
    meminfo = snapshot.meminfo
    if meminfo is None or meminfo.get("AnonPages") is not None or snapshot.exact:
        return None
    split = memory_split(meminfo, None, snapshot.page_size)
    return None if split is None else split.unaccounted


def _vmalloc(snapshots: Sequence[Compared]) -> tuple[CallerGrowth, ...]:
    kept = [
        {(c.function, c.module): c for c in s.callers} for s in snapshots if s.callers is not None
    ]
    if len(kept) < 2:
        return ()
    first, last = kept[0], kept[-1]
    found = []
    for key in first.keys() | last.keys():
        a, b = first.get(key), last.get(key)
        areas = (b.areas if b else 0) - (a.areas if a else 0)
        size = (b.bytes if b else 0) - (a.bytes if a else 0)
        if areas or size:
            found.append(CallerGrowth(*key, areas, size))
    return tuple(sorted(found, key=lambda c: (-c.bytes, c.function, c.module)))
