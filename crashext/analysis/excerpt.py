"""Objects pasted into a ticket: memory as crash, gdb, hexdump, kmemleak print it, with no dump."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from crashext.analysis.likeness.decode import Decoder
from crashext.analysis.likeness.groups import decode_object, describe
from crashext.analysis.likeness.similarity import group
from crashext.analysis.likeness.words import Classifier, Kind, WordMap
from crashext.analysis.objects import compare_pairs
from crashext.analysis.results.estimate import Estimate, Share
from crashext.analysis.results.reports import SimilarityReport, Subject, Word
from crashext.analysis.settings import Settings
from crashext.hosts.base import U64, HostError
from crashext.kernel.access import Words
from crashext.procfs.memorytext import Excerpt, memory_of
from crashext.skipped import Skipped

MAX_TEXT = 16 << 20
_MAX_SUBJECTS = 8


class _NamedWords(Decoder):
    """Meanings of words out of context, with the names that the text itself has."""

    def __init__(self, classifier: Classifier, names: Mapping[tuple[int, int], str]) -> None:
        super().__init__(None, None, classifier)
        self._names = names

    def meaning(self, value: int, kind: Kind, offset: int, detail: int) -> str:
        named = self._names.get((value, int(kind)))
        return named if named is not None else super().meaning(value, kind, offset, detail)


def compare_text(text: str, size: int, settings: Settings) -> SimilarityReport:
    """Cut the excerpt into objects of `size` bytes and compare them.

    Raises `HostError` when there is no memory in the text, or not one whole object.
    """
    excerpt = memory_of(text)
    addresses, contents, left = [], [], 0
    for start, data in excerpt.pieces:
        whole = len(data) // size
        left += len(data) - whole * size
        addresses += [start + i * size for i in range(whole)]
        contents += [data[i * size : (i + 1) * size] for i in range(whole)]
    seen = dict(zip(reversed(addresses), reversed(contents), strict=True))
    repeated = len(addresses) - len(seen)
    addresses = sorted(seen)
    contents = [seen[a] for a in addresses]
    if not contents:
        most = max(len(data) for _, data in excerpt.pieces)
        raise HostError(
            f"the text shows no whole object of {size} bytes, at most {most} bytes together: is "
            "--size right?"
        )
    where = np.array(addresses, np.uint64)
    classifier = Classifier()
    words = classifier.classify(
        np.frombuffer(bytearray(b"".join(contents)), np.uint8).reshape(-1, size), where
    )
    names = _named(excerpt, words, where)
    decoder = _NamedWords(classifier, names)
    subjects = [
        Subject(U64(a), U64(a), None, size, "", "", decode_object(decoder, words, i, size, None, 0))
        for i, a in enumerate(addresses[:_MAX_SUBJECTS])
    ]
    pairs = (
        compare_pairs([(s, words.row(i)) for i, s in enumerate(subjects)], settings)
        if len(addresses) <= _MAX_SUBJECTS
        else []
    )
    grouping = group(
        words, settings.threshold, settings.metric, np.random.default_rng(settings.seed)
    )
    total = Estimate.known(len(addresses))
    groups = tuple(
        describe(
            decoder,
            words,
            where,
            size,
            c,
            _exact(len(c.members), len(addresses)),
            total,
            None,
            settings,
        )
        for c in grouping.clusters
    )
    skipped = []
    if excerpt.assumed:
        effect = "taken for little-endian numbers: nothing in the text says which way they are"
        skipped.append(Skipped("lines of words", excerpt.assumed, effect))
    if excerpt.broken:
        skipped.append(Skipped("lines", excerpt.broken, "their end is neither a value nor a name"))
    if repeated:
        skipped.append(Skipped("objects shown more than once", repeated, "the first is compared"))
    if excerpt.ignored:
        skipped.append(Skipped("lines without memory", excerpt.ignored, "not looked at"))
    if left:
        skipped.append(
            Skipped(
                "bytes after the last whole object", left, f"objects are cut every {size} bytes"
            )
        )
    hidden = {key for key in names if key[0] in _made_up(excerpt)}
    subjects = [replace(s, words=_without_values(s.words, hidden)) for s in subjects]
    groups = tuple(replace(g, words=_without_values(g.words, hidden)) for g in groups)
    return SimilarityReport(
        None,
        settings.seed,
        settings.threshold,
        settings.metric,
        tuple(subjects) if len(addresses) <= _MAX_SUBJECTS else (),
        tuple(pairs),
        None,
        groups,
        tuple(skipped),
        alone=len(grouping.alone),
    )


def _stand_in(name: str) -> int:
    """A number that stands for a name until the report is made: nobody's address.

    The same name has the same number, so that objects with it are alike. It is above every kernel
    pointer of x86-64 and arm64 but error pointers, and below those.
    """
    return 0xFFFF_FFFF_F000_0000 + zlib.crc32(name.encode()) % 0x0F00_0000


def _made_up(excerpt: Excerpt) -> set[int]:
    return {_stand_in(name) for name, known in excerpt.names.values() if not known}


def _named(excerpt: Excerpt, words: WordMap, where: Words) -> dict[tuple[int, int], str]:
    """Put kinds and stand-ins where the text has names; what each (value, kind) is called."""
    called: dict[tuple[int, int], str] = {}
    caches: dict[str, int] = {}
    span = 8 * words.values.shape[1]
    for address, (name, known) in excerpt.names.items():
        row = int(np.searchsorted(where, np.uint64(address), side="right")) - 1
        offset = address - int(where[row]) if row >= 0 else span
        if not 0 <= offset < span or offset % 8:
            continue
        slab = name.startswith("[")
        kind = Kind.SLAB if slab else Kind.TEXT_SYMBOL
        if not known:
            words.values[row, offset // 8] = _stand_in(name)
        value = int(words.values[row, offset // 8])
        words.kinds[row, offset // 8] = kind
        detail = caches.setdefault(name, len(caches)) << 32 if slab else value
        words.details[row, offset // 8] = detail
        what = f"{name} slab pointer" if slab else name
        called[value, int(kind)] = what if known else f"{what}, value not in the text"
    return called


def _without_values(words: tuple[Word, ...], hidden: set[tuple[int, int]]) -> tuple[Word, ...]:
    labels = {(value, Kind(kind).label) for value, kind in hidden}
    return tuple(
        replace(w, value=U64(0), shown=False) if (int(w.value), w.kind) in labels else w
        for w in words
    )


def _exact(part: int, whole: int) -> Share:
    return Share(part / whole, part / whole, part / whole)
