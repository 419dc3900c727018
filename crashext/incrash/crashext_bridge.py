"""One command: handed to the engine, whose questions are answered until it is done.

Runs inside crash under PyKdump's Python (3.8 or later, small standard library). Nothing that the
dump holds or the engine does may take crash down: every question is answered or refused, every way
out gives SIGINT back. Nothing is printed through sys.stdout: its reader may be gone.
"""

import os
import select
import signal
import struct
import sys
from typing import List, Optional, Tuple

import crashext_answers
import crashext_engine as engines
import crashext_wire as wire
from crashext_output import end_line, say

_PATIENCE = 3  # Ctrl-C that many times ends an engine that does not listen
_AGAIN = 5000  # milliseconds until an engine whose output nobody reads is told so again
_CTRL_C = (signal.SIGINT,)


def run(program: str, arguments: List[str]) -> None:
    """Run `program` (leakscan or objsim) with its arguments; prints to crash's current output.

    Ctrl-C is let through only while the bridge waits. In the middle of crash's or gdb's own code it
    would make them jump out over Python's frames, and crash dies of that sooner or later.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _CTRL_C)
    before = signal.getsignal(signal.SIGINT)
    try:
        _run(program, arguments)
    except OSError as error:
        say(program, "the engine cannot be talked to: %s" % error.strerror)
        engines.forget()
    finally:
        while signal.sigtimedwait(_CTRL_C, 0):
            end_line()  # one that came too late to mean this command
        signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _CTRL_C)


def _run(program: str, arguments: List[str]) -> None:
    try:
        sys.stdout.flush()
    except OSError:
        return  # nobody reads: nothing to do
    engine = _ready(program)
    if engine is None:
        return
    talk = Talk(program, engine)
    words = [program, _directory(), str(_columns()), *arguments]
    try:
        wire.send_run(engine.sock, words, sys.stdout.fileno())
    except wire.Closed:  # killed since the last command, as the kernel does when memory is short
        say(program, "the engine was gone and is started anew")
        engines.forget()
        again = _ready(program)
        if again is None:
            return
        talk = Talk(program, again)
        wire.send_run(again.sock, words, sys.stdout.fileno())
    talk.serve()


def _ready(program: str) -> "Optional[engines.Engine]":
    """An engine that greeted, kept or new. None where there is none, which is told."""
    engine = engines.kept()
    if engine is not None and engine.outdated:
        say(program, "crashext is another now: the engine is started anew")
        engines.forget()
        engine = None
    if engine is None:
        python = engines.engine_python()
        try:
            engine = engines.Engine(python)
        except OSError as error:
            say(program, "cannot start %s: %s" % (python, error.strerror), engines.MEND)
            return None
        engines.keep(engine)
    if not engine.greeted and not Talk(program, engine).greet():
        return None
    return engine


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _columns() -> int:
    """Columns of the terminal that the output ends on, through a pager or pipe too; 0: of none."""
    for descriptor in (sys.stdout.fileno(), 1):
        try:
            return os.get_terminal_size(descriptor).columns
        except OSError:
            if not _is_pipe(descriptor):
                return 0
    return 0


def _is_pipe(descriptor: int) -> bool:
    try:
        return (os.fstat(descriptor).st_mode & 0o170000) == 0o010000
    except OSError:
        return False


class _Said(Exception):
    """The engine is of no use, and the user has been told."""


class Talk:
    """One conversation with an engine."""

    def __init__(self, program: str, engine: "engines.Engine") -> None:
        self.program, self.engine, self.sock = program, engine, engine.sock
        self.pressed = 0
        self.unread = 0

    def greet(self) -> bool:
        """Let a new engine greet. Returns whether it did; if not, that is told."""
        try:
            code, payload = self._receive(-1)
            if code != wire.HELLO:
                raise wire.Garbage("no greeting")
            if payload != engines.GREETING:
                wire.send(self.sock, wire.FAILED, b"other version")
                self._give_up("the engine is of another version; it was stopped", engines.MEND)
            wire.send(self.sock, wire.OK, engines.GREETING)
        except wire.Closed:
            self._not_started()
        except wire.Garbage as what:
            self._tell_garbage(what)
        except _Said:
            pass
        else:
            self.engine.greeted = True
            self.engine.settle(wait=False)
            return True
        return False

    def serve(self) -> None:
        """Answer until the engine is done, or gone."""
        try:
            output = sys.stdout.fileno()
            while True:
                code, payload = self._receive(output)
                if code == wire.DONE:
                    _, leaves = struct.unpack("<BB", payload)
                    if leaves:
                        engines.forget()
                    return
                self._send(*crashext_answers.answer(code, payload))
        except wire.Closed:
            engines.forget()
            if self.pressed:
                say(self.program, "interrupted")
            elif not self.unread:
                say(self.program, "the engine ended in the midst of it: killed, or out of memory")
        except wire.Garbage as what:
            self._tell_garbage(what)
        except struct.error:
            self._tell_garbage(wire.Garbage("an end of the wrong length"))
        self.engine.settle(wait=False)

    def _receive(self, output: int) -> Tuple[int, bytes]:
        """The engine's next frame. Meanwhile Ctrl-C, and whether the output is still read."""
        watched = select.poll()
        watched.register(self.sock.fileno(), select.POLLIN)
        if output >= 0:
            watched.register(output, 0)
        with _Listening(self):
            while True:
                ready = [d for d, _ in watched.poll(_AGAIN if self.unread else None)]
                if output in ready:
                    watched.unregister(output)
                    if not self.unread:
                        self._tell_unread()
                elif not ready:
                    self._tell_unread()
                else:
                    code, payload = wire.receive(self.sock)
                    return code, payload

    def _tell_unread(self) -> None:
        """head, or a pager, was left: SIGPIPE tells the engine the same, and again if need be."""
        self.unread += 1
        self.engine.signal(signal.SIGPIPE if self.unread <= _PATIENCE else signal.SIGKILL)

    def _send(self, code: int, payload: bytes) -> None:
        with _Listening(self):
            wire.send(self.sock, code, payload)

    def interrupt(self, number: int, frame: object) -> None:
        """Ctrl-C: the engine prints what it has. One that has not even greeted is ended."""
        self.pressed += 1
        end_line()
        gentle = self.engine.greeted and self.pressed < _PATIENCE
        self.engine.signal(signal.SIGINT if gentle else signal.SIGKILL)

    def _not_started(self) -> None:
        self.engine.end()
        engines.forget()
        status = self.engine.status or 0
        if self.pressed:
            say(self.program, "interrupted")
        elif os.WIFSIGNALED(status):
            say(self.program, "the engine was killed by signal %d" % os.WTERMSIG(status))
        else:
            what = "the engine, %s, did not start (exit status %d)"
            say(self.program, what % (self.engine.python, os.WEXITSTATUS(status)), engines.MEND)

    def _tell_garbage(self, what: Exception) -> None:
        engines.forget()
        say(self.program, "the engine sent %s; it was stopped" % what, engines.MEND)

    def _give_up(self, what: str, mend: str) -> None:
        engines.forget()
        say(self.program, what, mend)
        raise _Said


class _Listening:
    """Lets Ctrl-C through to `talk` for a while."""

    def __init__(self, talk: "Talk") -> None:
        self.talk = talk

    def __enter__(self) -> None:
        # crash's own calls into gdb leave crash's handler behind, which would jump out over
        # Python's frames to the prompt: ours must be put back every time.
        signal.signal(signal.SIGINT, self.talk.interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _CTRL_C)

    def __exit__(self, *unused: object) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _CTRL_C)
