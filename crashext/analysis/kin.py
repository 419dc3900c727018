"""Every object of a cache that is like one of them: how many, and on demand a list of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crashext.analysis.likeness.groups import residue
from crashext.analysis.likeness.similarity import Features, scores
from crashext.analysis.likeness.survey import survey
from crashext.analysis.likeness.words import Classifier, WordMap
from crashext.analysis.results.reports import Kin
from crashext.analysis.settings import Settings
from crashext.hosts.base import U64
from crashext.kernel.access import Words
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.objects import State
from crashext.kernel.slab.view import KernelView, Slot
from crashext.progress import Progress
from crashext.skipped import Skipped


@dataclass(frozen=True)
class Alike:
    """What was found for one object."""

    kin: Kin
    members: WordMap
    """Sampled objects that are like it."""
    addresses: Words
    gaps: tuple[Skipped, ...]
    interrupted: bool


def alike(
    view: KernelView,
    classifier: Classifier,
    slot: Slot,
    words: WordMap,
    settings: Settings,
    want_list: bool,
    progress: Progress,
) -> Alike:
    """What of its cache is like the object in `slot`, whose classified content is `words`."""
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
    kin = Kin(
        like=U64(slot.address),
        cache=cache.name,
        objects=share.of(population.allocated),
        share=share,
        allocated=population.allocated,
        similarity=float(near[hits].mean()) if len(hits) else 0.0,
        residue=residue(words, seen.free, 0, cache.freelist_offset, settings),
        listed=listed,
    )
    return Alike(kin, sampled.rows(hits), seen.sample.address[hits], tuple(gaps), unread > 0)


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
