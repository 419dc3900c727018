"""Ctrl-C, and closed pipes in a process that lives on: never in the middle of what must be whole.

An interrupted import leaves a half module behind, an interrupted question an answer that the next
question would get, an interrupted lock a thread that waits for ever. So the exception waits.
Between commands nothing is raised. One process has one of these: signals are the process's.

After a Ctrl-C a command answers with what it has. Who presses it twice means to be heard, not to
lose that answer: one that comes while the first is still being answered is let go by.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

_ANSWERING = 5.0  # seconds that an answer may take until one more Ctrl-C ends it
_RETRY = 0.02  # seconds until an interrupt that came at a bad moment is tried again
_WHOLE = ("/threading.py", "/rich/live.py", "/rich/progress.py")
_FUTURE = "/concurrent/futures/_base.py"
_IMPORTING = "<frozen importlib"


class Unread(BaseException):
    """Nobody reads the output any more; whoever catches KeyboardInterrupt has nothing to tell."""


class Interrupts:
    """SIGINT (Ctrl-C) and SIGPIPE (the bridge saw the output's reader go), as exceptions.

    ``with interrupts:`` makes them wait for its end.
    """

    def __init__(self) -> None:
        self.count = 0
        """Of interrupts so far: what was being worked out when it changed may be partial."""
        self._busy = False
        self._held = 0
        self._pending: BaseException | None = None
        self._answering_until = 0.0

    def install(self) -> None:
        """From now on; to be called in the main thread."""
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGALRM):
            signal.signal(number, self._arrived)
        # A background process that writes to a terminal set to `tostop` would be stopped.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        sys.unraisablehook = self._lost

    @contextmanager
    def command(self, last: bool = False) -> Iterator[None]:
        """Ctrl-C alone, for as long as one command takes, in a process that others use as well.

        Where the process ends with this command (`last`), one that comes after it means nothing.
        """
        hook = sys.unraisablehook
        numbers = (signal.SIGINT, signal.SIGALRM)
        before = [signal.signal(number, self._arrived) for number in numbers]
        sys.unraisablehook = self._lost
        self.begin()
        try:
            yield
        finally:
            self.end()
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, signal.SIG_IGN if last else handler)
            sys.unraisablehook = hook

    def begin(self) -> None:
        """A command begins: what came before did not mean it."""
        self._pending, self._busy, self._answering_until = None, True, 0.0

    def end(self) -> None:
        """The command is over: nothing is raised any more."""
        self._busy = False

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if not self._busy:
            return
        if number == signal.SIGINT and time.monotonic() < self._answering_until:
            return
        if number != signal.SIGALRM:
            self.count += 1
            self._pending = KeyboardInterrupt() if number == signal.SIGINT else Unread()
        if self._held:
            return
        if _fragile(frame):
            signal.setitimer(signal.ITIMER_REAL, _RETRY)
        else:
            self._raise()

    def _lost(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Where Python drops exceptions, such as destructors, ours is tried again."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt | Unread):
            self._pending = unraisable.exc_value.with_traceback(None)
            signal.setitimer(signal.ITIMER_REAL, _RETRY)
        else:
            sys.__unraisablehook__(unraisable)

    def _raise(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None and self._busy:
            self.count += 1  # it may have come before what it cuts off had begun
            self._answering_until = time.monotonic() + _ANSWERING
            raise pending

    def __enter__(self) -> None:
        self._held += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held -= 1
        if not self._held:
            self._raise()


def _fragile(frame: FrameType | None) -> bool:
    """Within an import, or where a lock may be taken and its `with` not yet begun: the thread that
    draws the progress bar would wait for that lock for ever, and we for the thread."""
    if _waits_for_readers(frame):
        return False
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_IMPORTING) or name.endswith(_WHOLE):
            return True
        frame = frame.f_back
    return False


def _waits_for_readers(frame: FrameType | None) -> bool:
    """Whether it waits for what other threads read, as it does most of the time that they take:
    `Condition.wait` takes its lock back whatever comes."""
    if frame is None or frame.f_code.co_name != "wait" or frame.f_back is None:
        return False
    return frame.f_back.f_code.co_filename.endswith(_FUTURE)
