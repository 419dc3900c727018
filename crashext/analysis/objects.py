"""`objsim`: how alike some objects are, and every object of a cache that is like one of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.decode import Decoder, symbolic
from crashext.analysis.likeness.groups import decode_object, residue
from crashext.analysis.likeness.similarity import Features, scores
from crashext.analysis.likeness.survey import (
    kernel_of,
    make_classifier,
    map_gaps,
    slabs_wanted,
    survey,
)
from crashext.analysis.likeness.words import Classifier, Kind, WordMap
from crashext.analysis.origin.callers import rank_callers
from crashext.analysis.origin.content import content_owners
from crashext.analysis.origin.places import code_of
from crashext.analysis.results.reports import Kin, Pair, SimilarityReport, Subject
from crashext.analysis.settings import Settings
from crashext.analysis.types.members import Structure, find_structure, members
from crashext.hosts.base import U64, ReadFault
from crashext.kernel.access import Words
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.slabs import MAP_BUDGET
from crashext.kernel.slab.view import KernelView, Slot
from crashext.progress import Progress
from crashext.skipped import Skipped


def compare(
    view: KernelView,
    addresses: list[int],
    settings: Settings,
    want_list: bool,
    progress: Progress,
    budget: int = MAP_BUDGET,
    as_type: str | None = None,
) -> SimilarityReport:
    """Look at the objects at `addresses`; with one object, find those like it in its cache.

    With `as_type` their members are listed too; raises `HostError` where there is no such type.
    """
    structure = None if as_type is None else find_structure(view, as_type)
    subjects: list[Subject] = []
    pairs: list[Pair] = []
    skipped: list[Skipped] = []
    kin: Kin | None = None
    interrupted = False
    try:
        index = view.scan({}, settings.seed, progress, budget)
        skipped += map_gaps(view)
        classifier = make_classifier(view)
        found = [_look(view, classifier, address, settings) for address in addresses]
        if structure is not None:
            found = [(_with_members(view, classifier, s, structure), w) for s, w in found]
        subjects = [subject for subject, _ in found]
        known = [(s, w) for s, w in found if w is not None]
        pairs = compare_pairs(known, settings)
        if len(addresses) == 1 and known:
            slot = view.slot(addresses[0])
            assert slot is not None  # it has words, so it is an object
            if not index.complete:
                wanted = {view.caches.index(slot.cache): slabs_wanted(settings, slot.cache)}
                view.scan(wanted, settings.seed, progress, budget)
            kin, gaps, interrupted = _kin(
                view, classifier, slot, known[0][1], settings, want_list, progress
            )
            skipped += gaps
    except KeyboardInterrupt:
        interrupted = True
    return SimilarityReport(
        kernel_of(view.host),
        settings.seed,
        settings.threshold,
        settings.metric,
        tuple(subjects),
        tuple(pairs),
        kin,
        (),
        tuple(skipped),
        interrupted,
    )


def compare_pairs(known: list[tuple[Subject, WordMap]], settings: Settings) -> list[Pair]:
    """Score every pair over the words that both have."""
    pairs = []
    for (a, words_a), (b, words_b) in combinations(known, 2):
        common = min(words_a.values.shape[1], words_b.values.shape[1])
        keep = np.arange(common)
        one, two = (Features.of(w.columns(keep)) for w in (words_a, words_b))
        differing = np.flatnonzero((one.words() != two.words())[0])
        pairs.append(
            Pair(
                a.address,
                b.address,
                float(scores(one, two, settings.metric)[0]),
                tuple(8 * int(i) for i in differing),
            )
        )
    return pairs


def _look(
    view: KernelView, classifier: Classifier, address: int, settings: Settings
) -> tuple[Subject, WordMap | None]:
    slot = view.slot(address)
    if slot is None or not 0 <= slot.offset < slot.cache.object_size:
        return _no_object(view, classifier, address, slot), None
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
        note = "its page is not in the dump"
        return Subject(asked, at, slot.cache.name, size, state, note, ()), None
    words = classifier.classify(data, np.array([slot.address], np.uint64))
    decoder = Decoder(view.host, view, classifier)
    decoded = decode_object(decoder, words, 0, size, None, settings.hops)
    return Subject(asked, at, slot.cache.name, size, state, note, decoded), words


def _with_members(
    view: KernelView, classifier: Classifier, subject: Subject, structure: Structure
) -> Subject:
    """The members of a `structure` at the very address that was asked about."""
    decoder = Decoder(view.host, view, classifier)
    note = f"read as {structure.name}, {structure.size:,} bytes"
    inside = subject.asked - subject.address
    room = subject.size - inside if subject.size else structure.size
    if room < structure.size:
        note += f", of which the object has {room:,}"
    listed = members(view, classifier, decoder, subject.asked, structure, room)
    if inside:
        note += f", from +{inside:#x} on"
    return replace(subject, note="; ".join(filter(None, (subject.note, note))), members=listed)


def _no_object(
    view: KernelView, classifier: Classifier, address: int, slot: Slot | None
) -> Subject:
    if slot is not None:
        where = "before" if slot.offset < 0 else "after"
        note = (
            f"metadata or padding of a {slot.cache.name} slot, {where} the object at "
            f"{slot.address:#x}: give that address"
        )
        return Subject(U64(address), U64(address), slot.cache.name, 0, "", note, ())
    words = classifier.classify(
        np.array([[*address.to_bytes(8, "little")]], np.uint8), np.array([0], np.uint64)
    )
    kind = Kind(int(words.kinds[0, 0]))
    if kind in (Kind.TEXT_SYMBOL, Kind.DATA_SYMBOL, Kind.MODULE):
        note = f"no slab object: {symbolic(view.host, address)}"
    elif kind in (Kind.DIRECT, Kind.VMALLOC, Kind.VMEMMAP):
        note = f"no slab object: {Decoder(view.host, view, classifier).pointer(address)}"
    elif kind is Kind.USER:
        note = "no slab object: a user-space address"
    else:
        note = "no slab object: not a kernel address that is mapped"
    return Subject(U64(address), U64(address), None, 0, "", note, ())


def _kin(
    view: KernelView,
    classifier: Classifier,
    slot: Slot,
    words: WordMap,
    settings: Settings,
    want_list: bool,
    progress: Progress,
) -> tuple[Kin, list[Skipped], bool]:
    cache = slot.cache
    seen = survey(view, classifier, cache, settings, progress)
    population, sampled = seen.population, seen.words
    one = Features.of(words)
    near = scores(one, Features.of(sampled), settings.metric)
    hits = np.flatnonzero(near >= settings.threshold)
    share = population.share(hits)
    gaps = list(seen.gaps)
    listed, unread = None, 0
    if want_list:
        rows = view.index.rows_of(view.caches.index(cache))
        listed, unread = _list(view, classifier, cache, one, rows, settings, progress)
        unseen = max(0, seen.used.slabs - len(rows)) + unread
        if unseen:
            gaps.append(
                Skipped(
                    f"{cache.name}: slabs not read for the list",
                    unseen,
                    "objects like this one in them are not listed",
                )
            )
    members = sampled.rows(hits)
    addresses = seen.sample.address[hits]
    callers = None
    if code_of(view, cache) is not None:  # a session of another question does not know the code
        owners = content_owners(view, classifier, members)
        callers = rank_callers(view, cache, addresses, members, owners)
    kin = Kin(
        like=U64(slot.address),
        cache=cache.name,
        objects=share.of(population.allocated),
        share=share,
        allocated=population.allocated,
        similarity=float(near[hits].mean()) if len(hits) else 0.0,
        residue=residue(words, seen.free, 0, cache.freelist_offset, settings),
        listed=listed,
        callers=callers,
    )
    return kin, gaps, unread > 0


def _list(
    view: KernelView,
    classifier: Classifier,
    cache: SlabCache,
    one: Features,
    rows: NDArray[np.intp],
    settings: Settings,
    progress: Progress,
) -> tuple[Words, int]:
    """Addresses of all objects like `one` in the slabs of the index, and the slabs left unread.

    Ctrl-C ends the search and keeps what was found.
    """
    found: list[Words] = []
    done = 0
    try:
        for batch in view.reader(cache).read(view.index, rows):
            live = batch.state == State.ALLOCATED
            addresses, content = batch.address[live], batch.content[live]
            words = classifier.classify(content, addresses)
            alike = scores(one, Features.of(words), settings.metric) >= settings.threshold
            found.append(addresses[alike])
            done += len(batch.base)
            progress(f"{cache.name}: all slabs", done, len(rows))
    except KeyboardInterrupt:
        progress("interrupted", done, len(rows))
    every = np.sort(np.concatenate(found)) if found else np.zeros(0, np.uint64)
    return every, len(rows) - done
