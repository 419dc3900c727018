"""Where the pointers to some objects are: at which offset of other objects, or of variables.

Who made an object mostly kept its address somewhere, and did so at an offset of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.edges import sources_into
from crashext.analysis.reach.nodes import NodeKind
from crashext.analysis.reach.reachability import Reach
from crashext.analysis.reach.reserves import are_reserves
from crashext.analysis.results.evidence import Pointer
from crashext.hosts.base import U64
from crashext.kernel.access import Words
from crashext.kernel.roots.places import PlaceKind
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slots import Slots

_MOST_OBJECTS = 256
_MOST_WORDS = 4096
"""Edges and root words that are looked at."""
_LARGEST = 1 << 14
"""Bytes of what points at them: more is a table."""
_LEAST = 0.1
_MOST = 8
_APART = 4
"""Different offsets of one kind of holder, from which on it is an array."""
_VARIABLES = (PlaceKind.VARIABLE, PlaceKind.MODULE, PlaceKind.PERCPU)
_MOST_SLABS, _MOST_HOLDERS = 32, 512
"""Of the holders' cache, that are looked at for what else they point at."""
_SOME = 0.2
_MOST_HELD, _FEWEST, _MOST_SYMBOLS = 64, 4, 4
_NEARLY_ALL = 0.95
_OF_AREAS = "vm_struct"
RESERVE = "mempool"
"""What arrays are of that mempools keep objects in."""
_OF_VARIABLES = "variables"


class _Seen(NamedTuple):
    """A kind of pointer."""

    holder: str
    offset: int
    inside: int


def pointers(marked: Reach, slots: Slots) -> tuple[Pointer, ...]:
    """Where most pointers to the objects `slots` are, the most frequent first; -1 is none."""
    slots = slots[slots >= 0]
    if not len(slots):
        return ()
    chosen = np.linspace(0, len(slots) - 1, min(len(slots), _MOST_OBJECTS)).astype(np.intp)
    targets = np.unique(slots[chosen].astype(np.int64))
    seen: dict[_Seen, set[int]] = {}
    holders: dict[_Seen, list[int]] = {}
    for found, target, node in (*_in_nodes(marked, targets), *_in_variables(marked, targets)):
        seen.setdefault(found, set()).add(target)
        holders.setdefault(found, []).append(node)
    caches = marked.view.caches
    number = int(marked.table.caches(targets[:1])[0])
    own = caches.all[number].name
    merged = [*_by_offset(seen, own, len(targets)), *_arrays(seen, own, len(targets))]
    merged = [p for p in merged if p.objects >= _LEAST * p.of]
    merged.sort(key=lambda p: (-p.objects, p.own, p.offset, p.inside))
    return tuple(_placed(marked, p, number, _holding(holders, p)) for p in merged[:_MOST])


def _holding(holders: dict[_Seen, list[int]], pointer: Pointer) -> list[int]:
    """The nodes that have the pointers of one kind."""
    if pointer.offset >= 0:
        return holders.get(_Seen(pointer.holder, pointer.offset, pointer.inside), [])
    kind = pointer.holder, pointer.inside
    return [
        n for seen, those in holders.items() if (seen.holder, seen.inside) == kind for n in those
    ]


def _placed(marked: Reach, pointer: Pointer, own: int, holders: list[int]) -> Pointer:
    """With what is known of the `holders`, of a pointer at objects of the cache `own`."""
    if pointer.offset < 0 and not pointer.inside:
        arrays = np.array(holders, np.int64)
        if are_reserves(marked, arrays, marked.view.caches.all[own]):
            return replace(pointer, struct=RESERVE)
    cache = marked.view.caches.find(pointer.holder)
    if cache is None:
        return pointer
    if pointer.offset < 0:
        holders = []
    others = pointer.offset >= 0 and _anything(marked, cache, pointer.offset, own)
    some = np.unique(np.array(holders, np.int64))
    some = some[np.linspace(0, len(some) - 1, min(len(some), _MOST_HELD)).astype(np.intp)]
    symbols = () if pointer.own else _symbols(marked, some, cache.object_size)
    struct = _OF_AREAS if _describe_areas(marked, some) else ""
    others &= not struct  # of kmalloc()'s caches they are a few
    size = cache.object_size
    return replace(pointer, size=size, struct=struct, others=others, symbols=symbols)


def _describe_areas(marked: Reach, holders: NDArray[np.int64]) -> bool:
    """Whether they are what the kernel describes its vmalloc areas by."""
    nodes = marked.nodes
    known = np.isin(nodes.addresses(holders), nodes.areas.structure)
    return bool(len(known)) and float(known.mean()) >= _NEARLY_ALL


def _symbols(marked: Reach, holders: NDArray[np.int64], size: int) -> tuple[U64, ...]:
    """What nearly all of them have of the kernel image, or of modules, at one place."""
    if len(holders) < _FEWEST:
        return ()
    data, ok = marked.view.host.read_many(marked.nodes.addresses(holders), size & ~7)
    words = np.ascontiguousarray(data[ok]).view("<u8").reshape(int(ok.sum()), -1)
    if not len(words):
        return ()
    middle, space = words[len(words) // 2], marked.view.space
    same = (words == middle).mean(axis=0) >= _NEARLY_ALL
    same &= space.image.holds(middle) | space.modules.holds(middle)
    return tuple(U64(word) for word in dict.fromkeys(middle[same].tolist()))[:_MOST_SYMBOLS]


def _anything(marked: Reach, cache: SlabCache, offset: int, own: int) -> bool:
    """Whether many objects of a cache point at other things than the cache `own` at an offset."""
    table = marked.table
    rows = table.index.rows_of(marked.view.caches.index(cache))
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_SLABS)).astype(np.intp)]
    ranges = (np.arange(table.first[row], table.first[row + 1]) for row in rows.tolist())
    slots = np.concatenate([np.zeros(0, np.int64), *ranges])
    slots = slots[table.state[slots] == State.ALLOCATED][:_MOST_HOLDERS]
    data, ok = marked.view.host.read_many(table.addresses(slots) + np.uint64(offset), 8)
    led = marked.nodes.pointed_at(np.ascontiguousarray(data).view("<u8").reshape(-1)[ok])
    led = led[(led >= 0) & (led < table.count)]
    return bool(len(led)) and float((table.caches(led) != own).mean()) > _SOME


def _by_offset(seen: dict[_Seen, set[int]], own: str, of: int) -> list[Pointer]:
    """Whatever the holder is, but for objects of their own cache: neighbours in a list."""
    joined: dict[tuple[int, int, bool], set[int]] = {}
    names: dict[tuple[int, int, bool], Counter[str]] = {}
    for (holder, offset, inside), those in seen.items():
        key = offset, inside, holder == own
        joined.setdefault(key, set()).update(those)
        names.setdefault(key, Counter())[holder] += len(those)
    return [
        Pointer(names[key].most_common(1)[0][0], key[0], key[1], len(those), of, key[2])
        for key, those in joined.items()
    ]


def _arrays(seen: dict[_Seen, set[int]], own: str, of: int) -> Iterator[Pointer]:
    by_holder: dict[tuple[str, int], set[int]] = {}
    offsets: Counter[tuple[str, int]] = Counter()
    for (holder, _, inside), those in seen.items():
        if len(those) < of / _APART:
            by_holder.setdefault((holder, inside), set()).update(those)
            offsets[holder, inside] += 1
    for (holder, inside), those in by_holder.items():
        if offsets[holder, inside] >= _APART and holder != own:
            yield Pointer(holder, -1, inside, len(those), of, False)


def _in_nodes(marked: Reach, targets: NDArray[np.int64]) -> Iterator[tuple[_Seen, int, int]]:
    """Each pointer in another node, the object that it leads into, and the node."""
    nodes, references = marked.nodes, marked.references
    wanted = np.zeros(nodes.count, np.bool_)
    wanted[targets] = True
    found = sources_into(references.source, references.target, wanted, marked.marks.store)
    if len(found) > _MOST_WORDS:
        found = found[np.linspace(0, len(found) - 1, _MOST_WORDS).astype(np.intp)]
    sources = np.unique(found.astype(np.int64))
    lengths = nodes.bytes(sources)
    for length in np.unique(lengths[lengths <= _LARGEST]).tolist():
        some = sources[lengths == length]
        data, ok = marked.view.host.read_many(nodes.addresses(some), length & ~7)
        words = np.ascontiguousarray(data).view("<u8").reshape(len(some), -1)
        row, column, target, inside = _leading(marked, targets, words * ok[:, None].astype("<u8"))
        names = [_kind(marked, int(node)) for node in some]
        for r, c, t, i in zip(*(a.tolist() for a in (row, column, target, inside)), strict=True):
            if int(some[r]) != int(targets[t]):
                yield _Seen(names[r], 8 * c, i), t, int(some[r])


def _kind(marked: Reach, node: int) -> str:
    if marked.nodes.kind(node) is not NodeKind.OBJECT:
        return marked.nodes.kind(node).value
    which = marked.table.caches(np.array([node], np.int64))[0]
    return marked.view.caches.all[int(which)].name


def _leading(
    marked: Reach, targets: NDArray[np.int64], words: NDArray[Any]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], Words]:
    """Rows and columns of words that lead into `targets`, into which, and how far."""
    starts, sizes = marked.nodes.addresses(targets), marked.nodes.bytes(targets)
    order = np.argsort(starts, kind="stable")
    at = np.searchsorted(starts[order], words, side="right") - 1
    which = order[np.maximum(at, 0)]
    inside = words - starts[which]
    row, column = np.nonzero((at >= 0) & (inside < sizes[which].astype(np.uint64)))
    return row, column, which[row, column], inside[row, column]


def _in_variables(marked: Reach, targets: NDArray[np.int64]) -> Iterator[tuple[_Seen, int, int]]:
    references = marked.references
    wanted = np.zeros(marked.nodes.count, np.bool_)
    wanted[targets] = True
    hits = np.flatnonzero(wanted[references.root_target])[:_MOST_WORDS]
    at = np.unique(references.root_at[hits])
    places = marked.places.names(at)
    known = np.array([p.kind in _VARIABLES and p.inside >= 0 for p in places], np.bool_)
    if not known.any():
        return
    direct = np.uint64(marked.view.space.direct.start)
    data, ok = marked.view.host.read_many(at[known] + direct, 8)
    words = np.ascontiguousarray(data).view("<u8").reshape(-1, 1) * ok[:, None].astype("<u8")
    named = [p for p in places if p.kind in _VARIABLES and p.inside >= 0]
    row, _, target, inside = _leading(marked, targets, words)
    for r, t, i in zip(row.tolist(), target.tolist(), inside.tolist(), strict=True):
        yield _Seen(_OF_VARIABLES, named[r].inside, i), t, -1
