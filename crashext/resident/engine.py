"""`python -m crashext --bridge FD`: the engine of one crash session, until crash's end of the
socket is gone.

It is started without being asked anything. Each command brings the descriptor that its output goes
to. What is behind the commands is imported at the first one that needs it.
"""

from __future__ import annotations

import io
import os
import select
import signal
import socket
import struct
import sys
import threading
import traceback

from crashext.commands.process import be_thrifty
from crashext.incrash import crashext_wire as wire
from crashext.resident.interrupts import Interrupts, Unread
from crashext.resident.session import Session

_FAILED = 1
_INTERRUPTED = 130


def serve(descriptor: int) -> int:
    """Serve crash's commands. Returns the exit status."""
    _stand_alone(descriptor)
    be_thrifty()
    # drgn would look through all installed packages for plugins; nobody types at it here.
    os.environ["DRGN_DISABLE_PLUGINS"] = "*"
    sock = socket.socket(fileno=descriptor)
    interrupts = Interrupts()
    interrupts.install()
    try:
        wire.send(sock, wire.HELLO, struct.pack("<I", wire.VERSION))
        if wire.receive(sock)[0] != wire.OK:
            return 2
        _end_with(sock)
        session = Session(sock, interrupts)
        leaves = False
        while not leaves:
            words, output = wire.receive_run(sock)
            status = _run(session, interrupts, words, output)
            leaves = status == _FAILED or session.tidy()
            wire.send(sock, wire.DONE, struct.pack("<BB", status & 0xFF, leaves))
    except (wire.Closed, wire.Garbage):
        return 0
    return 0


def _stand_alone(descriptor: int) -> None:
    """No child of crash's, which at times waits for all its children; none of its descriptors."""
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
    if os.fork():
        os._exit(0)


def _end_with(sock: socket.socket) -> None:
    """End this process when crash's end of the socket does, whatever goes on here."""

    def watch() -> None:
        watched = select.poll()
        watched.register(sock.fileno(), 0)
        while not watched.poll():
            pass
        os._exit(0)

    mine = {signal.SIGINT, signal.SIGPIPE, signal.SIGALRM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, mine)  # signals are the main thread's
    threading.Thread(target=watch, name="crash's end", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(session: Session, interrupts: Interrupts, words: list[str], output: int) -> int:
    """One command, its output sent to `output` and that closed again. Returns its exit status."""
    program, directory, columns, *arguments = words
    os.dup2(output, 1)
    os.close(output)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(1, "w", closefd=False)),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=os.isatty(1),
    )
    os.environ.pop("COLUMNS", None)
    if columns != "0":
        os.environ["COLUMNS"] = columns
    status = 0
    try:
        os.chdir(directory or "/")
        status = _interruptible(session, interrupts, program, arguments)
        sys.stdout.flush()
    except Unread:
        pass
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        status = _INTERRUPTED
    except BrokenPipeError:
        pass
    except Exception:
        traceback.print_exc()
        status = _FAILED
    finally:
        # crash waits for the reader of its pipe, who waits for the end of ours.
        os.dup2(0, 1)
    return status


def _interruptible(
    session: Session, interrupts: Interrupts, program: str, arguments: list[str]
) -> int:
    interrupts.begin()
    try:
        return session.command(program, arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else _FAILED
    finally:
        interrupts.end()
