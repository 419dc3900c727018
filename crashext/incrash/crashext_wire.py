"""The frames between crash and the engine: both sides read and write them with this file.

A frame is a length (4 bytes, little endian), a code (1 byte) and that many bytes of payload. The
engine asks, crash answers; the answer's code is OK or FAILED. Python 3.8's standard library only.
"""

import socket
import struct
from typing import Tuple

VERSION = 1

HELLO = 1  # u32 version -> u32 version
READ = 2  # n * (u64 address, u32 size) -> n flag bytes, then the bytes of the readable ones
SYMBOLS = 3  # n * u64 address -> n lines "name offset", empty where nothing is known
ADDRESSES = 4  # names, NUL-separated -> n * u64, 0 where there is none
LAYOUT = 5  # type name -> "size", then lines "name offset size bit_offset bit_size"; or empty
ENUMERATOR = 6  # name -> decimal value; or empty
COMMAND = 7  # a crash command -> its output

OK = 0x80
FAILED = 0x81

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
