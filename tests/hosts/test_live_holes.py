"""The running kernel without debug info, whose memory has holes: blocks that are offline or refused
by the machine's owner, pages that are gone when they are read again. Nobody is accused falsely."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO

import drgn
import pytest

from crashext.commands import entry
from crashext.commands.place import Place
from crashext.hosts.bare import BareHost
from crashext.hosts.base import ReadFault
from crashext.hosts.directmap import NO_MAP
from crashext.kernel.btf_layouts import CarriedTypes
from tests.conftest import lab_dump

_BLOCK = 128 << 20  # MIN_MEMORY_BLOCK_SIZE of x86
_PAGE = 4096
_LOST = "leaklab_"

Refuses = Callable[[int, int], bool]
"""Whether reading at an address, so many bytes, is refused."""


class Running(BareHost):
    """A dump that is read as the running kernel is: by virtual address alone."""

    refuses: Refuses | None = None
    refused = 0

    def __init__(self, program: drgn.Program) -> None:
        super().__init__(program, "/proc/kcore")
        self._info = replace(self._info, live=True)
        self._direct, self._core = NO_MAP, None

    def _memory(self, address: int, size: int) -> bytes:
        if self.refuses is not None and self.refuses(address, size):
            self.refused += 1
            raise drgn.FaultError("no such memory", address)
        return super()._memory(address, size)


def running() -> Running:
    program = drgn.Program()
    program.set_core_dump(str(lab_dump("default").vmcore))
    host = Running(program)
    types = CarriedTypes(host, alone=True)
    host.require(types.functions(), types.percpu())
    host.require_whole(types.functions)
    host.prefer(types)
    return host


def offline(host: Running) -> Refuses:
    """The second block of memory."""
    start = (host._variable("page_offset_base") or 0) + _BLOCK
    return lambda address, size: address < start + _BLOCK and start < address + size


def vanishing(host: Running) -> Refuses:
    """One in a hundred pages of memory that are read again is gone from then on."""
    start, rng = host._variable("page_offset_base") or 0, random.Random(1)
    gone, seen = set[int](), set[int]()

    def refuses(address: int, size: int) -> bool:
        if not start <= address < start + 2 * _BLOCK:
            return False
        for page in range(address // _PAGE, (address + size - 1) // _PAGE + 1):
            if page in seen and rng.random() < 0.01:
                gone.add(page)
            seen.add(page)
            if page in gone:
                return True
        return False

    return refuses


@pytest.mark.parametrize("holes", [offline, vanishing])
def test_holes_accuse_nobody_falsely(holes: Callable[[Running], Refuses]) -> None:
    host = running()
    host.refuses = holes(host)
    out = StringIO()
    with redirect_stdout(out):
        assert entry.leakscan(["--json"], Place("drgn", lambda: host)) == 0
    assert host.refused > 100
    host.refuses = lambda address, size: True
    with pytest.raises(ReadFault, match="the running kernel freed it, or does not give it"):
        host.read(host.address_of("slab_caches") or 0, 8)
    document = json.loads(out.getvalue())
    assert document["verdicts"]
    for verdict in document["verdicts"]:
        culprit = verdict["culprit"] or {"caller": ""}
        assert verdict["class"] != "healthy"
        assert culprit.get("caller", "").startswith(_LOST) or verdict["class"] == "cannot-tell"


def test_without_holes_the_same_reading_names_what_leaks() -> None:
    host, out = running(), StringIO()
    with redirect_stdout(out):
        assert entry.leakscan(["--json"], Place("drgn", lambda: host)) == 0
    first = json.loads(out.getvalue())["verdicts"][0]
    assert first["class"] == "leak"
    assert first["culprit"]["caller"].startswith("leaklab_leak_nodes+")
