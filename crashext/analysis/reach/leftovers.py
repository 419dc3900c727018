"""Words that look like pointers and are known, by what stands beside them, to be left over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Mask
from crashext.kernel.access import Words
from crashext.kernel.markers import LIST_POISON

POISON = np.array([m.value for m in LIST_POISON if m.name == "LIST_POISON2"], np.uint64)
_FLAGS = np.uint64(7)
_WAIT_LIST = 2  # words from a rw_semaphore's owner to its list of those who wait


def left_over(words: Words, at: NDArray[np.intp], start: np.uint64) -> Mask:
    """Which of the words at indices `at` hold nothing: bool[n]. `start` is where `words` begin.

    The `next` of a node that list_del_rcu() or hlist_del_rcu() took off its list, for readers
    that are still there: LIST_POISON2 follows it. And the owner of a rw_semaphore that was read:
    RWSEM_READER_OWNED is set, and nobody waits (kernel/locking/rwsem.c: "may contain stale
    pointer"; 4.x to 6.12).
    """
    following = words[np.minimum(at + 1, len(words) - 1)]
    gone = np.zeros(len(at), np.bool_)
    for poison in POISON:
        gone |= following == poison
    flagged = np.flatnonzero(words[at] & _FLAGS)
    waiting = np.minimum(at[flagged] + _WAIT_LIST, len(words) - 1)
    gone[flagged] |= words[waiting] == start + (waiting.astype(np.uint64) << np.uint64(3))
    return gone
