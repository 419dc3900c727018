"""Objects pasted into a ticket: `rd` or gdb `x` output, with no dump at all."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from crashext.analysis.likeness.decode import Decoder
from crashext.analysis.likeness.groups import decode_object, describe
from crashext.analysis.likeness.similarity import group
from crashext.analysis.likeness.words import Classifier
from crashext.analysis.objects import compare_pairs
from crashext.analysis.results.estimate import Estimate, Share
from crashext.analysis.results.reports import SimilarityReport, Subject
from crashext.analysis.settings import Settings
from crashext.hosts.base import U64, HostError
from crashext.skipped import Skipped

MAX_TEXT = 16 << 20
_MAX_SUBJECTS = 8
# crash: "ffff88031e138000: ffff882f59bade00 dead000000100100 ...Y/..........."
# gdb:   "0xffff88031e138000 <sym+16>:	0xffff882f59bade00	0xdead000000100100"
_LINE = re.compile(r"^\s*(?:0x)?([0-9a-fA-F]{8,16})\s*(?:<[^>]*>)?:\s+(.*)$")
_WORD = re.compile(r"^(?:0x)?([0-9a-fA-F]{16}|[0-9a-fA-F]{8}|[0-9a-fA-F]{4}|[0-9a-fA-F]{2})$")
_LINE_BYTES = 16  # both tools put 16 bytes on a line; what follows is the ASCII column


@dataclass(frozen=True)
class Excerpt:
    """Bytes found in a text: (address, content) of each gapless piece, in order."""

    pieces: tuple[tuple[int, bytes], ...]
    ignored: int
    """Lines that show no memory."""


def parse(text: str) -> Excerpt:
    """Read every line that shows memory; the others are counted."""
    pieces: list[tuple[int, bytearray]] = []
    ignored = 0
    for line in text.splitlines():
        match = _LINE.match(line)
        data = _words(match[2]) if match else b""
        address = int(match[1], 16) if match else 0
        if not data or address + len(data) > 1 << 64:
            ignored += bool(line.strip())
            continue
        if pieces and pieces[-1][0] + len(pieces[-1][1]) == address:
            pieces[-1][1].extend(data)
        else:
            pieces.append((address, bytearray(data)))
    return Excerpt(tuple((a, bytes(d)) for a, d in pieces), ignored)


def _words(columns: str) -> bytes:
    data = b""
    digits = 0
    # The ASCII column of a short last line is set off by more than the one blank between words.
    for token in re.split(r" {2,}", columns)[0].split():
        match = _WORD.match(token)
        if not match or (digits and len(match[1]) != digits) or len(data) >= _LINE_BYTES:
            break
        digits = len(match[1])
        data += int(match[1], 16).to_bytes(digits // 2, "little")
    return data


def compare_text(text: str, size: int, settings: Settings) -> SimilarityReport:
    """Cut the excerpt into objects of `size` bytes and compare them.

    Raises `HostError` when there is no memory in the text, or not one whole object.
    """
    excerpt = parse(text)
    if not excerpt.pieces:
        raise HostError("no memory in this text: paste the output of crash's rd or gdb's x/gx")
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
        raise HostError(f"the text shows no whole object of {size} bytes: is --size right?")
    where = np.array(addresses, np.uint64)
    classifier = Classifier()
    words = classifier.classify(
        np.frombuffer(b"".join(contents), np.uint8).reshape(-1, size), where
    )
    decoder = Decoder(None, None, classifier)
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
    if repeated:
        skipped.append(Skipped("objects shown more than once", repeated, "the first is compared"))
    if excerpt.ignored:
        skipped.append(Skipped("lines that show no memory", excerpt.ignored, "not looked at"))
    if left:
        skipped.append(
            Skipped(
                "bytes after the last whole object", left, f"objects are cut every {size} bytes"
            )
        )
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


def _exact(part: int, whole: int) -> Share:
    return Share(part / whole, part / whole, part / whole)
