"""Starts the engine in the user's own Python and answers its questions until it is done.

Runs inside crash under PyKdump's Python (3.8 or later, small standard library). Nothing that the
dump holds or the engine does may take crash down: every question is answered or refused, every
way out reaps the engine, closes both sockets and gives SIGINT back.
"""

import os
import signal
import socket
import struct
import sys
from typing import Any, Iterable, List, Tuple

import crash

import crashext_wire as wire

ENGINE = [""]  # the engine's Python, as `crashext setup` remembered it; [0] is set once
_HERE = os.path.dirname(os.path.realpath(wire.__file__))
_PATIENCE = 3  # Ctrl-C that many times ends an engine that does not listen


def run(program: str, arguments: List[str]) -> None:
    """Run `program` (leakscan or objsim) with its arguments; prints to crash's current output.

    Ctrl-C is let through only while the bridge waits. In the middle of crash's or gdb's own code it
    would make them jump out over Python's frames, and crash dies of that sooner or later.
    """
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _CTRL_C)
    try:
        _run(program, arguments)
    finally:
        while signal.sigtimedwait(_CTRL_C, 0):
            pass  # one that came too late to mean this command
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _CTRL_C)


_CTRL_C = (signal.SIGINT,)


def _run(program: str, arguments: List[str]) -> None:
    engine = engine_python()
    ours, theirs = socket.socketpair()
    try:
        theirs.set_inheritable(True)
        child = _start(engine, theirs.fileno(), program, arguments)
    except OSError as error:
        ours.close()
        _say(program, "cannot start %s: %s" % (engine, error.strerror), _MEND)
        return
    finally:
        theirs.close()
    talk, status = _attend(program, ours, child)
    _explain(engine, talk, status)


_MEND = "run 'crashext setup --write' again, or set CRASHEXT_PYTHON to a Python that has crashext"


def engine_python() -> str:
    """The Python that has the engine: CRASHEXT_PYTHON, what set-up remembered, or the nearest."""
    named = os.environ.get("CRASHEXT_PYTHON") or ENGINE[0]
    if named:
        return named
    # <venv>/lib/python3.X/site-packages/crashext/incrash, or a clone with its .venv
    for up in ("../../../../../bin/python3", "../../.venv/bin/python3"):
        near = os.path.normpath(os.path.join(_HERE, up))
        if os.access(near, os.X_OK):
            return near
    return "/usr/bin/python3"


def _start(engine: str, fd: int, program: str, arguments: List[str]) -> int:
    """Spawn the engine: its output is crash's current output, its input nothing."""
    environment = dict(os.environ)
    # readline leaves COLUMNS as the window was when crash started; the window knows better, and a
    # pipe or file has none.
    environment.pop("COLUMNS", None)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, sys.stdout.fileno(), 1),
    ]
    # The current directory may hold anything: keep it out of the engine's sys.path (3.11+).
    environment["PYTHONSAFEPATH"] = "1"
    command = [engine, "-m", "crashext", "--bridge", str(fd), program, *list(arguments)]
    # A process group of its own: Ctrl-C reaches crash alone, which passes it on just once.
    return os.posix_spawn(
        engine,
        command,
        environment,
        file_actions=actions,
        setpgroup=0,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGPIPE],
    )


_SILENT, _TALKING, _SAID = range(3)  # it never greeted; it did; we have said what is wrong


class _Talk:
    """One conversation with an engine."""

    def __init__(self, program: str, sock: socket.socket, child: int) -> None:
        self.program, self.sock, self.child = program, sock, child
        self.state = _SILENT
        self.pressed = 0

    def interrupt(self, number: int, frame: object) -> None:
        """Ctrl-C: the engine prints what it has. One that has not even started is ended."""
        self.pressed += 1
        gentle = self.state == _TALKING and self.pressed < _PATIENCE
        _kill(self.child, signal.SIGINT if gentle else signal.SIGKILL)


def _attend(program: str, sock: socket.socket, child: int) -> Tuple["_Talk", int]:
    """Serve the engine until it is gone: the conversation, and its wait status."""
    talk = _Talk(program, sock, child)
    before = signal.getsignal(signal.SIGINT)
    try:
        try:
            _serve(talk)
        finally:
            sock.close()  # an engine that still asks learns that nobody answers
        if talk.state == _SAID:
            _kill(child, signal.SIGKILL)
        with _Listening(talk):
            return talk, os.waitpid(child, 0)[1]
    finally:
        signal.signal(signal.SIGINT, before)


class _Listening:
    """Lets Ctrl-C through to `talk` for a while."""

    def __init__(self, talk: "_Talk") -> None:
        self.talk = talk

    def __enter__(self) -> None:
        # crash's own calls into gdb leave crash's handler behind, which would jump out over
        # Python's frames to the prompt: ours must be put back every time.
        signal.signal(signal.SIGINT, self.talk.interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _CTRL_C)

    def __exit__(self, *unused: object) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _CTRL_C)


def _serve(talk: "_Talk") -> None:
    try:
        while True:
            with _Listening(talk):
                code, payload = wire.receive(talk.sock)
            if talk.state == _SILENT and code != wire.HELLO:
                raise wire.Garbage("no greeting")
            if code == wire.HELLO and payload != struct.pack("<I", wire.VERSION):
                wire.send(talk.sock, wire.FAILED, b"other version")
                _say(talk.program, "the engine is of another version; it was stopped", _MEND)
                talk.state = _SAID
                return
            talk.state = _TALKING
            wire.send(talk.sock, *_answer(code, payload))
    except wire.Closed:
        return
    except wire.Garbage as what:
        _say(talk.program, "the engine sent %s; it was stopped" % what, _MEND)
        talk.state = _SAID


def _answer(code: int, payload: bytes) -> Tuple[int, bytes]:
    """(code, payload) of the answer to one question. Whatever is wrong becomes FAILED."""
    question = _QUESTIONS.get(code)
    if question is None:
        raise wire.Garbage("an unknown question (%d)" % code)
    try:
        return wire.OK, question(payload)
    except struct.error:
        raise wire.Garbage("a question of the wrong length") from None
    except Exception as error:  # crash.error, or whatever a damaged dump makes PyKdump raise
        return wire.FAILED, str(error).encode("utf-8", "replace")


def _hello(payload: bytes) -> bytes:
    return struct.pack("<I", wire.VERSION)


def _read(payload: bytes) -> bytes:
    if sum(size for _, size in struct.iter_unpack("<QI", payload)) > wire.MAX_READ:
        raise wire.Garbage("a read of too many bytes")
    flags, pieces = bytearray(), []
    for address, size in struct.iter_unpack("<QI", payload):
        try:
            # PyKdump refuses address 0 with IndexError, all else with crash.error.
            pieces.append(crash.readmem(address, size))
            flags.append(1)
        except (crash.error, IndexError, OverflowError):
            flags.append(0)
    return bytes(flags) + b"".join(pieces)


def _symbols(payload: bytes) -> bytes:
    lines = []
    for (address,) in struct.iter_unpack("<Q", payload):
        name, offset = crash.addr2sym(address, 1)
        lines.append("%s %d" % (name, offset) if name else "")
    return "\n".join(lines).encode("utf-8", "replace")


def _addresses(payload: bytes) -> bytes:
    names = payload.decode("utf-8", "replace").split("\0")
    return struct.pack("<%dQ" % len(names), *[_address(name) for name in names])


def _address(name: str) -> int:
    return crash.sym2addr(name) & 0xFFFFFFFFFFFFFFFF if crash.symbol_exists(name) else 0


def _layout(payload: bytes) -> bytes:
    name = payload.decode("utf-8", "replace")
    try:
        info = crash.gdb_typeinfo(name)
    except crash.error:
        return b""
    lines = [str(info["typelength"])]
    _members(info.get("body", ()), 0, lines)
    return "\n".join(lines).encode("utf-8", "replace")


def _members(body: Iterable[Any], base: int, lines: List[str]) -> None:
    """Flatten, through anonymous structs and unions: "name offset size bit_offset bit_size"."""
    for member in body:
        bits = base + member["bitoffset"]
        if not member["fname"]:
            _members(member.get("body", ()), bits, lines)
            continue
        size = member["typelength"]
        for count in member.get("dims", ()):
            size *= max(count, 0)
        width = member.get("bitsize", 0)
        lines.append(
            "%s %d %d %d %d" % (member["fname"], bits // 8, size, bits % 8 if width else 0, width)
        )


def _enumerator(payload: bytes) -> bytes:
    value = crash.enumerator_value(payload.decode("utf-8", "replace"))
    return b"" if value is None else str(value).encode()


def _command(payload: bytes) -> bytes:
    text = crash.exec_crash_command(payload.decode("utf-8", "replace"), 1)
    return str(text).encode("utf-8", "replace")


_QUESTIONS = {
    wire.HELLO: _hello,
    wire.READ: _read,
    wire.SYMBOLS: _symbols,
    wire.ADDRESSES: _addresses,
    wire.LAYOUT: _layout,
    wire.ENUMERATOR: _enumerator,
    wire.COMMAND: _command,
}


def _explain(engine: str, talk: "_Talk", status: int) -> None:
    """Say how the engine ended, when it did not end as it should and nobody has said why."""
    if talk.state == _SAID:
        return
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if talk.pressed:
            _say(talk.program, "interrupted", "")
        elif number != signal.SIGPIPE:
            _say(talk.program, "the engine was killed by signal %d" % number, "")
    elif talk.state == _SILENT:
        what = "the engine, %s, did not start (exit status %d)" % (engine, os.WEXITSTATUS(status))
        _say(talk.program, what, _MEND)
    elif os.WEXITSTATUS(status) not in (0, 2, 130):
        _say(talk.program, "the engine failed, exit status %d" % os.WEXITSTATUS(status), "")


def _kill(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except OSError:
        pass  # it ended by itself in the meantime


def _say(program: str, what: str, mend: str) -> None:
    print("{}: {}{}".format(program, what, "; " + mend if mend else ""))
    sys.stdout.flush()
