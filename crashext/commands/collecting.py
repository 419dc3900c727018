"""How often Python looks for garbage that refers to itself: in a run of ours, seldom.

A look through a kernel makes hundreds of thousands of small tuples that live on, and Python's
defaults search them for cycles again and again: a tenth of a run's time, for next to nothing.
"""

from __future__ import annotations

import gc

_NEW = 50_000  # new containers until the youngest are searched; Python's default is 700


def collect_seldom() -> None:
    """From now on, in a process that is ours alone."""
    gc.set_threshold(_NEW, *gc.get_threshold()[1:])
