"""drgn loads its plugins when it opens a dump: which of them, and that Ctrl-C waits for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_LEFT_OUT = "DRGN_DISABLE_PLUGINS"
_OF_PROMPT = ("crashext", "builtin_commands", "crash_commands")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits: drgn swallows it while it loads its plugins."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def no_prompt() -> Iterator[None]:
    """Plugins that are commands of drgn's prompt are not loaded, ours among them: they import a
    debugger and more. Those that a user has for finding debug info are."""
    given = os.environ.get(_LEFT_OUT)
    os.environ[_LEFT_OUT] = given if given == "*" else ",".join(filter(None, (given, *_OF_PROMPT)))
    try:
        yield
    finally:
        if given is None:
            del os.environ[_LEFT_OUT]
        else:
            os.environ[_LEFT_OUT] = given
