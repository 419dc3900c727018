"""What is at an address: the object or other thing, with its words and their meanings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crashext.analysis.likeness.decode import Decoder
from crashext.analysis.likeness.groups import decode_object
from crashext.analysis.likeness.words import Classifier, WordMap
from crashext.analysis.results.reports import Subject
from crashext.analysis.results.standing import Thing
from crashext.analysis.types.members import Structure, members
from crashext.hosts.base import U64, ReadFault
from crashext.kernel.slab.view import KernelView, Slot
from crashext.wording import missing

_SHOWN = 128
"""Bytes of what is no object that are shown, from the address on."""
_COMPARED = 1 << 16
"""Bytes of areas, and of blocks of pages, that are compared."""


def look(
    view: KernelView, classifier: Classifier, address: int, hops: int
) -> tuple[Subject, WordMap | None] | None:
    """The slab object, or the metadata beside one, at `address`; None where there is no slot.

    The words are None where there is no object, or where it cannot be read.
    """
    slot = view.slot(address)
    if slot is None:
        return None
    if not 0 <= slot.offset < slot.cache.object_size:
        return _beside(address, slot), None
    size = slot.cache.object_size
    asked, at = U64(address), U64(slot.address)
    note = (
        f"{address:#x} is inside it, at +{slot.offset:#x}: compared from its start"
        if slot.offset
        else ""
    )
    state = slot.state.name.lower()
    try:
        data = np.frombuffer(view.host.read(slot.address, size), np.uint8)[None]
    except ReadFault:
        note = f"its page is {missing(view.host.info().live)}"
        return Subject(asked, at, slot.cache.name, size, state, note, ()), None
    words = classifier.classify(data, np.array([slot.address], np.uint64))
    decoder = Decoder(view.host, view, classifier)
    decoded = decode_object(decoder, words, 0, size, None, hops)
    return Subject(asked, at, slot.cache.name, size, state, note, decoded), words


def no_object(
    view: KernelView, classifier: Classifier, address: int, thing: Thing, hops: int
) -> Subject:
    """What is at `address` instead of a slab object, with words from there on."""
    found = Subject(
        U64(address),
        thing.start,
        None,
        0,
        "",
        thing.what,
        (),
        kind=thing.kind,
        details=thing.details,
        extent=thing.size,
    )
    # Of what is shorter than what is shown, all from its start; else from the word asked for.
    whole = 0 < thing.size <= _SHOWN
    start = int(thing.start) if whole else max(int(thing.start), address & -8)
    room = thing.size if whole else int(thing.start) + thing.size - start
    size = min(_SHOWN, room if thing.size else 64) & -8
    if thing.kind == "none" or size <= 0:
        return found
    try:
        data = np.frombuffer(view.host.read(start, size), np.uint8)[None]
    except ReadFault:
        return found
    words = classifier.classify(data, np.array([start], np.uint64))
    decoder = Decoder(view.host, view, classifier)
    decoded = decode_object(decoder, words, 0, size, None, hops)
    at = start - int(thing.start)
    return replace(found, words=tuple(replace(w, offset=w.offset + at) for w in decoded))


def whole_words(view: KernelView, classifier: Classifier, thing: Thing) -> WordMap | None:
    """What an area or a block of pages begins with, to be compared with another; None of all else,
    and where that is not in the dump."""
    size = min(thing.size, _COMPARED) & -8
    if not thing.memory or not size:
        return None
    try:
        data = np.frombuffer(view.host.read(int(thing.memory), size), np.uint8)[None]
    except ReadFault:
        return None
    return classifier.classify(data, np.array([thing.memory], np.uint64))


def with_members(
    view: KernelView,
    classifier: Classifier,
    subject: Subject,
    structure: Structure,
    claimed: bool = True,
) -> Subject:
    """The members of a `structure` at the very address that was asked about, or, where nobody
    `claimed` what is there, at the start of the object.
    """
    decoder = Decoder(view.host, view, classifier)
    inside = subject.asked - subject.address if claimed and subject.cache else 0
    room = subject.size - inside if subject.size else structure.size
    at = int(subject.asked) if claimed else int(subject.address)
    listed = members(view, classifier, decoder, at, structure, room)
    if not claimed:
        return replace(subject, members=listed)
    note = f"read as {structure.name}, {structure.size:,} bytes"
    if room < structure.size:
        note += f", of which the object has {room:,}"
    if inside:
        note += f", from +{inside:#x} on"
    return replace(subject, note="; ".join(filter(None, (subject.note, note))), members=listed)


def _beside(address: int, slot: Slot) -> Subject:
    where = "before" if slot.offset < 0 else "after"
    note = (
        f"metadata or padding of a {slot.cache.name} slot, {where} the object at "
        f"{slot.address:#x}: give that address"
    )
    return Subject(U64(address), U64(address), slot.cache.name, 0, "", note, (), kind="slab")
