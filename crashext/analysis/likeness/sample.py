"""A sample of one cache's objects: random slabs, every object of each, and what was left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Bytes
from crashext.kernel.access import Words
from crashext.kernel.slab.objects import SlabReader, State
from crashext.kernel.slab.slabs import SlabIndex
from crashext.progress import Progress

T = TypeVar("T", bound=np.generic)

MAX_SAMPLE_BYTES = 24 << 20
MAX_FREE = 4096


@dataclass(frozen=True)
class Sample:
    """Objects of one cache. Arrays have one element per object unless said otherwise."""

    address: Words
    content: Bytes
    """uint8[n, object_size] of allocated objects."""
    slab: NDArray[np.int64]
    """Number of the sampled slab each object is in, 0 to `slabs_examined` - 1."""
    free_address: Words
    free_content: Bytes
    """Some free slots, for what they look like."""
    slabs_examined: int
    free_slots: int
    """Free slots seen (`free_content` holds at most some thousands of them)."""
    unreadable: int
    """Slots in pages that are not in the dump."""
    unknown: int
    """Slots whose state a broken freelist hides."""
    broken_slabs: int
    mismatched_slabs: int


def draw(
    reader: SlabReader,
    index: SlabIndex,
    rows: NDArray[np.intp],
    objects: int,
    rng: np.random.Generator,
    progress: Progress,
) -> Sample:
    """Read random slabs of `rows` until they hold about `objects` slots.

    Memory is bounded by `MAX_SAMPLE_BYTES`, whatever `objects` asks for.
    """
    chosen = choose_slabs(reader, index, rows, objects, rng)
    addresses, contents, slabs, free_addresses, free_contents = [], [], [], [], []
    counts = np.zeros(4, np.int64)
    broken = mismatched = done = free_kept = 0
    for batch in reader.read(index, chosen):
        n = len(batch.base)
        number = np.broadcast_to(np.arange(done, done + n)[:, None], batch.state.shape)
        allocated, free = batch.state == State.ALLOCATED, batch.state == State.FREE
        addresses.append(batch.address[allocated])
        contents.append(batch.content[allocated])
        slabs.append(number[allocated])
        keep = np.flatnonzero(free.reshape(-1))[: MAX_FREE - free_kept]
        free_kept += len(keep)
        free_addresses.append(batch.address.reshape(-1)[keep])
        free_contents.append(batch.content.reshape(-1, batch.content.shape[2])[keep])
        counts += np.bincount(batch.state.reshape(-1), minlength=4)
        broken += int(batch.broken.sum())
        mismatched += int(batch.mismatched.sum())
        done += n
        progress(f"{reader.cache.name}: slabs", done, len(chosen))
    size = reader.cache.object_size
    return Sample(
        address=_join(addresses, np.zeros(0, np.uint64)),
        content=_join(contents, np.zeros((0, size), np.uint8)),
        slab=_join(slabs, np.zeros(0, np.int64)),
        free_address=_join(free_addresses, np.zeros(0, np.uint64)),
        free_content=_join(free_contents, np.zeros((0, size), np.uint8)),
        slabs_examined=done,
        free_slots=int(counts[State.FREE]),
        unreadable=int(counts[State.UNREADABLE]),
        unknown=int(counts[State.UNKNOWN]),
        broken_slabs=broken,
        mismatched_slabs=mismatched,
    )


def choose_slabs(
    reader: SlabReader,
    index: SlabIndex,
    rows: NDArray[np.intp],
    objects: int,
    rng: np.random.Generator,
) -> NDArray[np.intp]:
    """Random slabs of `rows` with about `objects` slots between them, at least one."""
    room = MAX_SAMPLE_BYTES // reader.cache.slot_size
    order = rng.permutation(rows)
    slots = np.cumsum(index.objects[order].astype(np.int64))
    enough = int(np.searchsorted(slots, min(objects, room))) + 1
    return np.sort(order[:enough])


def _join(pieces: list[NDArray[T]], empty: NDArray[T]) -> NDArray[T]:
    return np.concatenate(pieces) if pieces else empty
