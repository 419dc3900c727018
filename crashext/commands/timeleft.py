"""How much longer work takes, as far as its share so far tells."""

from __future__ import annotations

import time
from collections.abc import Callable

_TELLING = 3.0  # seconds from which it is worth a word, and before which a share says little


class TimeLeft:
    """Watches one step of work after the other; a step is new where it counts anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: float | None = None
        self._first, self._share = 0.0, 0.0

    def after(self, done: int, total: int) -> str:
        """What to say when so much is done; "" where nothing can be said."""
        now, share = self._clock(), min(1.0, done / max(total, 1))
        if self._begun is None or 2 * share < self._share:  # a little less is the same step
            self._begun, self._first = now, share
        self._share = share
        passed, moved = now - self._begun, share - self._first
        if passed < _TELLING or moved <= 0:
            return ""
        left = passed * (1 - share) / moved
        return f"{left:.0f} s left" if left < 100 else f"{left / 60:.0f} min left"
