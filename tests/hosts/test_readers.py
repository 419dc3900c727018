"""Readers of a dump that work side by side read what drgn reads, and say what they cannot."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from crashext.hosts.base import ReadFault
from crashext.hosts.drgn import DrgnHost, open_core
from crashext.hosts.dumpfile import DumpFile
from crashext.hosts.readers import ManyReaders, open_readers
from tests.conftest import lab_dump

SIZE = 1 << 14
FORMATS = ("vmcore", "kdump", "d31")


def opened(form: str) -> DrgnHost:
    dump = lab_dump("default")
    return open_core(getattr(dump, form), [dump.vmlinux])


@pytest.mark.parametrize("form", FORMATS)
def test_they_read_what_drgn_reads(form: str) -> None:
    host = opened(form)
    assert isinstance(host, ManyReaders)
    first, second = host.readers(2)
    start = host._direct.start
    places = np.random.default_rng(1).integers(0, (256 << 20) // SIZE, 400).tolist()

    def read(number: int) -> list[bytes | None]:
        reader = (first, second)[number]
        data = [reader.read(start + SIZE * place, SIZE) for place in places]
        # What is read is there until the next call only.
        return [
            None if d is None else hash(bytes(d)).to_bytes(8, "little", signed=True) for d in data
        ]

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(read, range(2))
    assert one == other
    known = [first.read(start + SIZE * place, SIZE) for place in places]
    assert sum(k is not None for k in known) > 50
    for place in places:
        try:
            expected = host.read(start + SIZE * place, SIZE)
        except ReadFault:
            expected = None
        found = first.read(start + SIZE * place, SIZE)
        assert (None if found is None else bytes(found)) == expected


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_no_direct_map_and_what_is_not_there_is_for_the_host(form: str) -> None:
    host = opened(form)
    (reader,) = host.readers(1)
    assert reader.read(host.address_of("init_task") or 0, 8) is None
    assert reader.read(host._direct.start + (1 << 40), 8) is None


def test_their_files_are_closed_with_them() -> None:
    host = opened("kdump")
    before = len(os.listdir("/proc/self/fd"))
    readers = host.readers(4)
    assert len(os.listdir("/proc/self/fd")) >= before + 4
    del readers
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("file", [DumpFile("live", None), DumpFile("other", None)])
def test_there_are_none_of_what_only_drgn_reads(file: DumpFile) -> None:
    assert open_readers(Path("/dev/null"), file, lambda address: address, 2) == []
