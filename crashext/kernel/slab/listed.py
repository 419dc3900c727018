"""Slab caches by name: the list of them, their own names, and the names merged into each.

It knows no sizes, and needs no numpy: whoever asks only whether there is such a cache waits for
none. Sources: mm/slab.h, mm/slub.c (sysfs_slab_alias), fs/kernfs/ (4.19 to 7.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from crashext.hosts.faults import ReadFault, UnknownLayout
from crashext.hosts.layouts import Layout, Member
from crashext.kernel.scalars import Memory, NamedMemory, require, string, u64
from crashext.kernel.slab.spelling import spellings, unknown
from crashext.wording import plural

MAX_CACHES = 65536  # one per memory cgroup and cache before 5.9
_MAX_LINKS = 1 << 17
_MAX_LEVELS = 64  # a red-black tree of 2**32 nodes is no deeper
_WORD = (1 << 64) - 1

Many = Callable[[Sequence[int], int], list[bytes | None]]
"""(addresses, size) -> what is at each, None where that cannot be read."""


def cache_list(host: NamedMemory, layout: Layout) -> tuple[list[int], str | None]:
    """Addresses of every kmem_cache; what is wrong with their list, if anything, comes beside.

    Raises `UnknownLayout`, and `ReadFault` where not even the first can be read.
    """
    # cache_chain, linked through `next`, in SLAB before 18004c5d4084 (3.6).
    head = host.address_of("slab_caches") or host.address_of("cache_chain")
    link = layout.first_of("list", "next")
    if head is None or link is None:
        raise UnknownLayout("slab_caches is not in the symbols")
    return _list_entries(host, head, link.offset)


def _list_entries(host: Memory, head: int, link: int) -> tuple[list[int], str | None]:
    """Entries of a list_head list, bounded; what is wrong with it, if anything, comes beside.

    Where it breaks off, what is beyond is found from its other end.
    """
    entries, why = _walk(host, head, {head}, 0)
    if why is not None:
        beyond, _ = _walk(host, head, {head, *entries}, 8)
        why = (
            f"slab_caches {why} after {plural(len(entries), 'cache')}, and {len(beyond)} were "
            "found from its other end"
        )
        entries += reversed(beyond)
    return [at - link & _WORD for at in entries], why


def _walk(host: Memory, head: int, seen: set[int], member: int) -> tuple[list[int], str | None]:
    """Nodes from `head` on, by `next` (at 0) or `prev` (at 8), to one that was seen."""
    nodes: list[int] = []
    try:
        at = u64(host, head + member)
        while at not in seen and len(nodes) < MAX_CACHES:
            nodes.append(at)
            seen.add(at)
            at = u64(host, at + member)
    except ReadFault as fault:
        return nodes[:-1], f"breaks off ({fault})"
    return nodes, None if at == head else "does not end where it began"


def aliases(host: NamedMemory, many: Many, cache: Layout) -> dict[int, set[str]]:
    """Names merged into each cache, by its address: the symbolic links under /sys/kernel/slab, read
    in kernfs.

    Empty where the kernel has no CONFIG_SYSFS.
    """
    node, rb = host.layout("struct kernfs_node"), host.layout("struct rb_node")
    link, root = host.enumerator("KERNFS_LINK"), _directory(host, node)
    if node is None or rb is None or link is None or not root or "kobj" not in cache:
        return {}
    names, targets = list[int](), list[int]()
    for row in _tree(many, root, node, rb):
        if _word(row, node["flags"]) & link:
            names.append(_word(row, node["name"]))
            targets.append(_word(row, node["symlink"]))
    owners = many([target + node["priv"].offset & _WORD for target in targets], 8)
    found: dict[int, set[str]] = {}
    for name, owner in zip(strings(host, many, names), owners, strict=True):
        kobj = int.from_bytes(owner or b"", "little")
        if not kobj or name is None:
            continue
        found.setdefault(kobj - cache["kobj"].offset & _WORD, set()).add(name)
    return found


def _directory(host: NamedMemory, node: Layout | None) -> int:
    """The first node of the tree of names in /sys/kernel/slab; 0 where there is none."""
    kset, kset_layout = host.address_of("slab_kset"), host.layout("struct kset")
    kobject, directory = host.layout("struct kobject"), host.layout("struct kernfs_elem_dir")
    if kset is None or not (node and kset_layout and kobject and directory):
        return 0
    try:
        at = u64(host, kset) + kset_layout["kobj"].offset + kobject["sd"].offset
        return u64(host, u64(host, at) + node["dir"].offset + directory["children"].offset)
    except ReadFault:
        return 0


def _tree(many: Many, root: int, node: Layout, rb: Layout) -> Iterator[bytes]:
    """The structures of a red-black tree, a level at a time, those that can be read."""
    sides = [Member(node["rb"].offset + rb[side].offset, 8) for side in ("rb_left", "rb_right")]
    level, seen = [root], {0}
    for _ in range(_MAX_LEVELS):
        level = [at for at in dict.fromkeys(level) if at not in seen]
        seen.update(level)
        if not level or len(seen) > _MAX_LINKS:
            return
        rows = many([at - node["rb"].offset & _WORD for at in level], node.size)
        level = []
        for row in rows:
            if row is not None:
                yield row
                level += [_word(row, side) for side in sides]


def _word(row: bytes, member: Member) -> int:
    return int.from_bytes(row[member.offset : member.offset + member.size], "little")


@dataclass(frozen=True)
class CacheNames:
    """What the caches of a kernel are called."""

    count: int
    every: frozenset[str]
    """Aliases included."""
    damage: str | None = None
    """Why some may be missing."""

    def wrong(self, name: str) -> str:
        """What to say of a name that no cache has; "" where one has it."""
        if any(known in self.every for known in spellings(name)):
            return ""
        return unknown(name, self.every, self.count)


def cache_names(host: NamedMemory, many: Many) -> CacheNames:
    """Raises `UnknownLayout` or `ReadFault` where there is no list of caches."""
    layout = require(host, "struct kmem_cache", "name")
    addresses, damage = cache_list(host, layout)
    pointers = many([at + layout["name"].offset for at in addresses], 8)
    own = strings(host, many, [int.from_bytes(p or b"", "little") for p in pointers])
    every = {name for name in own if name is not None}
    every = every.union(*aliases(host, many, layout).values())
    lost = own.count(None)
    return CacheNames(
        len(addresses), frozenset(every), f"{lost} names cannot be read" if lost else damage
    )


def strings(host: Memory, many: Many, addresses: Sequence[int]) -> list[str | None]:
    """The string at each address, None where there is none; where each begins is read at once."""
    there = many(addresses, 1)
    return [
        None if first is None else string(host, at)
        for at, first in zip(addresses, there, strict=True)
    ]
