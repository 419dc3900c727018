"""The frames between crash and the engine: both sides read and write them with this file.

A frame is a length (4 bytes, little endian), a code (1 byte) and that many bytes of payload. The
engine greets; then, for every command, crash sends RUN, the engine asks, crash answers with OK or
FAILED, and the engine ends with DONE. Python 3.8's standard library only.
"""

import socket
import struct
from typing import List, Tuple

VERSION = 2

HELLO = 1  # u32 version -> u32 version
READ = 2  # n * (u64 address, u32 size) -> n flag bytes, then the bytes of the readable ones
SYMBOLS = 3  # n * u64 address -> n lines "name offset", empty where nothing is known
ADDRESSES = 4  # names, NUL-separated -> n * u64, 0 where there is none
LAYOUT = 5  # type name -> "size", then lines "name offset size bit_offset bit_size"; or empty
ENUMERATOR = 6  # name -> decimal value; or empty
COMMAND = 7  # a crash command -> its output

RUN = 0x40  # crash -> engine, with a descriptor: program, cwd, columns, arguments, NUL-separated
DONE = 0x41  # engine -> crash: u8 exit status, u8 whether the engine leaves

OK = 0x80
FAILED = 0x81
UNREAD = 0x82  # not asked: crash would jump to its prompt, as nobody reads the output any more

MAX_FRAME = 64 << 20
MAX_READ = 8 << 20  # bytes asked for in one READ
_HEADER = struct.Struct("<IB")


class Closed(Exception):
    """The other side is gone."""


class Garbage(Exception):
    """The other side sent what is no frame."""


def send(sock: socket.socket, code: int, payload: bytes = b"") -> None:
    """Send one frame. Raises `Closed`."""
    try:
        sock.sendall(_HEADER.pack(len(payload), code) + payload)
    except OSError as error:
        raise Closed(str(error)) from None


def receive(sock: socket.socket) -> Tuple[int, bytes]:
    """One frame as (code, payload). Raises `Closed` or `Garbage`."""
    length, code = _HEADER.unpack(_exactly(sock, _HEADER.size))
    if length > MAX_FRAME:
        raise Garbage("a frame of %d bytes" % length)
    return code, _exactly(sock, length)


def send_run(sock: socket.socket, words: List[str], descriptor: int) -> None:
    """Send a command and where its output goes. Raises `Closed`."""
    payload = "\0".join(words).encode("utf-8", "surrogateescape")
    frame = _HEADER.pack(len(payload), RUN) + payload
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))
    try:
        sent = sock.sendmsg([frame], [rights])
        sock.sendall(frame[sent:])
    except OSError as error:
        raise Closed(str(error)) from None


def receive_run(sock: socket.socket) -> Tuple[List[str], int]:
    """A command's words, and the descriptor for its output. Raises `Closed` or `Garbage`."""
    try:
        head, rights, _, _ = sock.recvmsg(_HEADER.size, socket.CMSG_SPACE(4))
    except OSError as error:
        raise Closed(str(error)) from None
    if not head:
        raise Closed("end of stream")
    length, code = _HEADER.unpack(head + _exactly(sock, _HEADER.size - len(head)))
    if code != RUN or length > MAX_FRAME or not rights:
        raise Garbage("no command")
    (descriptor,) = struct.unpack("i", rights[0][2][:4])
    payload = _exactly(sock, length)
    return payload.decode("utf-8", "surrogateescape").split("\0"), descriptor


def _exactly(sock: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view = memoryview(data)
    while len(view):
        try:
            got = sock.recv_into(view)
        except OSError as error:
            raise Closed(str(error)) from None
        if not got:
            raise Closed("end of stream")
        view = view[got:]
    return bytes(data)
