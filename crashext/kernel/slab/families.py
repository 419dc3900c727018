"""Cache names: which caches serve one purpose under several names.

kmalloc has been split and renamed for twenty years: ``size-512`` (SLAB before 3.10),
``kmalloc-512``, ``kmalloc-1024`` and ``kmalloc-1k`` (4.20), ``dma-kmalloc-512``, ``kmalloc-rcl-``
(4.20), ``kmalloc-cg-`` (5.14), ``kmalloc-rnd-NN-`` (6.6), ``kmalloc-part-NN-``,
``kmalloc-no-objext-``, and the buckets of 6.11 that carry their owner's name (``msg_msg-64``).
Before 5.9 every memory cgroup had caches of its own, ``dentry(123:session.scope)``. Names alone
decide here; what a merged cache hides is not in its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from crashext.procfs.slabinfo import SlabLine

# Of kmem_buckets_create(), 6.11 and later.
BUCKETS = frozenset(("memdup_user", "msg_msg"))

_SIZE = r"(\d{1,10}(?:k|M)?)"
_KMALLOC = re.compile(
    rf"(?P<dma>dma-)?kmalloc-(?:(?P<kind>cg|rcl|dma|(?:rnd|part)-\d{{1,3}}|no-objext)-)?"
    rf"(?P<size>{_SIZE})",
    re.ASCII,
)
_OLD_SIZE = re.compile(r"size-(\d{1,10})(\(DMA\))?", re.ASCII)
_BUCKET = re.compile(rf"([A-Za-z_]\w{{0,62}})-{_SIZE}", re.ASCII)
# name(css id:cgroup), and the :deactivated or :dead of 4.x to 5.8.
_CHILD = re.compile(r"(\S+?)\((\d{1,10})(?::(.*))?\)(?::(?:deact|deactivated|dead))?", re.ASCII)
_BUCKET_MARKS = frozenset(("1k", "2k", "4k", "8k"))
"""Only kmalloc names sizes in k; who has all of these is a set of buckets."""


@dataclass(frozen=True)
class Family:
    """Caches of one purpose, summed. Sizes are in objects, slabs and pages."""

    name: str
    variants: tuple[str, ...]
    """Of its members, sorted: "" is the plain one."""
    members: tuple[SlabLine, ...]
    """Most pages first."""
    active_objs: int = field(init=False)
    num_objs: int = field(init=False)
    num_slabs: int = field(init=False)
    pages: int = field(init=False)

    def __post_init__(self) -> None:
        for name in ("active_objs", "num_objs", "num_slabs", "pages"):
            object.__setattr__(self, name, sum(getattr(m, name) for m in self.members))

    @property
    def use(self) -> float:
        """Active share of the objects; 1 for an empty family."""
        return self.active_objs / self.num_objs if self.num_objs else 1.0


def family(name: str, buckets: Iterable[str] = BUCKETS) -> tuple[str, str]:
    """``("kmalloc-64", "cg")`` for ``kmalloc-cg-64``: canonical name, and what sets it apart.

    Sizes of 1024 and up are named as kernels since 4.20 do (``kmalloc-1k``). A child cache of a
    memory cgroup has variant ``memcg``, after that of its parent where it has one (``rcl memcg``).
    A name that belongs to no family is its own, with variant "".
    """
    if child := _CHILD.fullmatch(name):
        parent, variant = family(child[1], buckets)
        return parent, f"{variant} memcg".strip()
    if old := _OLD_SIZE.fullmatch(name):
        return _sized(old[1]), "size dma" if old[2] else "size"
    if match := _KMALLOC.fullmatch(name):
        return _sized(match["size"]), "dma" if match["dma"] else match["kind"] or ""
    if (match := _BUCKET.fullmatch(name)) and match[1] in buckets:
        return _sized(match[2]), match[1]
    return name, ""


def parent(name: str) -> str:
    """The cache that a memory cgroup's child cache belongs to; any other name as it is."""
    child = _CHILD.fullmatch(name)
    return child[1] if child else name


def cgroup_of(name: str) -> str | None:
    """The memory cgroup that a cache is of, by the cache's name; None: it is of none."""
    child = _CHILD.fullmatch(name)
    return child[3] or f"memory cgroup {child[2]}" if child else None


def bucket_owners(names: Iterable[str]) -> frozenset[str]:
    """Names X whose caches ``X-64`` ... ``X-8k`` are a set of kmalloc buckets, and `BUCKETS`."""
    marks: dict[str, set[str]] = {}
    for name in names:
        match = _BUCKET.fullmatch(name)
        if match and match[2] in _BUCKET_MARKS and "kmalloc" not in match[1]:
            marks.setdefault(match[1], set()).add(match[2])
    return BUCKETS | {owner for owner, found in marks.items() if found == _BUCKET_MARKS}


def families(caches: Iterable[SlabLine]) -> tuple[Family, ...]:
    """Lines of slabinfo summed by family, most pages first."""
    lines = list(caches)
    owners = bucket_owners(c.name for c in lines)
    found: dict[str, list[tuple[str, SlabLine]]] = {}
    for line in lines:
        name, variant = family(line.name, owners)
        found.setdefault(name, []).append((variant, line))
    summed = (
        Family(
            name,
            tuple(sorted({variant for variant, _ in members})),
            tuple(sorted((m for _, m in members), key=lambda m: (-m.pages, m.name))),
        )
        for name, members in found.items()
    )
    return tuple(sorted(summed, key=lambda f: (-f.pages, f.name)))


def by_name(caches: Iterable[SlabLine]) -> Mapping[str, Family]:
    """The same, to look up."""
    return {f.name: f for f in families(caches)}


def _sized(size: str) -> str:
    if size.endswith(("k", "M")):
        return f"kmalloc-{size}"
    # kmalloc_size_names of mm/slab_common.c: plain up to 512, then k, then M.
    number = int(size)
    if number >= 1 << 20 and number % (1 << 20) == 0:
        return f"kmalloc-{number >> 20}M"
    if number >= 1024 and number % 1024 == 0:
        return f"kmalloc-{number >> 10}k"
    return f"kmalloc-{number}"
