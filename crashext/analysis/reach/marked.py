"""The marked kernel of a run: made once, and kept where the host outlives the command."""

from __future__ import annotations

import copy
from functools import partial

from crashext.analysis.likeness.survey import generator
from crashext.analysis.reach.reachability import Reach, reach
from crashext.analysis.settings import MEMORY_BUDGET, Settings
from crashext.hosts.keeping import keep
from crashext.kernel.pages.leftover import Pages
from crashext.kernel.slab.view import KernelView
from crashext.progress import Progress


def marked(
    view: KernelView,
    settings: Settings,
    progress: Progress,
    budget: int = MEMORY_BUDGET,
    pages: Pages | None = None,
) -> Reach:
    """See `reach`. Of `settings` only the seed matters."""

    def work() -> Reach:
        # A kept mark has a view of its own: who scans another part later must not change it.
        return reach(copy.copy(view), progress, partial(generator, settings), budget, pages)

    return keep(view.host, ("mark", settings.seed, budget), work, large=True)
