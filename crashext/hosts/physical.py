"""Physical memory of a dump file that somebody else has opened; needs no debug info."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import drgn

from crashext.hosts.base import HostError
from crashext.hosts.dumpfile import DumpFile, examined
from crashext.hosts.kdumpfile import KdumpFile

_Read = Callable[[int, int], bytes | None]


class PhysicalMemory:
    """By drgn, or by our own reader where that does not open the file."""

    def __init__(self, core: Path) -> None:
        file = examined(core)
        self._read = (None if file.unsafe else _by_drgn(core)) or _by_ourselves(core, file)

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes at a physical address; None where they cannot be had this way."""
        return None if self._read is None else self._read(address, size)


def _by_drgn(core: Path) -> _Read | None:
    logging.getLogger("drgn").setLevel(logging.CRITICAL)
    program = drgn.Program()
    try:
        program.set_core_dump(str(core))
    except Exception:  # libkdumpfile's errors arrive as bare Exception
        return None

    def read(address: int, size: int) -> bytes | None:
        try:
            return bytes(program.read(address, size, physical=True))
        except (drgn.FaultError, ValueError, OverflowError):
            return None

    return read


def _by_ourselves(core: Path, file: DumpFile) -> _Read | None:
    if not file.format.startswith("kdump"):
        return None
    try:
        return KdumpFile(core).read
    except (OSError, HostError):
        return None
