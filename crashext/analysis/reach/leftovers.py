"""Words that look like pointers and are known, by what stands beside them, to be left over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crashext.hosts.base import Mask
from crashext.kernel.access import Words
from crashext.kernel.addresses import Range
from crashext.kernel.markers import LIST_POISON

POISON = np.array([m.value for m in LIST_POISON if m.name == "LIST_POISON2"], np.uint64)
_READER = np.uint64(1)
_COUNT, _WAIT_LIST = -1, 2
"""Words from a rw_semaphore's owner to its count, and to its list of those who wait: between them
are its two locks."""
_LARGEST_COUNT = np.uint64(1 << 32)
_PPREV, _FUNCTION = 2, 4
"""Words from one that a timer follows to the timer's members."""


def left_over(words: Words, at: NDArray[np.intp], start: np.uint64, code: Range) -> Mask:
    """Which of the words at indices `at` hold nothing: bool[n]. `start` is where `words` begin.

    The `next` of a node that list_del_rcu() or hlist_del_rcu() took off its list, for readers
    that are still there: LIST_POISON2 follows it. And the owner of a rw_semaphore that was read:
    RWSEM_READER_OWNED is set, and nobody waits or spins (kernel/locking/rwsem.c: "may contain
    stale pointer"; 5.3 to 7.2). An xarray's entry for a node has other flags (XA_INTERNAL, 2), and
    a list head behind it may be of its neighbour.

    A timer that ran out begins with LIST_POISON2, whatever member stands before it: detach_timer()
    poisons its `next`, and clears its `pprev` (kernel/time/timer.c; 4.2 to 7.2). It is told by its
    function, which is in `code`.
    """
    following = words[np.minimum(at + 1, len(words) - 1)]
    gone = np.zeros(len(at), np.bool_)
    for poison in POISON:
        gone |= following == poison
    poisoned = np.flatnonzero(gone)
    if len(poisoned):
        before = at[poisoned]
        # What is not among `words` is taken to say that it is a timer.
        inside = before + _FUNCTION < len(words)
        last = len(words) - 1
        timer = (words[np.minimum(before + _PPREV, last)] == 0) | ~inside
        timer &= code.holds(words[np.minimum(before + _FUNCTION, last)]) | ~inside
        gone[poisoned[timer]] = False
    # What of a semaphore is not among `words` is taken to say that it is none.
    inside = (at + _COUNT >= 0) & (at + _WAIT_LIST + 1 < len(words))
    read = np.flatnonzero(inside & (words[at] & _READER != 0))
    owner = at[read]
    waiting = owner + _WAIT_LIST
    itself = start + (waiting.astype(np.uint64) << np.uint64(3))
    idle = (words[waiting] == itself) & (words[waiting + 1] == itself) & (words[owner + 1] == 0)
    gone[read] |= idle & (words[owner + _COUNT] < _LARGEST_COUNT)
    return gone
