"""What a process that is ours alone asks of Python and its libraries, before they are loaded.

A look through a kernel makes hundreds of thousands of small tuples that live on, and Python's
defaults search them for cycles again and again: a tenth of a run's time, for next to nothing.

numpy's linear algebra starts a thread for each CPU when it is loaded, each with memory of its own,
and nothing here multiplies matrices: on two CPUs that is 0.03 s, on a hundred far more.
"""

from __future__ import annotations

import gc
import os
import sys

_NEW = 50_000  # new containers until the youngest are searched; Python's default is 700

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_what_was_closed() -> None:
    """A standard stream that was closed (`>&-`) swallows what it is given: to Python it is None,
    and the next file that is opened would get its number."""
    for name, mode in _STREAMS:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def be_thrifty() -> None:
    """From now on."""
    gc.set_threshold(_NEW, *gc.get_threshold()[1:])
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
