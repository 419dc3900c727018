"""Dumps that drgn does not open by itself: without a VMCOREINFO note, or with an unusual header.

crash opens them. What is missing is found in the dump's own memory; the file is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import drgn

from crashext.hosts.dumpfile import DumpFile, examined
from crashext.hosts.flattened import open_dump
from crashext.hosts.kdumpfile import KdumpFile
from crashext.hosts.vmcoreinfo import texts

_GUARDED = "crashext: guarded"
_OF_ARM64 = "\nNUMBER(kimage_voffset)="  # arch/arm64/kernel/crash_core.c


def open_unusual(core: Path, file: DumpFile) -> drgn.Program | None:
    """The dump as drgn's program; None where this does not help either."""
    if file.format == "ELF":
        return _elf(core)
    if file.format.startswith("kdump") and file.present is not None:
        return _kdump(core, file.present)
    return None


def _elf(core: Path) -> drgn.Program | None:
    """With the note that its memory has, searched for in the order of the file."""
    for text in _texts_of(core):
        program = drgn.Program(vmcoreinfo=text)
        try:
            program.set_core_dump(str(core))
        except Exception:  # libkdumpfile's and drgn's own; the next text, if any
            continue
        if program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
            return program
    return None


def _texts_of(core: Path) -> Iterator[str]:
    with open_dump(core) as data:
        length = data.seek(0, 2)

        def read(at: int, size: int) -> bytes:
            data.seek(at)
            return data.read(size)

        yield from texts(read, [(0, length)])


def _kdump(core: Path, present: tuple[tuple[int, int], ...]) -> drgn.Program | None:
    """By a reader of our own."""
    dump = KdumpFile(core)
    text = dump.vmcoreinfo() or next(texts(dump.read, present), "")
    if not text:
        return None
    arm = _OF_ARM64 in text
    architecture = drgn.Architecture.AARCH64 if arm else drgn.Architecture.X86_64
    program = drgn.Program(drgn.Platform(architecture))
    _read_by(program, dump)
    try:
        program.set_linux_kernel_custom(text, is_live=False)
    except (ValueError, LookupError, drgn.FaultError):
        return None
    return program


def guard(program: drgn.Program, core: Path) -> None:
    """Let what somebody has open in drgn read a truncated kdump by our own reader.

    libkdumpfile maps what is past the end of the file: a page there ends the process (SIGBUS).
    """
    if _GUARDED in program.cache:
        return  # drgn keeps every reader that it was given
    file = examined(core)
    if file.format.startswith("kdump") and file.damage:
        _read_by(program, KdumpFile(core))
    program.cache[_GUARDED] = True


def _read_by(program: drgn.Program, dump: KdumpFile) -> None:
    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        data = dump.read(address, count)
        if data is None:
            raise drgn.FaultError("not in this dump", address)
        return data

    program.add_memory_segment(0, dump.frames * dump.block, read, physical=True)
