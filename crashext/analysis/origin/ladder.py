"""Who allocated a group of objects: down a ladder of the kernel's own records, strongest first.

Allocation tag, SLUB track, kmemleak record and page owner name the code, and the first of them
that knows ends the search. The memory cgroup that pays and the names inside the objects are
weaker: they say for whom, not by whom, and are given together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from crashext.analysis.likeness.words import Classifier, WordMap
from crashext.analysis.origin.content import content_owners
from crashext.analysis.origin.sites import FrameNames, Stack
from crashext.analysis.results.evidence import Allocator
from crashext.hosts.base import Bytes, Host, Mask, UnknownLayout
from crashext.kernel.access import Words
from crashext.kernel.counters.clock import Clock, clock
from crashext.kernel.origin.allocprofile import (
    Outstanding,
    object_tags,
    outstanding,
    page_tags,
    profiled,
    read_tags,
)
from crashext.kernel.origin.kmemleak import read_records, watched
from crashext.kernel.origin.memcg import accounted, cgroup_paths, object_cgroups, payer_of
from crashext.kernel.origin.pageowner import keeps_owners, owners_known, read_owners
from crashext.kernel.origin.slabexts import slab_bases
from crashext.kernel.origin.stackdepot import StackDepot
from crashext.kernel.origin.tracks import read_tracks, tracked
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.descriptors import SlabKind, slab_kind
from crashext.kernel.slab.families import parent
from crashext.kernel.slab.view import KernelView
from crashext.wording import looked_in, plural, size_text, some_of

MAX_OBJECTS = 4096
"""Objects of a group that are looked at, spread over it."""
MAX_SITES = 8
"""Sites that are reported of a group."""
_NAMED_PIDS = 3
_NO_OWNERS = "page owners are not tracked (page_owner=on, with CONFIG_PAGE_OWNER)"


@dataclass(frozen=True)
class Attribution:
    """What the ladder says of one group."""

    allocators: tuple[Allocator, ...]
    """Most objects first within a rung, stronger rungs first."""
    unknown: str
    """Where no record names the code: why, and which boot option would have; "" otherwise."""
    absent: tuple[str, ...]
    """Records that this kernel, or this dump, does not have."""


@dataclass(frozen=True)
class _Records:
    """What one rung knows of some objects, an array element each."""

    stacks: list[Stack | None]
    """Return addresses, innermost first; None where the record has no stack."""
    pid: Words
    comm: dict[int, str]
    """Names of pids."""
    when: Words
    """Jiffies; 0 where the rung notes no time."""
    reported: Mask | None = None
    """What the kernel itself called leaked."""
    note: str = ""


class Ladder:
    """The ladder of one kernel; what it finds out about the kernel is kept."""

    def __init__(self, view: KernelView, classifier: Classifier) -> None:
        self._view, self._classifier = view, classifier
        self._depot = StackDepot(view.host)
        self._names = FrameNames(view.host)
        self._clock: Clock | None = clock(view.host)

    def attribute(self, cache: SlabCache, addresses: Words, words: WordMap) -> Attribution:
        """Who allocated the objects of `cache` at `addresses`, whose classified content is `words`.

        `view.scan` was called. A rung whose layout is not understood counts as absent.
        """
        chosen = _spread(len(addresses), MAX_OBJECTS)
        objects = addresses[chosen]
        absent: list[str] = []
        rungs: tuple[tuple[str, Callable[[SlabCache, Words], tuple[Allocator, ...] | str]], ...] = (
            ("alloc-tag", self._tags),
            ("slub-track", self._tracks),
            ("kmemleak", self._kmemleak),
            ("page-owner", self._page_owner),
        )
        for name, rung in rungs:
            try:
                found = rung(cache, objects)
            except UnknownLayout as why:
                found = str(why)
            if isinstance(found, str):
                absent.append(f"{name}: {found}")
            elif found:
                return Attribution(found, "", tuple(absent))
            else:
                absent.append(f"{name}: no record of these objects")
        payers = self._memcg(cache, objects)
        if isinstance(payers, str):
            absent.append(f"memcg: {payers}")
            payers = ()
        named = content_owners(self._view, self._classifier, words.rows(chosen))
        return Attribution((*payers, *named), self._advice(cache), tuple(absent))

    def _tags(self, cache: SlabCache, objects: Words) -> tuple[Allocator, ...] | str:
        host = self._view.host
        if not profiled(host):
            return "this kernel is built without CONFIG_MEM_ALLOC_PROFILING"
        return self._tagged(object_tags(self._view, cache, objects))

    def _tagged(self, at: Words) -> tuple[Allocator, ...]:
        """Lines of source by how many of some allocations, whose tags are `at`, are theirs."""
        host = self._view.host
        tags, counted = read_tags(host, at), outstanding(host, self._view.space, at)
        found, counts = np.unique(at[np.isin(at, list(tags))], return_counts=True)
        order = np.argsort(-counts, kind="stable")[:MAX_SITES].tolist()
        return tuple(
            Allocator(
                rung="alloc-tag",
                site=tags[tag].site,
                module=tags[tag].module,
                stack=(),
                objects=int(counts[i]),
                of=len(at),
                note=_counter(counted.get(tag)),
            )
            for i in order
            for tag in (int(found[i]),)
        )

    def _tracks(self, cache: SlabCache, objects: Words) -> tuple[Allocator, ...] | str:
        if not tracked(cache):
            return f"{cache.name} has no user tracking ({_user_option(self._view.host)})"
        tracks = read_tracks(self._view.host, cache, objects)
        # A track without a stack still has the address of the call.
        stacks = self._stacks(tracks.handle, tracks.inline, tracks.addr, tracks.ok)
        return self._histogram("slub-track", _Records(stacks, tracks.pid, {}, tracks.when))

    def _kmemleak(self, cache: SlabCache, objects: Words) -> tuple[Allocator, ...] | str:
        return self._kmemleak_of(objects)

    def _kmemleak_of(self, objects: Words) -> tuple[Allocator, ...] | str:
        host = self._view.host
        if not watched(host):
            return "this kernel has no kmemleak, or it is off"
        records = read_records(host, objects)
        none = np.zeros(len(objects), np.uint64)
        stacks = self._stacks(records.handle, records.inline, none, records.ok)
        comm = _comms(records.pid, records.comm, records.ok)
        return self._histogram(
            "kmemleak", _Records(stacks, records.pid, comm, records.jiffies, records.reported)
        )

    def _page_owner(self, cache: SlabCache, objects: Words) -> tuple[Allocator, ...] | str:
        view = self._view
        if not owners_known(view.host):
            return _NO_OWNERS
        bases, known = slab_bases(view, objects)
        unique, inverse = np.unique(bases, return_inverse=True)
        pfns = (unique - np.uint64(view.space.direct.start)) >> np.uint64(12)
        stacks, records = self._owners_of(pfns)
        each = [stacks[i] if k else None for i, k in zip(inverse.tolist(), known, strict=True)]
        return self._histogram(
            "page-owner",
            replace(
                records,
                stacks=each,
                pid=records.pid[inverse],
                when=records.when[inverse],
                note="of the slab's pages: who made the cache grow, a sample of who allocates",
            ),
        )

    def _owners_of(self, pfns: Words) -> tuple[list[Stack | None], _Records]:
        """Stacks of page frames by page_owner, and the records that they are of."""
        owners = read_owners(self._view.host, pfns)
        none = np.zeros(len(pfns), np.uint64)
        stacks = self._stacks(owners.handle, owners.inline, none, owners.ok)
        noted = owners.nanoseconds != 0
        when = np.zeros(len(pfns), np.uint64)
        if self._clock is not None and noted.any():
            when = np.where(noted, self._clock.at(owners.nanoseconds), when)
        comm = _comms(owners.pid, owners.comm, owners.ok)
        return stacks, _Records(stacks, owners.pid, comm, when)

    def of_memory(self, address: int, pfns: Words) -> tuple[Allocator, ...]:
        """Who allocated the area, or the block of pages, that begins at `address`, by the tags of
        its page frames `pfns`, kmemleak's record of it or page_owner's of them; none where there
        is none of these.
        """
        tagged = self._tagged(page_tags(self._view.memory, pfns))
        if tagged:
            return tagged
        found = self._kmemleak_of(np.array([address], np.uint64))
        if found and not isinstance(found, str):
            return found
        if not len(pfns) or not owners_known(self._view.host):
            return ()
        return self._histogram("page-owner", self._owners_of(pfns)[1])

    def _memcg(self, cache: SlabCache, objects: Words) -> tuple[Allocator, ...] | str:
        host = self._view.host
        payer = payer_of(host, cache)
        if payer is not None:
            note = "the memory cgroup whose cache it is"
            return (Allocator("memcg", payer, "", (), len(objects), len(objects), note=note),)
        if not accounted(host):
            return "this kernel does not account kernel memory per object"
        groups = object_cgroups(self._view, cache, objects)
        if not groups.any():
            return "none of these objects is charged to a memory cgroup"
        paths = cgroup_paths(host, groups)
        found, counts = np.unique(groups[groups != 0], return_counts=True)
        order = np.argsort(-counts, kind="stable")[:MAX_SITES].tolist()
        return tuple(
            Allocator(
                rung="memcg",
                site=paths.get(int(found[i]), f"mem_cgroup {int(found[i]):#x}"),
                module="",
                stack=(),
                objects=int(counts[i]),
                of=len(objects),
                note="the memory cgroup that is charged for them",
            )
            for i in order
        )

    def _stacks(
        self,
        handle: Words,
        inline: Words,
        addr: Words,
        ok: Mask,
    ) -> list[Stack | None]:
        known = self._depot.stacks(handle[ok])
        stacks: list[Stack | None] = []
        for i, good in enumerate(ok.tolist()):
            if not good:
                stacks.append(None)
                continue
            stack = known.get(int(handle[i])) or tuple(f for f in inline[i].tolist() if f)
            stacks.append(stack or ((int(addr[i]),) if addr[i] else None))
        return stacks

    def _histogram(self, rung: str, records: _Records) -> tuple[Allocator, ...]:
        """Objects by site, most first."""
        by_stack: dict[Stack, list[int]] = defaultdict(list)
        for i, stack in enumerate(records.stacks):
            if stack:
                by_stack[stack].append(i)
        by_site: dict[tuple[str, str], list[Stack]] = defaultdict(list)
        for stack in sorted(by_stack, key=lambda s: -len(by_stack[s])):
            frame = self._names.site(stack)
            by_site[frame.site, frame.module].append(stack)
        counted = [
            (sum(len(by_stack[s]) for s in stacks), site, module, stacks)
            for (site, module), stacks in by_site.items()
        ]
        counted.sort(key=lambda entry: (-entry[0], entry[1]))
        return tuple(
            Allocator(
                rung=rung,
                site=site,
                module=module,
                stack=tuple(self._names.frame(a).text for a in stacks[0]),
                objects=count,
                of=len(records.stacks),
                note=self._note(
                    records,
                    np.array([i for s in stacks for i in by_stack[s]], np.int64),
                    len(stacks),
                ),
            )
            for count, site, module, stacks in counted[:MAX_SITES]
        )

    def _note(
        self, records: _Records, rows: np.ndarray[tuple[int], np.dtype[np.int64]], stacks: int
    ) -> str:
        when = records.when[rows]
        # Who notes neither pid nor time does not mean pid 0.
        noted = bool(records.pid[rows].any() or when.any())
        parts = [_pids(records.pid[rows], records.comm)] if noted else []
        if self._clock is not None and when.any():
            ages = [self._clock.age(int(w)) for w in (when.max(), when.min())]
            if ages[0] >= 0:
                parts.append(self._clock.ago(ages[0], ages[1]))
        if stacks > 1:
            parts.append(f"by {stacks:,} different stacks, the most frequent shown")
        reported = 0 if records.reported is None else int(records.reported[rows].sum())
        if reported:
            parts.append(f"kmemleak itself reported {reported:,} of them as leaked")
        parts.append(records.note)
        return ", ".join(p for p in parts if p)

    def _advice(self, cache: SlabCache) -> str:
        """What would have told, on this kernel."""
        host = self._view.host
        options = []
        # slub_debug became slab_debug in 6.9; the old name is still taken.
        debug = host.address_of("slub_debug") or host.address_of("slab_debug")
        if debug is not None or host.layout("struct track") is not None:
            options.append(f"slub_debug=U,{parent(cache.name)}")
        if profiled(host):
            options.append("sysctl.vm.mem_profiling=1")
        if host.layout("struct kmemleak_object") is not None:
            options.append("kmemleak=on")
        if keeps_owners(host):
            options.append("page_owner=on")
        where = looked_in(host.info().live)
        if not options:
            debug_option = "SLUB_DEBUG" if slab_kind(host) is SlabKind.SLUB else "DEBUG_SLAB"
            return (
                f"cannot tell who allocated them: no record {where}, and this kernel is built "
                f"without {debug_option}, PAGE_OWNER, DEBUG_KMEMLEAK and MEM_ALLOC_PROFILING"
            )
        return (
            f"cannot tell who allocated them: no record {where}; booted with "
            f"{' or '.join(options)} the kernel would have noted it"
        )


def _counter(counted: Outstanding | None) -> str:
    """What a line of source has allocated in all, by its own counters."""
    if counted is None:
        return ""
    return (
        f"by its counters {plural(counted.calls, 'allocation')} of this line, "
        f"{size_text(counted.bytes)}, {'is' if counted.calls == 1 else 'are'} not freed"
    )


def _user_option(host: Host) -> str:
    slub = slab_kind(host) is SlabKind.SLUB
    return "slub_debug=U" if slub else "CONFIG_DEBUG_SLAB"


def _spread(n: int, most: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Indexes of at most `most` of n things, evenly over them."""
    if n <= most:
        return np.arange(n)
    return np.linspace(0, n - 1, most).astype(np.int64)


def _comms(pid: Words, comm: Bytes, ok: Mask) -> dict[int, str]:
    """Command names by pid, escaped."""
    names: dict[int, str] = {}
    unique, first = np.unique(pid[ok], return_index=True)
    rows = comm[ok]
    for number, at in zip(unique.tolist(), first.tolist(), strict=True):
        text = bytes(rows[at]).split(b"\0", 1)[0].decode("ascii", "backslashreplace")
        if text:
            names[number] = text
    return names


def _pids(pids: Words, comm: dict[int, str]) -> str:
    """``pid 212 (insmod)``, the most frequent first."""
    found, counts = np.unique(pids & np.uint64(0xFFFFFFFF), return_counts=True)
    order = np.argsort(-counts, kind="stable").tolist()
    names = [
        f"{int(found[i])}" + (f" ({comm[int(found[i])]})" if int(found[i]) in comm else "")
        for i in order[:_NAMED_PIDS]
    ]
    return f"pid{'s' * (len(order) > 1)} {some_of(names, _NAMED_PIDS, len(order))}"
