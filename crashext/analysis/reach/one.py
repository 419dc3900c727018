"""What became of one thing: who holds it or above which heads it was lost, and who points at it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.reach.edges import sources_into
from crashext.analysis.reach.holders import Holders
from crashext.analysis.reach.nodes import NodeKind
from crashext.analysis.reach.reachability import Class, Reach
from crashext.analysis.results.evidence import Chain
from crashext.analysis.results.standing import Pointing, Standing
from crashext.analysis.results.texts import MOST_LINES
from crashext.hosts.base import U64
from crashext.kernel.access import Words

_CLIMB = 4096  # unreachable things above one another that are followed upwards
_ROOTS_SHOWN = 4
_PIECE = 1 << 20


def node_at(marked: Reach, address: int) -> int:
    """The node that has the memory at an address; -1 where none has."""
    return int(marked.nodes.pointed_at(np.array([address], np.uint64))[0])


def state_of(marked: Reach, node: int) -> Class:
    """What the mark says of any node: of pages and areas as of objects."""
    if marked.nodes.kind(node) is NodeKind.OBJECT:
        return Class(int(marked.classes(np.array([node], np.int64))[0]))
    block = node - marked.nodes.first_block
    if block >= 0 and (marked.weak.blocks[block] or marked.split_blocks[block]):
        return Class.WEAK
    if marked.marks.reached[node]:
        return Class.HELD
    return Class.STRUCTURE if marked.pointed[node] else Class.ORPHAN


_STATES = {
    Class.HELD: "held",
    Class.WEAK: "weak",
    Class.ORPHAN: "orphan",
    Class.STRUCTURE: "structure",
    Class.NOT_JUDGED: "unknown",
}


def standing(marked: Reach, holders: Holders, node: int, weak: Words | None = None) -> Standing:
    """What became of `node`. `weak`: where the words are, if any, that name an object by struct
    page pointer or physical address; of blocks the mark knows them."""
    state = state_of(marked, node) if weak is None or not len(weak) else Class.WEAK
    if weak is None:
        weak = marked.weak.at[marked.weak.names == node - marked.nodes.first_block]
    references = marked.references
    roots = np.flatnonzero(references.root_target == node)
    wanted = np.zeros(marked.nodes.count, np.bool_)
    wanted[node] = True
    store = marked.marks.store
    sources = np.concatenate(
        [
            sources_into(references.source, references.target, wanted, store),
            references.page_source[references.page_target == node],
        ]
    )
    sources = sources[sources != node]
    chain = head = None
    if state is Class.HELD:
        chain = holders.chain(node)
        if marked.nodes.kind(node) is NodeKind.OBJECT:
            head = holders.head(np.array([node], np.int64))
    elif state is Class.STRUCTURE:
        chain = _from_head(marked, holders, node)
    elif (lead := _rest_of(marked, node)) is not None:
        chain = holders.chain(lead)
    offsets = references.root_at[roots[: 8 * _ROOTS_SHOWN]].tolist()
    names = list(dict.fromkeys(holders.name(offset) for offset in offsets))
    names = [*names[:_ROOTS_SHOWN], *map(holders.word_name, weak[:_ROOTS_SHOWN].tolist())]
    pointing = [Pointing(name, True) for name in names]
    for source in sources[: MOST_LINES - len(pointing)].tolist():
        reached = bool(marked.marks.reached[source])
        pointing.append(Pointing(holders.whole_name(source, node), reached))
    return Standing(
        state=_STATES[state],  # type: ignore[arg-type]
        chain=chain,
        pointing=tuple(pointing),
        words=len(roots) + len(sources) + len(weak),
        dead=int((references.dead_target == node).sum()),
        head=head,
    )


def _rest_of(marked: Reach, node: int) -> int | None:
    """The block that begins the allocation whose rest `node` may be; None where it may be none."""
    block = node - marked.nodes.first_block
    if block < 0 or not marked.split_blocks[block]:
        return None
    while block and marked.split_blocks[block]:
        block -= 1
    return marked.nodes.first_block + block


def _from_head(marked: Reach, holders: Holders, node: int) -> Chain | None:
    """Up over unreachable things to one that nothing points at, or once around a ring."""
    path, seen = [node], {node}
    targets, sources = _lost_edges(marked)
    while len(path) < _CLIMB:
        low, high = np.searchsorted(targets, [path[-1], path[-1] + 1]).tolist()
        above = next((s for s in sources[low:high].tolist() if s not in seen), None)
        if above is None:
            break
        path.append(above)
        seen.add(above)
    if len(path) == 1:
        return None
    path.reverse()
    (head,) = marked.nodes.addresses(np.array(path[:1], np.int64)).tolist()
    (target,) = marked.nodes.addresses(np.array([node], np.int64)).tolist()
    labels = holders.labels(path)
    return Chain(U64(target), (f"{labels[0]} {head:x}", *labels[1:]))


def _lost_edges(marked: Reach) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(targets, sources) of pointers between unreachable things, by target."""
    references, reached = marked.references, marked.marks.reached
    sources, targets = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for begin in range(0, len(references.source), _PIECE):
        source = references.source[begin : begin + _PIECE]
        target = references.target[begin : begin + _PIECE]
        both = ~reached[source] & ~reached[target]
        sources.append(source[both])
        targets.append(target[both])
        marked.marks.store.release()
    source, target = np.concatenate(sources), np.concatenate(targets)
    order = np.argsort(target, kind="stable")
    return target[order], source[order]
