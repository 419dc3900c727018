"""From a sample of one cache to its groups, described: counts, consensus, notes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.consensus import Column, consensus
from crashext.analysis.likeness.decode import Decoder, printable_run
from crashext.analysis.likeness.sample import Sample
from crashext.analysis.likeness.similarity import Cluster, Features, scores
from crashext.analysis.likeness.words import Kind, WordMap
from crashext.analysis.results.estimate import Estimate, Share, clustered_share
from crashext.analysis.results.reports import Group, Hop, Word
from crashext.analysis.settings import Settings
from crashext.hosts.base import U64
from crashext.kernel.access import Words
from crashext.wording import percent, some_of

_RESIDUE_SAYS = 0.1
_MOST = 0.5
_PLACES = 4
_TEXT_LEAST, _TEXT_SHOWN = 16, 64  # bytes
_TEXT = np.zeros(256, np.bool_)
_TEXT[[*b"\t\n\r", *range(0x20, 0x7F)]] = True
_HOPPED = 16  # words of an exemplar that are followed: enough for any list of owners


@dataclass(frozen=True)
class Population:
    """What a sample's groups are counted against."""

    sample: Sample
    slabs: int
    """Slabs the cache has."""
    allocated: Estimate

    def share(self, members: NDArray[np.intp]) -> Share:
        """Share of the cache's allocated objects that sampled `members` stand for."""
        n = self.sample.slabs_examined
        hits = np.bincount(self.sample.slab[members], minlength=n)
        sizes = np.bincount(self.sample.slab, minlength=n)
        hidden = self.sample.unreadable + self.sample.unknown
        seen = len(self.sample.address)
        share = clustered_share(hits, sizes, self.slabs)
        # Free slots hide too, but nobody knows how many: count every hidden slot as an object.
        return share.widened(hidden / (hidden + seen)) if hidden else share


def describe(
    decoder: Decoder,
    words: WordMap,
    addresses: Words,
    size: int,
    cluster: Cluster,
    share: Share,
    total: Estimate,
    residue: float | None,
    settings: Settings,
) -> Group:
    """One group, ready to be reported; `residue` is None where no free slots are known."""
    columns = consensus(
        words, cluster.members, cluster.exemplar, share.of(total).estimate, decoder.caches
    )
    decoded = decode_object(decoder, words, cluster.exemplar, size, columns, settings.hops)
    members = addresses[cluster.members]
    return Group(
        exemplar=U64(addresses[cluster.exemplar]),
        sampled=len(cluster.members),
        objects=share.of(total),
        share=share,
        similarity=cluster.similarity,
        shapes=cluster.shapes,
        distinct=cluster.distinct,
        shape=shape_label(words.kinds[cluster.exemplar]),
        residue=residue,
        words=decoded,
        notes=(
            *_text(words, cluster),
            *_links(words, cluster.exemplar, decoded),
            *_notes(decoded, residue, len(cluster.members)),
        ),
        lowest=U64(members.min()),
        highest=U64(members.max()),
    )


def decode_object(
    decoder: Decoder,
    words: WordMap,
    row: int,
    object_size: int,
    columns: list[Column] | None,
    hops: int,
) -> tuple[Word, ...]:
    """The words of one classified object with their meanings; `columns` tell of its group."""
    result = []
    followed = 0
    text_goes_on = False
    for i in range(words.values.shape[1]):
        value, kind = int(words.values[row, i]), Kind(int(words.kinds[row, i]))
        steps: tuple[Hop, ...] = ()
        if kind is Kind.SLAB and followed < _HOPPED:
            followed += 1
            steps = decoder.hops(value, hops)
        column = columns[i] if columns else Column(1.0, 1.0, "")
        meaning = decoder.meaning(value, kind, 8 * i, int(words.details[row, i]))
        tail = printable_run(value) if text_goes_on else ""
        if 0 < len(tail) < 8 and value >> 8 * len(tail) == 0:
            meaning = f'"{tail}", the end of the text before'
        text_goes_on = kind is Kind.ASCII and len(printable_run(value)) == 8
        result.append(
            Word(
                offset=8 * i,
                value=U64(value),
                size=min(8, object_size - 8 * i),
                kind=kind.label,
                meaning=meaning,
                agreement=column.agreement,
                constant=column.constant,
                varies=column.varies,
                hops=steps,
            )
        )
    return tuple(result)


def shape_label(kinds: NDArray[np.uint8]) -> str:
    """A shape in words, repetitions counted: ``slab-pointer list-poison*2 number``."""
    edges = np.flatnonzero(np.diff(kinds.astype(np.int64), prepend=-1, append=-1))
    runs = [(Kind(int(kinds[a])).label, int(b - a)) for a, b in pairwise(edges)]
    return " ".join(label if n == 1 else f"{label}*{n}" for label, n in runs)


def residue(
    words: WordMap, free: WordMap, exemplar: int, freelist_offset: int, settings: Settings
) -> float | None:
    """Share of the free slots that would be in the group, their next pointer left out.

    None where there are no free slots to compare with.
    """
    if not len(free.values):
        return None
    keep = np.ones(words.values.shape[1], np.bool_)
    slot = freelist_offset // 8
    if slot < len(keep):
        keep[slot] = False
    if not keep.any():
        return None
    one = Features.of(words.row(exemplar)).columns(keep)
    many = Features.of(free).columns(keep)
    if not one.content.any():
        return float((many.content == 0).all(axis=1).mean())
    return float((scores(one, many, settings.metric) >= settings.threshold).mean())


def _text(words: WordMap, cluster: Cluster) -> list[str]:
    """Some of the text that most objects of a group hold, escaped."""
    content = np.ascontiguousarray(words.values[cluster.exemplar]).view(np.uint8)
    edges = np.flatnonzero(np.diff(_TEXT[content], prepend=False, append=False)).reshape(-1, 2)
    if not len(edges):
        return []
    start, end = edges[np.diff(edges).argmax()].tolist()
    if end - start < _TEXT_LEAST:
        return []
    rows = np.ascontiguousarray(words.values[cluster.members]).view(np.uint8)
    texts = _TEXT[rows[:, start : start + _TEXT_LEAST]].all(axis=1)
    share = float(texts.mean())
    if share < _MOST:
        return []
    shown = content[start : min(end, start + _TEXT_SHOWN)].tobytes().decode("ascii")
    more = "..." if end - start > _TEXT_SHOWN else ""
    escaped = shown.encode("unicode_escape").decode("ascii")
    same = bool((rows[texts, start:end] == content[start:end]).all())
    how = ":" if same else ", such as"
    return [f'text at +{start:#x} in {_percent(share)} of the group{how} "{escaped}"{more}']


def _links(words: WordMap, exemplar: int, decoded: tuple[Word, ...]) -> list[str]:
    """list_heads that lead to the same place of other objects: still on a list of their kind."""
    places, least = [], 1.0
    kinds, details = words.kinds[exemplar], words.details[exemplar]
    for i in range(len(decoded) - 1):
        pair = decoded[i : i + 2]
        offset = np.uint64(0xFFFFFFFF)
        if (
            all(kinds[j] == Kind.SLAB and details[j] & offset == 8 * i for j in (i, i + 1))
            and details[i] == details[i + 1]
            and all(w.agreement >= _MOST and w.constant < _MOST for w in pair)
        ):
            places.append(pair[0])
            least = min(least, *(w.agreement for w in pair))
    if not places:
        return []
    where = _places(places)
    return [f"still on a list with others at {where} in {_percent(least)} of the group"]


def _notes(words: tuple[Word, ...], residue: float | None, seen: int) -> tuple[str, ...]:
    """What the decoded words of `seen` objects say together, most telling first."""
    notes = []
    poisons = [w for w in words if w.kind == Kind.LIST_POISON.label and w.agreement >= _MOST]
    if poisons:
        names = sorted({w.meaning.split(":")[0].split(" of ")[0] for w in poisons})
        agreement = min(w.agreement for w in poisons)
        notes.append(
            f"unlinked from a list and not freed: {' and '.join(names)} at {_places(poisons)} "
            f"in {_percent(agreement)} of the group"
        )
    empty = [
        w
        for w in words
        if w.kind == Kind.SELF.label and w.agreement >= _MOST and w.meaning.startswith("itself")
    ]
    if empty:
        what = "an empty list_head" if len(empty) == 1 else f"{len(empty)} empty list_heads"
        notes.append(f"{what} at {_places(empty)}")
    owners: dict[str, list[Word]] = {}
    for w in words if seen > 1 else ():  # one object has nothing in common
        if w.hops and w.agreement >= _MOST and w.constant >= _MOST:
            owners.setdefault(w.hops[-1].what, []).append(w)
    for what, some in list(owners.items())[:2]:
        share = _percent(min(w.constant for w in some))
        one = "is the same pointer" if len(some) == 1 else "are the same pointers"
        notes.append(f"{_places(some)} {one} in {share}: {what}")
    if residue is not None and residue >= _RESIDUE_SAYS:
        notes.append(
            f"{_percent(residue)} of the free slots look the same: content outlives its owner "
            "here, so likeness alone says little"
        )
    return tuple(notes)


def _places(words: list[Word]) -> str:
    return some_of([f"+{w.offset:#x}" for w in words], _PLACES)


def _percent(share: float) -> str:
    return percent(share) if share < 1 else "all"
