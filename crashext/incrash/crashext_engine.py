"""The engine of this crash session: started at the first command, kept, ended with crash.

It is a process that is no child of crash's, for crash sometimes waits until all its children have
ended. It ends when its socket does, so however crash ends. It knows nothing of what is asked.
"""

import os
import select
import signal
import socket
import struct
from typing import Dict, Optional, Tuple

import crashext_wire as wire

REMEMBERED = [""]  # the engine's Python, as `crashext setup` remembered it; [0] is set once
MEND = "run 'crashext setup --write' again, or set CRASHEXT_PYTHON to a Python that has crashext"
_HERE = os.path.dirname(os.path.realpath(wire.__file__))


class Engine:
    """One engine process, greeted or not yet. Its group is signalled, for it may have workers."""

    def __init__(self, python: str) -> None:
        """Raises `OSError` where there is no such Python."""
        self.python, self.stamp = python, _stamp(python)
        self.greeted = False
        self.sock, theirs = socket.socketpair()
        try:
            theirs.set_inheritable(True)
            self._first = _spawn(python, theirs.fileno())
        except OSError:
            self.sock.close()
            raise
        finally:
            theirs.close()
        self.status: Optional[int] = None  # wait status of the process that crash started

    @property
    def outdated(self) -> bool:
        """Whether another Python, or another crashext, is what a command should have now."""
        return self.stamp != _stamp(engine_python())

    def signal(self, number: int) -> None:
        """Send a signal to the engine; nothing happens where it is gone."""
        self.settle(wait=False)
        if self.status is not None and self._hung_up():
            return  # its number may by now be another's
        try:
            os.killpg(self._first, number)
        except OSError:
            pass

    def _hung_up(self) -> bool:
        if self.sock.fileno() < 0:
            return True
        watched = select.poll()
        watched.register(self.sock.fileno(), 0)
        return bool(watched.poll(0))

    def settle(self, wait: bool) -> None:
        """Reap the process that crash started; it has ended once the engine greeted."""
        if self.status is not None:
            return
        try:
            pid, status = os.waitpid(self._first, 0 if wait else os.WNOHANG)
        except ChildProcessError:  # crash itself reaps now and then
            pid, status = self._first, 0
        if pid:
            self.status = status

    def end(self) -> None:
        """End the engine, whatever it does."""
        self.signal(signal.SIGKILL)
        self.sock.close()
        self.settle(wait=True)


def engine_python() -> str:
    """The Python that has the engine: CRASHEXT_PYTHON, what set-up remembered, or the nearest."""
    named = os.environ.get("CRASHEXT_PYTHON") or REMEMBERED[0]
    if named:
        return named
    # <venv>/lib/python3.X/site-packages/crashext/incrash, or a clone with its .venv
    for up in ("../../../../../bin/python3", "../../.venv/bin/python3"):
        near = os.path.normpath(os.path.join(_HERE, up))
        if os.access(near, os.X_OK):
            return near
    return "/usr/bin/python3"


def _stamp(python: str) -> Tuple[object, ...]:
    """What is another thing once another Python is named, or crashext was installed anew."""
    parts = []
    for name in ("../__init__.py", "crashext_wire.py"):
        try:
            found = os.stat(os.path.join(_HERE, name))
            parts.append((found.st_mtime_ns, found.st_size, found.st_ino))
        except OSError:
            parts.append((0, 0, 0))
    return (python, *parts)


def _spawn(python: str, fd: int) -> int:
    """Start it without any of crash's descriptors but stderr: not even the pipe of this command,
    whose reader would wait for its end for ever."""
    environment: Dict[str, str] = dict(os.environ)
    # readline leaves COLUMNS as the window was when crash started: each command says it anew.
    environment.pop("COLUMNS", None)
    # The current directory may hold anything: keep it out of the engine's sys.path (3.11+).
    environment["PYTHONSAFEPATH"] = "1"
    return os.posix_spawn(
        python,
        [python, "-m", "crashext", "--bridge", str(fd)],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        ],
        # A process group of its own: Ctrl-C reaches crash alone, which passes it on.
        setpgroup=0,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGPIPE],
    )


GREETING = struct.pack("<I", wire.VERSION)
_kept: Dict[str, Engine] = {}


def kept() -> Optional[Engine]:
    """The engine of the command before this one."""
    return _kept.get("engine")


def keep(engine: Engine) -> None:
    """Remember it for the next command."""
    _kept["engine"] = engine


def forget() -> None:
    """End the engine, if there is one: the next command starts another."""
    engine = _kept.pop("engine", None)
    if engine is not None:
        engine.end()
