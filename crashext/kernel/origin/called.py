"""How often each function is called directly, in all text, and where from.

Who is called from many places is likelier to have allocated many objects; what nothing calls is a
callback at best, or a copy that is left of a function which was compiled into its callers.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from crashext.hosts.arm64 import ARCH as ARM64
from crashext.hosts.base import Host
from crashext.kernel.access import Words
from crashext.kernel.origin.callsites import all_calls
from crashext.kernel.origin.text import Text
from crashext.kernel.origin.thunks import led_through


class Called:
    """Calls and tail jumps in the text of one kernel."""

    def __init__(self, host: Host, text: Text) -> None:
        self._host, self._text = host, text
        calls = [np.zeros(0, np.uint64)]
        targets = [np.zeros(0, np.uint64)]
        for at, data in text.pieces:
            places, to = all_calls(data, at, host.info().arch == ARM64)
            # What only looks like a call mostly leads out of all text.
            inside = text.holds(to)
            calls.append(places[inside])
            targets.append(to[inside])
        joined = np.concatenate(targets)
        order = np.argsort(joined, kind="stable")
        self._targets, self._calls = joined[order], np.concatenate(calls)[order]

    def times(self, functions: Iterable[int]) -> dict[int, int]:
        """Of each of `functions`, by address."""
        numbers = {address: i for i, address in enumerate(dict.fromkeys(functions))}
        if not numbers:
            return {}
        entered = {**numbers, **led_through(self._host, numbers, self._text)}
        wanted = np.array(list(entered), np.uint64)
        times = np.searchsorted(self._targets, wanted, "right")
        times -= np.searchsorted(self._targets, wanted, "left")
        which = np.array(list(entered.values()), np.int64)
        sums = np.bincount(which, weights=times, minlength=len(numbers))
        return {address: round(sums[i]) for address, i in numbers.items()}

    def calls_of(self, functions: Iterable[int]) -> dict[int, Words]:
        """Of each of `functions`, by address: where it is called."""
        numbers = dict.fromkeys(functions)
        entered = {a: a for a in numbers}
        if numbers:
            entered |= led_through(self._host, entered, self._text)
        found: dict[int, Words] = {}
        for entry, function in entered.items():
            one = np.uint64(entry)
            first, last = (int(np.searchsorted(self._targets, one, s)) for s in ("left", "right"))
            calls = self._calls[first:last]
            before = found.get(function)
            found[function] = calls if before is None else np.concatenate([before, calls])
        return {function: np.sort(calls) for function, calls in found.items()}
