"""One cache, sampled and classified, with what it is counted against and what was missed."""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass, replace

import numpy as np

from crashext.analysis.likeness.groups import Population
from crashext.analysis.likeness.sample import Sample, draw
from crashext.analysis.likeness.words import Classifier, WordMap
from crashext.analysis.results.estimate import Estimate, clustered_share
from crashext.analysis.results.reports import Kernel
from crashext.analysis.settings import Settings
from crashext.hosts.base import Host
from crashext.hosts.keeping import keep
from crashext.kernel.slab.caches import SlabCache
from crashext.kernel.slab.usage import Usage, usage
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress
from crashext.skipped import Skipped
from crashext.wording import missing


@dataclass(frozen=True)
class Survey:
    """A sample of one cache's objects, ready to be compared."""

    used: Usage
    sample: Sample
    population: Population
    words: WordMap
    """The sampled allocated objects."""
    free: WordMap
    """Some free slots."""
    rng: np.random.Generator
    gaps: tuple[Skipped, ...]


def survey(
    view: KernelView,
    classifier: Classifier,
    cache: SlabCache,
    settings: Settings,
    progress: Progress,
) -> Survey:
    """Draw and classify; `view.scan` was called. The same draw again where it was kept."""
    rows = len(view.index.rows_of(view.caches.index(cache)))
    key = ("survey", cache.address, settings.samples, settings.seed, rows)
    found = keep(
        view.host, key, lambda: _survey(view, classifier, cache, settings, progress), large=True
    )
    return replace(found, rng=copy.deepcopy(found.rng))


def _survey(
    view: KernelView,
    classifier: Classifier,
    cache: SlabCache,
    settings: Settings,
    progress: Progress,
) -> Survey:
    index = view.index
    used = usage(view, cache, index)
    rows = index.rows_of(view.caches.index(cache))
    rng = generator(settings, cache.name)
    sample = draw(view.reader(cache), index, rows, settings.samples, rng, progress)
    return Survey(
        used=used,
        sample=sample,
        population=Population(sample, max(used.slabs, sample.slabs_examined), allocated(used)),
        words=classifier.classify(sample.content, sample.address),
        free=classifier.classify(sample.free_content, sample.free_address),
        rng=rng,
        gaps=tuple(cache_gaps(view, cache, sample)),
    )


def slabs_wanted(settings: Settings, cache: SlabCache) -> int:
    """Slabs that are enough for the sample the user asked for."""
    return settings.samples // cache.objects_per_slab + 1


def kernel_of(host: Host) -> Kernel:
    """The report's heading."""
    info = host.info()
    return Kernel(info.release, info.arch, info.live, info.source)


def generator(settings: Settings, cache: str) -> np.random.Generator:
    """Random numbers of one cache: the same whatever else is examined in the run."""
    return np.random.default_rng([settings.seed, zlib.crc32(cache.encode())])


def make_classifier(view: KernelView) -> Classifier:
    """Word kinds for this kernel."""
    return Classifier(view.space, tuple(view.host.modules()), view.pointers)


def allocated(used: Usage) -> Estimate:
    """Allocated objects of the cache: a count, or an estimate by the sampled slabs' use."""
    if used.complete:
        return Estimate.known(used.allocated)
    share = clustered_share(used.inuse, used.objects, used.slabs)
    return share.of(Estimate.known(used.slots))


def map_gaps(view: KernelView) -> list[Skipped]:
    """What the dump lacks, and the pass over the memory map missed."""
    caches, index = view.caches, view.index
    gaps = damage(view.host)
    if caches.damage:
        gaps.append(Skipped(caches.damage, 1, "caches that it hides are not known"))
    if index.missing:
        gaps.append(
            Skipped(
                "page frames without a readable struct page",
                index.missing,
                "slabs there, if any, are not counted",
            )
        )
    if index.unknown:
        gaps.append(
            Skipped(
                "slabs of caches that are not in slab_caches",
                index.unknown,
                "their objects are not counted",
            )
        )
    if index.impossible:
        gaps.append(
            Skipped(
                "slabs whose counters cannot be true",
                index.impossible,
                "damaged struct pages: their objects are not counted",
            )
        )
    return gaps


def damage(host: Host) -> list[Skipped]:
    """That the file is not whole."""
    why = host.info().damage
    if not why:
        return []
    return [Skipped(f"dump that is {why}", 1, "what is in the missing part is not judged")]


def cache_gaps(view: KernelView, cache: SlabCache, sample: Sample) -> list[Skipped]:
    gaps = []
    if sample.unreadable:
        gaps.append(
            Skipped(
                f"{cache.name}: slots in pages that are {missing(view.host.info().live)}",
                sample.unreadable,
                "they may hold anything: intervals are widened by them",
            )
        )
    if sample.broken_slabs:
        gaps.append(
            Skipped(
                f"{cache.name}: slabs with a broken freelist",
                sample.broken_slabs,
                f"{sample.unknown} slots of them may be free or allocated: not sampled, "
                "intervals are widened by them",
            )
        )
    if sample.mismatched_slabs:
        why = "memory moved on while it was read" if view.host.info().live else "damage, or a race"
        gaps.append(
            Skipped(
                f"{cache.name}: slabs whose freelist and counters disagree",
                sample.mismatched_slabs,
                f"{why}: a few free slots may pass for objects",
            )
        )
    faults = view.reader(cache).cpu_faults
    if faults:
        gaps.append(
            Skipped(
                f"{cache.name}: CPU freelists that cannot be read",
                faults,
                "free objects on them pass for allocated ones",
            )
        )
    return gaps
