"""`leakscan --walker kmem`: a cache through crash's own `kmem -S`, where our walker cannot go.

For SLUB, crash lists the objects of CPU slabs only. They are the youngest of the cache, not a
random sample, so everything here is counted among the objects seen and nothing is extrapolated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from rapidfuzz import fuzz, process

from crashext.analysis.caches import REPORTED_GROUPS
from crashext.analysis.likeness.decode import Decoder
from crashext.analysis.likeness.groups import describe, residue
from crashext.analysis.likeness.sample import MAX_FREE, MAX_SAMPLE_BYTES
from crashext.analysis.likeness.similarity import Grouping, group
from crashext.analysis.likeness.survey import generator, kernel_of
from crashext.analysis.likeness.words import Classifier
from crashext.analysis.results.estimate import Estimate, Share
from crashext.analysis.results.reports import CacheReport, Group, LeakReport
from crashext.analysis.settings import Settings
from crashext.hosts.base import U64, Bytes, Host, HostError, ReadFault
from crashext.kernel.access import UnknownLayout, Words, u32, u64
from crashext.kernel.addresses import address_space
from crashext.procfs.crashkmem import CacheRow, KmemText, parse, parse_names
from crashext.progress import Progress
from crashext.skipped import Skipped
from crashext.wording import missing, plural

_SAFE_NAME = re.compile(r"[A-Za-z0-9_.:()][A-Za-z0-9_.:()-]{0,127}", re.ASCII)
_LIKE_HEX = re.compile(r"[0-9A-Fa-fxX]+", re.ASCII)
_MAX_LISTED = 1_000_000  # objects whose text still fits into one answer of the bridge
_UNKNOWN = 1 << 62


@runtime_checkable
class KmemHost(Host, Protocol):
    """A host inside a crash session, which has `kmem`."""

    def crash_command(self, line: str) -> str:
        """Output of a crash command; raises `HostError` with crash's words when it fails."""
        ...


def scan_caches_kmem(
    host: KmemHost, names: list[str], settings: Settings, progress: Progress
) -> LeakReport:
    """Examine the caches called `names`. Raises `HostError` where crash shows no such cache.

    Interrupted by Ctrl-C, it returns what it has.
    """
    for name in names:
        _refuse_unsafe(name)
    reports: list[CacheReport] = []
    skipped: list[Skipped] = []
    interrupted = False
    try:
        examiner = _Examiner(host, settings)
        for number, name in enumerate(names):
            progress(f"{name}: kmem -S", number, len(names))
            report, gaps = examiner.examine(name)
            reports.append(report)
            skipped += gaps
    except KeyboardInterrupt:
        interrupted = True
    return LeakReport(
        kernel_of(host),
        settings.seed,
        settings.threshold,
        settings.metric,
        tuple(reports),
        tuple(skipped),
        interrupted,
    )


def _refuse_unsafe(name: str) -> None:
    """The name becomes a word of a crash command line, which knows quotes, pipes and files."""
    if not _SAFE_NAME.fullmatch(name):
        raise HostError(
            f"the name {name[:128]} cannot be given to crash's kmem: only letters, digits and "
            "_ . : ( ) - are safe in its command line, and no - in front"
        )


def listing(host: KmemHost, name: str) -> KmemText:
    """What `kmem -S NAME` shows. Raises `HostError` where that is no cache with objects."""
    _refuse_monster(host, name)
    shown, failure = _ask(host, "-S", name)
    row = shown.cache
    if row is None:
        raise HostError(_why_nothing(host, name, shown, failure))
    if row.object_size is None:
        raise HostError(f"crash cannot read slab cache {name}: {_first(shown, failure)}")
    return shown


def _ask(host: KmemHost, option: str, name: str) -> tuple[KmemText, str]:
    """A cache's text, and how crash failed over it: what it printed before is still good."""
    # Without the backslash, kmem would take a name such as "dead" for an address.
    word = f"\\{name}" if _LIKE_HEX.fullmatch(name) else name
    try:
        return parse(host.crash_command(f"kmem {option} {word}")), ""
    except HostError as error:
        return parse(str(error)), str(error)


def _refuse_monster(host: KmemHost, name: str) -> None:
    """SLAB's `kmem -S` prints a line for every object of the cache: ask how many first."""
    layout = host.layout("struct kmem_cache")
    if layout is not None and "cpu_slab" in layout:
        return
    shown, _ = _ask(host, "-s", name)
    total = shown.cache.total if shown.cache is not None else None
    if total is not None and total > _MAX_LISTED:
        raise HostError(
            f"kmem -S {name} would print {plural(total, 'line')}, one an object: too many to read "
            f"(at most {_MAX_LISTED:,})"
        )


def _why_nothing(host: KmemHost, name: str, shown: KmemText, failure: str) -> str:
    """crash prints nothing at all for a name that it does not know."""
    try:
        names = parse_names(host.crash_command("kmem -s list"))
    except HostError:
        names = []
    if names and name not in names:
        close = process.extract(name, names, scorer=fuzz.ratio, limit=3, score_cutoff=60)
        hint = ", ".join(n for n, _, _ in close)
        return f"crash knows no slab cache called {name}" + (
            f": did you mean {hint}?" if hint else f" among the {len(names)} of this kernel"
        )
    return f"kmem -S {name} shows no slab cache: {_first(shown, failure)}"


def _first(shown: KmemText, failure: str) -> str:
    """One line of what crash complained of."""
    lines = [*shown.errors, *(line.strip() for line in failure.splitlines() if line.strip())]
    return lines[0] if lines else "crash prints nothing"


@dataclass(frozen=True)
class _Seen:
    """The listed objects that were read."""

    address: Words
    content: Bytes
    free_address: Words
    free_content: Bytes
    unread: int
    """Allocated objects that are not in the dump."""
    undrawn: int
    """Allocated objects beyond the sample."""


class _Examiner:
    """What all caches of a run share: the kernel's address space and names, as far as known."""

    def __init__(self, host: KmemHost, settings: Settings) -> None:
        self._host, self._settings = host, settings
        try:
            space = address_space(host)
        except (UnknownLayout, ReadFault):
            space = None
        self._classifier = Classifier(space, tuple(host.modules()))
        self._decoder = Decoder(host, None, self._classifier)

    def examine(self, name: str) -> tuple[CacheReport, list[Skipped]]:
        """List, read, group and decode one cache."""
        shown = listing(self._host, name)
        row = shown.cache
        assert row is not None  # listing() saw to it
        size = row.object_size or 0
        rng = generator(self._settings, row.name)
        seen = self._read(shown, max(1, size), rng)
        groups, grouping = self._groups(row, seen, rng)
        others = grouping.clusters[REPORTED_GROUPS:]
        slot_size = _slot_size(shown, size)
        report = CacheReport(
            name=row.name,
            asked=name,
            aliases=(),
            address=U64(row.address),
            object_size=size,
            slot_size=slot_size,
            flags=(),
            has_constructor=self._has_constructor(row),
            slabs_total=_count(row.slabs, shown.slabs),
            slabs_examined=shown.slabs,
            objects_total=_count(row.total, len(shown.allocated) + len(shown.free)),
            allocated=_count(row.allocated, len(shown.allocated)),
            sampled=len(seen.address),
            free_sampled=len(shown.free),
            groups=groups,
            more_groups=len(others),
            more=Estimate.known(sum(len(c.members) for c in others)),
            rest=Estimate.known(len(grouping.alone)),
            rest_examined=not grouping.exhausted,
            next_steps=_next_steps(groups, size),
            walker="kmem",
        )
        return report, [*_gaps(shown, seen, self._host.info().live), *self._sheaves(row, seen)]

    def _read(self, shown: KmemText, size: int, rng: np.random.Generator) -> _Seen:
        room = max(1, MAX_SAMPLE_BYTES // size)
        drawn = _choose(shown.allocated, min(self._settings.samples, room), rng)
        free = _choose(shown.free, min(MAX_FREE, room), rng)
        content, ok = self._host.read_many(drawn, size)
        free_content, free_ok = self._host.read_many(free, size)
        return _Seen(
            drawn[ok],
            content[ok],
            free[free_ok],
            free_content[free_ok],
            int((~ok).sum()),
            len(shown.allocated) - len(drawn),
        )

    def _groups(
        self, row: CacheRow, seen: _Seen, rng: np.random.Generator
    ) -> tuple[tuple[Group, ...], Grouping]:
        """The largest groups, described, and all of them."""
        settings, n = self._settings, len(seen.address)
        words = self._classifier.classify(seen.content, seen.address)
        free = self._classifier.classify(seen.free_content, seen.free_address)
        link = self._freelist_offset(row)
        grouping = group(words, settings.threshold, settings.metric, rng)
        groups = tuple(
            describe(
                self._decoder,
                words,
                seen.address,
                row.object_size or 0,
                cluster,
                _exact(len(cluster.members), n),
                Estimate.known(n),
                residue(words, free, cluster.exemplar, link, settings),
                settings,
            )
            for cluster in grouping.clusters[:REPORTED_GROUPS]
        )
        return groups, grouping

    def _freelist_offset(self, row: CacheRow) -> int:
        """Where a free slot's next pointer is; past every object where it has none (SLAB)."""
        layout = self._host.layout("struct kmem_cache")
        if layout is None or "offset" not in layout:
            return _UNKNOWN
        try:
            return u32(self._host, row.address + layout["offset"].offset)
        except ReadFault:
            return _UNKNOWN

    def _has_constructor(self, row: CacheRow) -> bool:
        layout = self._host.layout("struct kmem_cache")
        if layout is None or "ctor" not in layout:
            return False
        try:
            return u64(self._host, row.address + layout["ctor"].offset) != 0
        except ReadFault:
            return False

    def _sheaves(self, row: CacheRow, seen: _Seen) -> list[Skipped]:
        # 2d517aa09bbc (6.18) put free objects into sheaves, of which crash knows nothing.
        layout = self._host.layout("struct kmem_cache")
        if layout is None or "cpu_sheaves" not in layout or not len(seen.address):
            return []
        return [
            Skipped(
                f"{row.name}: objects of a kernel with sheaves",
                len(seen.address),
                "crash lists the free ones among them as allocated",
            )
        ]


def _choose(addresses: Words, most: int, rng: np.random.Generator) -> Words:
    """All of `addresses`, or `most` of them at random, sorted."""
    if len(addresses) <= most:
        return addresses
    return addresses[np.sort(rng.choice(len(addresses), most, replace=False))]


def _count(told: int | None, least: int) -> Estimate:
    """crash's number; where it prints "?", at least what it lists."""
    return Estimate.known(told) if told is not None else Estimate(least, least, _UNKNOWN)


def _exact(part: int, whole: int) -> Share:
    return Share(part / whole, part / whole, part / whole)


def _slot_size(shown: KmemText, object_size: int) -> int:
    """From one object to the next: crash lists all of a slab, so neighbours are a slot apart."""
    listed = np.union1d(shown.allocated, shown.free)
    if len(listed) > 1:
        step = int(np.diff(listed).min())
        if object_size <= step <= 2 * object_size + 4096:
            return step
    return object_size


def _gaps(shown: KmemText, seen: _Seen, live: bool) -> list[Skipped]:
    """What this way of looking missed."""
    row = shown.cache
    assert row is not None
    gaps = []
    if row.allocated is None:
        gaps.append(
            Skipped(f"{row.name}: count that crash prints as ?", 1, "the cache's size is unknown")
        )
    hidden = (row.allocated or 0) - len(shown.allocated) - shown.row_only
    effect = "what they are is unknown: groups and shares count the listed objects alone"
    for what, count, so in (
        ("objects in full slabs that kmem -S does not list", hidden, effect),
        (
            "objects in partial slabs of which kmem -S shows the slab only",
            shown.row_only,
            effect,
        ),
        ("listed objects beyond the sample", seen.undrawn, "drawn at random: not looked at"),
        (f"listed objects that are {missing(live)}", seen.unread, "they may hold anything"),
    ):
        if count > 0:
            gaps.append(Skipped(f"{row.name}: {what}", count, so))
    gaps += [
        Skipped(f'complaint of crash, "{line}"', 1, "what it concerns may be missing")
        for line in shown.errors
    ]
    return gaps


def _next_steps(groups: tuple[Group, ...], size: int) -> tuple[str, ...]:
    if not groups:
        return ()
    first = f"{groups[0].exemplar:x}"
    return (
        f"crash> rd -SS {first} {(size + 7) // 8} # the exemplar, with the caches it points into",
        f"crash> search {first} # does anything still point at it?",
    )
