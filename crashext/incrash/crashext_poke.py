"""Two pointers inside crash that no command can set: where they are, and how to change them.

crash will not alias a builtin, and PyKdump reads PYKDUMPPATH only when it is loaded. Both keep a
pointer in a variable that is exported by name; it is found in the ELF file's symbols and changed
through /proc/self/mem, since PyKdump's Python has no ctypes.
"""

import os
import struct
from typing import BinaryIO, Tuple

_DYNSYM, _SYMTAB = 11, 2
_MAX_SYMBOLS = 1 << 22
_BYTES_HEADER = bytes.__basicsize__ - 1  # a bytes object's content follows its header


def address_of(path: str, name: str) -> int:
    """Run-time address of the global variable `name` of a loaded ELF file; 0 if not found."""
    wanted = name.encode()
    try:
        with open(path, "rb") as file:
            value, movable = _symbol(file, wanted)
    except (OSError, struct.error):
        return 0
    if not value:
        return 0
    return value + (_load_base(path) if movable else 0)


def _symbol(file: BinaryIO, wanted: bytes) -> Tuple[int, bool]:
    """(st_value, whether the file is loaded anywhere) of one symbol of a 64-bit ELF file."""
    header = file.read(64)
    if header[:5] != b"\x7fELF\x02":
        return 0, False
    (kind,) = struct.unpack_from("<H", header, 16)
    (sections_at,) = struct.unpack_from("<Q", header, 40)
    entry, count = struct.unpack_from("<HH", header, 58)
    file.seek(sections_at)
    table = file.read(entry * count)
    sections = [struct.unpack_from("<IIQQQQIIQQ", table, i * entry) for i in range(count)]
    for section in sections:
        if section[1] in (_DYNSYM, _SYMTAB) and section[5] // 24 <= _MAX_SYMBOLS:
            file.seek(section[4])
            symbols = file.read(section[5])
            strings = sections[section[6]]
            file.seek(strings[4])
            names = file.read(strings[5])
            for at, _, _, index, value, _ in struct.iter_unpack("<IBBHQQ", symbols):
                if index and names.startswith(wanted + b"\0", at):
                    return value, kind == 3
    return 0, False


def _load_base(path: str) -> int:
    real = os.path.realpath(path)
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[5].strip() == real and int(fields[2], 16) == 0:
                return int(fields[0].split("-")[0], 16)
    return 0


def loaded(ending: str) -> str:
    """Path of a loaded file whose name ends so; "" if there is none."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[5].strip().endswith(ending):
                return fields[5].strip()
    return ""


def read(address: int, size: int) -> bytes:
    """Bytes of this process. Raises OSError."""
    with open("/proc/self/mem", "rb", 0) as memory:
        memory.seek(address)
        return memory.read(size)


def read_pointer(address: int) -> int:
    """The pointer at `address`."""
    (value,) = struct.unpack("<Q", read(address, 8))
    return int(value)


def write_pointer(address: int, value: int) -> None:
    """Change the pointer at `address`. Raises OSError."""
    with open("/proc/self/mem", "r+b", 0) as memory:
        memory.seek(address)
        memory.write(struct.pack("<Q", value))


def text(address: int, limit: int = 4096) -> bytes:
    """The NUL-terminated string at `address`; b"" for NULL."""
    if not address:
        return b""
    data = b""
    while b"\0" not in data and len(data) < limit:
        step = 256 - (address + len(data)) % 256  # never into the next, maybe unmapped, page
        data += read(address + len(data), step)
    return data.split(b"\0", 1)[0]


def content_address(kept: bytes) -> int:
    """Where a bytes object keeps its content; `kept` must live as long as the address is used."""
    return id(kept) + _BYTES_HEADER
