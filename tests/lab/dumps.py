"""Dump files: the ELF core that QEMU writes, mended, and makedumpfile's formats made from it."""

from __future__ import annotations

import struct
from pathlib import Path

from .errors import LabError
from .run import run

COMPRESS_TIMEOUT = 900.0

# Elf64_Ehdr from e_ident on; see elf(5).
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")


def mend_program_headers(path: Path) -> None:
    """Move the program headers to the place where makedumpfile looks for them.

    QEMU 7.2 writes the section headers first; makedumpfile 1.7.2 takes it for granted that the
    program headers follow the ELF header. Sections only matter beyond 65,534 segments.
    """
    path.chmod(0o644)  # QEMU makes it read-only.
    with path.open("r+b") as core:
        fields = list(_HEADER.unpack(core.read(_HEADER.size)))
        phoff, phentsize, phnum = fields[5], fields[9], fields[10]
        if fields[0][:6] != b"\x7fELF\2\1" or phnum == 0xFFFF:
            raise LabError(f"{path} is no little-endian 64-bit ELF core of few segments")
        core.seek(phoff)
        headers = core.read(phentsize * phnum)
        fields[5] = _HEADER.size
        fields[6] = fields[12] = fields[13] = 0  # e_shoff, e_shnum, e_shstrndx
        core.seek(0)
        core.write(_HEADER.pack(*fields) + headers)


def punch_holes(path: Path) -> None:
    """Give the disk blocks of zero pages back; what the file reads as does not change."""
    run(["fallocate", "--dig-holes", path], COMPRESS_TIMEOUT)


def compress(core: Path, target: Path, level: int) -> None:
    """Make a compressed kdump of `core`, without the pages that dump level `level` names."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    run(["makedumpfile", "-c", "-d", str(level), core, unfinished], COMPRESS_TIMEOUT)
    unfinished.chmod(0o644)
    unfinished.rename(target)


def rearrange(flat: Path, target: Path) -> None:
    """Make a compressed kdump of the flattened one that QEMU writes; its header names no kernel."""
    run(["sh", "-c", 'exec makedumpfile -R "$1" < "$0"', flat, target], COMPRESS_TIMEOUT)
    target.chmod(0o644)
