"""How often each function is called directly, in all text.

Who is called from many places is likelier to have allocated many objects; what nothing calls is a
callback at best, or a copy that is left of a function which was compiled into its callers.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from crashext.hosts.arm64 import ARCH as ARM64
from crashext.hosts.base import Host
from crashext.kernel.origin.callsites import all_targets
from crashext.kernel.origin.text import Text
from crashext.kernel.origin.thunks import led_through


class Called:
    """Calls and tail jumps in the text of one kernel."""

    def __init__(self, host: Host, text: Text) -> None:
        self._host = host
        scanned = [all_targets(data, at, host.info().arch == ARM64) for at, data in text.pieces]
        self._targets = np.sort(np.concatenate([np.zeros(0, np.uint64), *scanned]))

    def times(self, functions: Iterable[int]) -> dict[int, int]:
        """Of each of `functions`, by address."""
        numbers = {address: i for i, address in enumerate(dict.fromkeys(functions))}
        if not numbers:
            return {}
        entered = {**numbers, **led_through(self._host, numbers)}
        wanted = np.array(list(entered), np.uint64)
        times = np.searchsorted(self._targets, wanted, "right")
        times -= np.searchsorted(self._targets, wanted, "left")
        which = np.array(list(entered.values()), np.int64)
        sums = np.bincount(which, weights=times, minlength=len(numbers))
        return {address: round(sums[i]) for address, i in numbers.items()}
