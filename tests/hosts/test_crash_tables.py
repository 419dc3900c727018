"""Which addresses of a dump no page table translates: a hole of our own making is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crashext.hosts.base import Addresses, Mask
from crashext.hosts.crash_tables import Tables, untranslatable
from crashext.hosts.drgn import DrgnHost, open_core
from tests.conftest import lab_dump, lab_host
from tests.hosts.holes import without_a_page_table


def lost(host: DrgnHost) -> list[tuple[int, int]]:
    found = host.address_of("page_offset_base")
    top = host.address_of("init_top_pgt")
    assert found is not None
    assert top is not None
    direct = np.uint64(int.from_bytes(host.read(found, 8), "little"))

    def read(tables: Addresses) -> Tables:
        return host.read_many(tables + direct, 4096)[0].view(np.uint64)

    def held(tables: Addresses) -> Mask:
        return host.read_many(tables + direct, 4096)[1]

    first = np.frombuffer(host.read(top, 4096), np.uint64).reshape(1, -1)
    return untranslatable(first, read, held, False, (int(direct), int(direct) + (256 << 20)))


def test_a_whole_dump_lacks_none() -> None:
    assert lost(lab_host("default")) == []


def test_a_table_that_was_left_out_is_found(tmp_path: Path) -> None:
    dump = lab_dump("default")
    where = without_a_page_table(dump, tmp_path / "vmcore")
    holed = open_core(tmp_path / "vmcore", [dump.vmlinux])
    assert lost(holed) == [(where, where + (2 << 20))]
