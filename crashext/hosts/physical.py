"""Physical memory of a dump file that somebody else has opened."""

from __future__ import annotations

from pathlib import Path

import drgn


class PhysicalMemory:
    """Physical memory of a dump file that somebody else has opened; needs no debug info."""

    def __init__(self, core: Path) -> None:
        self._program: drgn.Program | None = drgn.Program()
        try:
            self._program.set_core_dump(str(core))
        except Exception:  # libkdumpfile's errors arrive as bare Exception
            self._program = None

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes at a physical address; None where they cannot be had this way."""
        if self._program is None:
            return None
        try:
            return bytes(self._program.read(address, size, physical=True))
        except (drgn.FaultError, ValueError, OverflowError):
            return None
