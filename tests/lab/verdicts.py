"""What a leak finder should say of each dump: the guest's truth in the words of a verdict.

It only knows what was done in the guest, not what can be seen of it in a dump: a caller, for
example, is named here although nothing in most dumps tells it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .functions import FUNCTIONS

_MIB = 1 << 20
_HUGE_PAGE = 2 * _MIB


@dataclass(frozen=True)
class Culprit:
    """Who has the memory; None where the question makes no sense."""

    cache: str | None = None
    caller: str | None = None
    """The function of the leak module that allocated it."""
    module: str | None = None
    process: tuple[int, str] | None = None
    """PID and comm."""
    mount: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As it stands in ``truth.json``."""
        process = dict(zip(("pid", "comm"), self.process, strict=True)) if self.process else None
        return {**vars(self), "process": process}


@dataclass(frozen=True)
class Verdict:
    """One thing that is wrong."""

    kind: str
    """The ``class`` of the issue: leak, held-growth, deferred-free, reclaimable, fragmentation,
    user-space, healthy."""
    where: str
    """slab, vmalloc, pages, user, none."""
    culprit: Culprit
    bytes: int
    parts: tuple[str, ...]
    """Parts of the truth, or parameters of the guest, that it is about."""

    def as_json(self) -> dict[str, Any]:
        """As it stands in ``truth.json``."""
        return {
            "class": self.kind,
            "where": self.where,
            "culprit": self.culprit.as_json(),
            "bytes": self.bytes,
            "parts": list(self.parts),
        }


HEALTHY = Verdict("healthy", "none", Culprit(), 0, ())

# Part -> class, where. Who allocated it is in functions.py.
_PARTS = {
    "nodes": ("leak", "slab"),
    "nodes_later": ("leak", "slab"),
    "private": ("leak", "slab"),
    "tasks": ("leak", "slab"),
    "chain": ("leak", "slab"),
    "sessions": ("leak", "slab"),
    "requests": ("leak", "slab"),
    "leases": ("leak", "slab"),
    "vmalloc": ("leak", "vmalloc"),
    "pages0": ("leak", "pages"),
    "pages1": ("leak", "pages"),
    "pages2": ("leak", "pages"),
    "pages3": ("leak", "pages"),
    "messages": ("held-growth", "slab"),
    "rcu_calls": ("deferred-free", "slab"),
    "rcu_frees": ("deferred-free", "slab"),
    "survivors": ("fragmentation", "slab"),
}


def verdicts(
    parameters: Mapping[str, int],
    parts: Mapping[str, Mapping[str, Any]],
    processes: Mapping[str, tuple[int, str]],
    slots: Mapping[str, int],
) -> list[Verdict]:
    """All that is wrong, most bytes first, or `HEALTHY` alone.

    `parts` are those of the truth, `processes` PID and comm by what they hold, `slots` bytes from
    one object of a cache to the next.
    """
    merged: dict[tuple[str, str, Culprit], Verdict] = {}
    for found in (*_of_parts(parameters, parts), *_of_guest(parameters, processes, slots)):
        key = (found.kind, found.where, found.culprit)
        if key in merged:
            size, names = merged[key].bytes, merged[key].parts
            found = Verdict(*key, found.bytes + size, (*names, *found.parts))
        merged[key] = found
    return sorted(merged.values(), key=lambda verdict: -verdict.bytes) or [HEALTHY]


def _of_parts(
    parameters: Mapping[str, int], parts: Mapping[str, Mapping[str, Any]]
) -> Iterator[Verdict]:
    for name, part in parts.items():
        if name not in _PARTS:
            continue
        kind, where = _PARTS[name]
        caller = FUNCTIONS.get(name)
        count = part["count"]
        if kind == "fragmentation":
            # What is lost are the free slots between the survivors.
            count = parameters["fragments"] - count
        culprit = Culprit(part["cache"], caller, "leaklab" if caller else None)
        yield Verdict(kind, where, culprit, count * part["size"], (name,))


def _of_guest(
    parameters: Mapping[str, int],
    processes: Mapping[str, tuple[int, str]],
    slots: Mapping[str, int],
) -> Iterator[Verdict]:
    held = {"memory": "process_mib", "pagetables": "pagetables_mib", "hugetlb": "hugetlb"}
    for name, process in processes.items():
        unit = _HUGE_PAGE if name == "hugetlb" else _MIB
        size = parameters[held[name]] * unit
        yield Verdict("user-space", "user", Culprit(process=process), size, (held[name],))
    if count := parameters.get("tmpfs_mib"):
        culprit = Culprit(mount="/spool")
        yield Verdict("user-space", "user", culprit, count * _MIB, ("tmpfs_mib",))
    if count := parameters.get("pagecache_mib"):
        culprit = Culprit(mount="/data")
        yield Verdict("reclaimable", "user", culprit, count * _MIB, ("pagecache_mib",))
    if count := parameters.get("lost_files"):
        culprit = Culprit(cache="filp")
        yield Verdict("leak", "slab", culprit, count * slots["filp"], ("lost_files",))
    if count := parameters.get("dentries"):
        culprit = Culprit(cache="dentry")
        yield Verdict("reclaimable", "slab", culprit, count * slots["dentry"], ("dentries",))
