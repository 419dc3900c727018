"""`objsim ADDR` where no type is known: words with what values, symbols and ranges alone tell."""

from __future__ import annotations

import numpy as np

from crashext.analysis.likeness.decode import Decoder, symbolic
from crashext.analysis.likeness.groups import decode_object
from crashext.analysis.likeness.survey import kernel_of
from crashext.analysis.likeness.words import Classifier
from crashext.analysis.results.reports import SimilarityReport, Subject
from crashext.analysis.settings import Settings
from crashext.hosts.base import U64, Host, Module, ReadFault, UnknownLayout
from crashext.hosts.percpu import PERCPU_END
from crashext.kernel.addresses import address_space
from crashext.wording import missing

_SHOWN = 256  # bytes
_PIECE = 64
_MODULES = 0xFFFFFFFFC0000000, 0xFFFFFFFFFF000000
"""Of x86-64, where the kernel's own list is not known (arch/x86/include/asm/pgtable_64_types.h)."""


def words_there(host: Host, addresses: list[int], settings: Settings) -> SimilarityReport:
    """The words at each address, from the one it is in."""
    try:
        space = address_space(host)
    except (UnknownLayout, ReadFault):
        space = None
    classifier = Classifier(space, () if space is None else (Module("", (_MODULES,)),))
    decoder = Decoder(host, None, classifier)
    subjects = tuple(_subject(host, classifier, decoder, address) for address in addresses)
    return SimilarityReport(
        kernel_of(host),
        settings.seed,
        settings.threshold,
        settings.metric,
        subjects,
        (),
        None,
        (),
        (),
        False,
    )


def _subject(host: Host, classifier: Classifier, decoder: Decoder, address: int) -> Subject:
    start = address & -8
    symbol = host.symbol_at(address)
    where = f"{symbolic(host, address)}; " if symbol is not None else ""
    data = _read(host, start) if address >= PERCPU_END else b""
    if not data:
        note = f"{where}{missing(host.info().live)}, or no address of the kernel"
        return Subject(U64(address), U64(start), None, 0, "", note, (), kind="none")
    words = classifier.classify(np.frombuffer(data, np.uint8)[None], np.array([start], np.uint64))
    shown = decode_object(decoder, words, 0, len(data), None, 0)
    note = f"{where}words alone, as no types are known"
    return Subject(
        U64(address),
        U64(start),
        None,
        len(data),
        "",
        note,
        shown,
        kind="none" if symbol is None else "symbol",
    )


def _read(host: Host, start: int) -> bytes:
    """As much of what is shown as is there."""
    data = b""
    while len(data) < _SHOWN:
        try:
            data += host.read(start + len(data), _PIECE)
        except ReadFault:
            break
    return data
