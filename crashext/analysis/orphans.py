"""`leakscan --orphans`: every object of the dump that nothing reaches, by cache and by likeness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.described import Described
from crashext.analysis.likeness.similarity import Cluster, group
from crashext.analysis.likeness.survey import generator, kernel_of, make_classifier, map_gaps
from crashext.analysis.no_leak import no_leak
from crashext.analysis.origin.page_callers import with_callers
from crashext.analysis.page_reach import unreachable_memory
from crashext.analysis.reach.group_reach import reachability_of
from crashext.analysis.reach.holes import orphans_by_holes
from crashext.analysis.reach.marked import marked
from crashext.analysis.reach.nodes import NodeKind
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.reach.structures import Structures, structures
from crashext.analysis.reach.totals import by_heads, count, unreachable_counts
from crashext.analysis.results.estimate import Estimate, Share
from crashext.analysis.results.evidence import HIDDEN, Below, OrphanGroup, OrphanTotals
from crashext.analysis.results.reports import Group, OrphanReport
from crashext.analysis.settings import MEMORY_BUDGET, Settings
from crashext.distinct import distinct, grouped
from crashext.hosts.base import U64, HostError
from crashext.hosts.plain import answered
from crashext.kernel.access import Words
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.families import parent
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slots import Slots
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress

_SAMPLED = 4096  # heads of each cache whose content is compared
_MOST_GROUPS = 64
_EXAMPLES = 4
_TYPED_LEAST = 128 << 10  # bytes from which it is worth a moment to find out what they are
_SIBLINGS = 4  # caches of memory cgroups of one parent that are looked at one by one
_ATTRIBUTED = 3  # groups of each cache whose allocators are looked up


@dataclass(frozen=True)
class Orphans:
    """The report, and for a list every unreachable object, area and block of pages."""

    report: OrphanReport
    addresses: Words
    caches: tuple[str, ...]
    """The name of each one's cache; of areas and pages their kind and their bytes."""
    explained: Mapping[int, str]
    """Why some of them are no leak, or are not judged, by address."""


def scan_orphans(
    view: KernelView, settings: Settings, progress: Progress, budget: int = MEMORY_BUDGET
) -> Orphans:
    """Mark everything, and report what was not reached.

    Raises `HostError` on a session that was not recorded with this question.
    """
    scanned: list[Orphans] = []

    def compute() -> OrphanReport:
        scanned.append(_scan(view, settings, progress, budget))
        return scanned[0].report

    report = answered(view.host, f"orphans {settings.seed}", OrphanReport, compute)
    if report is None:
        raise HostError("this session does not know: record one with leakscan --orphans --record")
    if scanned:
        return replace(scanned[0], report=report)
    # A session keeps the examples only.
    some = [(a, g.cache) for g in report.orphans for a in g.examples]
    some += [(a, m.kind) for m in report.memory for a in m.examples]
    why = {int(a): g.explanation for g in report.orphans if g.explanation for a in g.examples}
    addresses = np.array([a for a, _ in some], np.uint64)
    return Orphans(report, addresses, tuple(c for _, c in some), why)


def _scan(view: KernelView, settings: Settings, progress: Progress, budget: int) -> Orphans:
    reached = marked(view, settings, progress, budget)
    found = structures(reached)
    report, explained = _report(reached, settings, progress, found)
    names = [view.caches.all[i].name for i in reached.table.caches(found.slots).tolist()]
    beyond = reached.unreachable_nodes()
    beyond = beyond[beyond >= reached.nodes.first_area]
    for node, size in zip(beyond.tolist(), reached.nodes.bytes(beyond).tolist(), strict=True):
        kind = "vmalloc" if reached.nodes.kind(node) is NodeKind.AREA else "pages"
        names.append(f"{kind} {size}")
    addresses = [reached.table.addresses(found.slots), reached.nodes.addresses(beyond)]
    why = {
        address: explanation
        for explanation, heads in explained
        for address in reached.table.addresses(found.slots[np.isin(found.head, heads)]).tolist()
    }
    return Orphans(report, np.concatenate(addresses), tuple(names), why)


def orphan_report(marked: Reach, settings: Settings, progress: Progress) -> OrphanReport:
    """Everything that was not reached, in groups; who allocated what is no leak is not asked."""
    return _report(marked, settings, progress, structures(marked), accusing=True)[0]


def _report(
    marked: Reach,
    settings: Settings,
    progress: Progress,
    found: Structures,
    accusing: bool = False,
) -> tuple[OrphanReport, list[tuple[str, Slots]]]:
    """The report, and the heads that are explained by what explains them.

    `accusing` leaves out who allocated what is explained, which is nobody's fault.
    """
    view = marked.view
    groups, explained, interrupted = _groups(marked, found, settings, progress, accusing)
    groups.sort(key=lambda g: (bool(g.explanation), -g.bytes, g.cache, g.exemplar))
    apart = np.concatenate([np.zeros(0, np.int64), *(heads for _, heads in explained)])
    report = OrphanReport(
        kernel=kernel_of(view.host),
        seed=settings.seed,
        reachability=reachability_of(marked),
        totals=_totals(marked, found, groups),
        orphans=tuple(groups[:_MOST_GROUPS]),
        more=max(0, len(groups) - _MOST_GROUPS),
        skipped=tuple(map_gaps(view)),
        interrupted=interrupted,
        caches=by_heads(marked, found, apart),
        memory=tuple(
            with_callers(view, memory)
            for memory in unreachable_memory(marked, [m.name for m in view.host.modules()])
        ),
    )
    return report, explained


def _groups(
    marked: Reach, found: Structures, settings: Settings, progress: Progress, accusing: bool
) -> tuple[list[OrphanGroup], list[tuple[str, Slots]], bool]:
    """All groups, and of those that are no leak why and their heads; whether Ctrl-C came before
    all were looked at. Where somebody is accused that is not answered: an innocent may be next."""
    heads = found.heads
    of_cache = marked.table.caches(heads)
    hanging = _Hanging(marked, found)
    result: list[OrphanGroup] = []
    explained: list[tuple[str, Slots]] = []
    by_holes = orphans_by_holes(marked)
    parts = list(_parts(marked, of_cache, heads))
    try:
        for done, part in enumerate(parts):
            few = len(part.heads) <= by_holes[part.numbers].sum()
            progress("orphans", done, len(parts))
            asked = _asked(few) if accusing else None
            for found_group, members in _cache_groups(marked, hanging, part, settings, asked):
                if few and not found_group.explanation:
                    found_group = replace(found_group, explanation=HIDDEN)
                result.append(found_group)
                if found_group.explanation:
                    explained.append((found_group.explanation, members))
    except KeyboardInterrupt:
        if accusing:
            raise
        return result, explained, True
    return result, explained, False


@dataclass(frozen=True)
class _Part:
    """Heads that are looked at together."""

    cache: SlabCache
    heads: Slots
    total: Estimate
    """How many there are of them, where they are a sample."""
    numbers: list[int]
    """Of their caches: one, or those of memory cgroups that are small beside their siblings."""

    @property
    def name(self) -> str:
        return self.cache.name if len(self.numbers) == 1 else parent(self.cache.name)


def _parts(marked: Reach, of_cache: NDArray[np.uint16], heads: Slots) -> Iterator[_Part]:
    """The heads by cache. Before 5.9 every memory cgroup had caches of its own, thousands of them:
    of those of one parent the largest speak for the others, which are looked at in one go."""
    caches = marked.view.caches.all
    families: dict[tuple[str, int, int], list[tuple[int, Slots]]] = {}
    for number, (some,) in grouped(of_cache, heads):
        cache = caches[number]
        key = parent(cache.name), cache.object_size, cache.slot_size
        families.setdefault(key, []).append((number, some))
    for members in families.values():
        members.sort(key=lambda m: (-len(m[1]), caches[m[0]].name))
        for number, some in members[:_SIBLINGS]:
            total = count(marked, caches[number], some)
            yield _Part(caches[number], some, total, [number])
        rest = members[_SIBLINGS:]
        if rest:
            total = Estimate.sum(count(marked, caches[number], some) for number, some in rest)
            joint = np.sort(np.concatenate([some for _, some in rest]))
            yield _Part(caches[rest[0][0]], joint, total, [number for number, _ in rest])


def _asked(few: bool) -> Callable[[Group], bool]:
    """Whether a group may be somebody's fault; `few`: so few as the dump's holes may explain."""
    return lambda found: not few and not no_leak(found.words)


class _Hanging:
    """What hangs below each head, and where objects are."""

    def __init__(self, marked: Reach, found: Structures) -> None:
        self._marked = marked
        below = found.head != found.slots
        order = np.argsort(found.head[below], kind="stable")
        self._head = found.head[below][order]
        self._slot = found.slots[below][order]

    def addresses(self, slots: Slots) -> list[int]:
        """Where the objects begin."""
        found: list[int] = self._marked.table.addresses(slots).tolist()
        return found

    def of(self, heads: Slots) -> tuple[Below, ...]:
        """By cache, most bytes first; `heads` is ascending."""
        at = np.minimum(np.searchsorted(heads, self._head), len(heads) - 1)
        slots = self._slot[heads[at] == self._head]
        caches = self._marked.view.caches.all
        counts = np.bincount(self._marked.table.caches(slots), minlength=1)
        found = [
            Below(caches[i].name, int(counts[i]), int(counts[i]) * caches[i].slot_size)
            for i in np.flatnonzero(counts).tolist()
        ]
        return tuple(sorted(found, key=lambda b: (-b.bytes, b.cache)))


def _cache_groups(
    marked: Reach,
    hanging: _Hanging,
    part: _Part,
    settings: Settings,
    asked: Callable[[Group], bool] | None,
) -> list[tuple[OrphanGroup, Slots]]:
    """Groups of alike heads of one cache, each with those of its heads that were looked at."""
    view, cache, heads, total = marked.view, part.cache, part.heads, part.total
    alone = len(part.numbers) == 1
    rng = generator(settings, part.name)
    some = heads
    if len(heads) > _SAMPLED:
        some = np.sort(rng.choice(heads, _SAMPLED, replace=False))
    addresses = marked.table.addresses(some)
    content, ok = view.host.read_many(addresses, cache.object_size)
    some, addresses, content = some[ok], addresses[ok], content[ok]
    if not len(some):
        return []
    classifier = make_classifier(view)
    words = classifier.classify(content, addresses)
    described = Described(view, classifier, cache, words, addresses, settings)
    grouping = group(words, settings.threshold, settings.metric, rng)
    clusters = [*grouping.clusters]
    clusters += [
        Cluster(np.array([row]), int(row), 1, 1, 1.0) for row in grouping.alone[:_EXAMPLES]
    ]
    rest = grouping.alone[_EXAMPLES:]
    # Of a sampled cache, more than are in the table; never more than are allocated.
    scale = total.estimate / len(some)
    groups = []
    for number, cluster in enumerate(clusters):
        if cluster.exemplar == cluster.members[0] and len(rest) and cluster is clusters[-1]:
            cluster = Cluster(  # what is like no other is counted with the last example
                np.concatenate([cluster.members, rest]), cluster.exemplar, 1 + len(rest), 1, 0.0
            )
        share = Share(len(cluster.members) / len(some), 0.0, 1.0)
        members = cluster.members
        below = hanging.of(some[members])
        size = len(members) * cache.slot_size + sum(b.bytes for b in below)
        alike = described.group(
            cluster,
            share,
            total,
            attributed=alone and number < _ATTRIBUTED,
            typed=alone and number < _ATTRIBUTED and scale * size >= _TYPED_LEAST,
            asked=asked,
        )
        found = _orphan_group(hanging, part, some[members], alike, scale)
        if len(members) == len(some) and total.exact:
            found = replace(found, estimated=bool(found.below) and scale > 1)  # all are of one kind
        groups.append((found, some[members]))
    return groups


def _orphan_group(
    hanging: _Hanging, part: _Part, members: Slots, described: Group, scale: float
) -> OrphanGroup:
    below = hanging.of(members)
    if scale > 1:
        below = tuple(
            Below(b.cache, round(b.objects * scale), round(b.bytes * scale)) for b in below
        )
    heads = round(len(members) * scale)
    return OrphanGroup(
        cache=part.name,
        shape=described.shape,
        heads=heads,
        objects=heads + sum(b.objects for b in below),
        bytes=heads * part.cache.slot_size + sum(b.bytes for b in below),
        estimated=scale > 1,
        below=below,
        exemplar=described.exemplar,
        examples=_examples(hanging, members),
        notes=described.notes,
        explanation=no_leak(described.words),
        allocators=described.allocators,
        types=described.types,
        callers=described.callers,
    )


def _examples(hanging: _Hanging, members: Slots) -> tuple[U64, ...]:
    some = members[np.linspace(0, len(members) - 1, min(_EXAMPLES, len(members))).astype(int)]
    return tuple(map(U64, hanging.addresses(some)))


def _totals(marked: Reach, found: Structures, groups: list[OrphanGroup]) -> OrphanTotals:
    table = marked.table
    dead = distinct(marked.references.dead_target)
    dead = dead[dead < table.count]
    caches = marked.view.caches.all
    objects = unreachable_counts(marked, found.slots)
    judged = table.in_state(State.ALLOCATED, len(caches))
    sizes = np.array([c.slot_size for c in marked.view.caches.all])
    for number in marked.giants:
        judged[number] = marked.allocated(caches[number])
    return OrphanTotals(
        objects=Estimate.sum(objects.values()),
        bytes=sum(objects[c.name].estimate * c.slot_size for c in caches if c.name in objects),
        heads=Estimate.sum(unreachable_counts(marked, found.heads).values()),
        explained=sum(g.objects for g in groups if g.explanation),
        judged=int(judged.sum()),
        judged_bytes=int(judged @ sizes),
        dead_words=int((~marked.marks.reached[dead]).sum()),
    )
