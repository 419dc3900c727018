"""Dumps that drgn does not open by itself give what the whole ones give."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crashext.hosts.base import HostError
from crashext.hosts.drgn import DrgnHost, open_core
from crashext.hosts.dumpfile import examine
from crashext.hosts.kdumpfile import KdumpFile
from crashext.hosts.vmcoreinfo import texts
from crashext.kernel.slab.caches import read_caches
from tests.conftest import lab_dump, lab_host

NAME = "healthy"
NOTE = (
    "OSRELEASE=3.10.0-1160.el7.x86_64\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffff81a0f160\n"
    "SYMBOL(node_online_map)=ffffffff81b49600\nSYMBOL(swapper_pg_dir)=ffffffff81a0a000\n"
    "SYMBOL(_stext)=ffffffff81000180\nKERNELOFFSET=2e000000\n"
)


def found(memory: bytes, start: int = 0x100000) -> list[str]:
    def read(at: int, size: int) -> bytes | None:
        return memory[at - start : at - start + size]

    return list(texts(read, [(start, start + len(memory))]))


@pytest.mark.parametrize("at", [0, 100, (4 << 20) - 7, (4 << 20) - len(NOTE), 5 << 20])
def test_a_note_is_found_wherever_it_is(at: int) -> None:
    memory = bytearray(9 << 20)
    memory[at : at + len(NOTE)] = NOTE.encode()
    assert found(bytes(memory)) == [NOTE]


@pytest.mark.parametrize(
    "text",
    [
        "OSRELEASE=%s\nPAGESIZE=%ld\nSYMBOL(_stext)=%lx\nA=1\nB=2\nC=3\n",  # of a program
        NOTE.replace("PAGESIZE", "PAGES"),
        NOTE.replace("_stext", "_text"),
        NOTE[:60],
        NOTE.replace("SYMBOL(swapper", "\x01YMBOL(swapper"),
    ],
)
def test_what_is_only_like_a_note_is_none(text: str) -> None:
    assert found(bytes(64) + text.encode("latin-1") + bytes(64)) == []


def test_the_same_note_counts_once_and_missing_memory_costs_what_is_in_it() -> None:
    memory = bytes(64) + NOTE.encode() + bytes(64) + NOTE.encode() + bytes(64)
    assert found(memory) == [NOTE]
    assert list(texts(lambda at, size: None, [(0, 1 << 20)])) == []


def of_kdump(folder: Path, *changes: Callable[[bytearray], None]) -> Path:
    data = bytearray(lab_dump(NAME).kdump.read_bytes())
    for change in changes:
        change(data)
    path = folder / "vmcore.kdump"
    path.write_bytes(data)
    return path


def without_names(data: bytearray) -> None:
    """As QEMU's dump-guest-memory -z leaves the header: struct new_utsname is empty."""
    data[12 : 12 + 390] = bytes(390)


def without_note(data: bytearray) -> None:
    """offset_vmcoreinfo, size_vmcoreinfo, and the notes themselves."""
    block = struct.unpack_from("<i", data, 428)[0]
    note, size, notes, whole = struct.unpack_from("<4Q", data, block + 32)
    data[block + 32 : block + 48] = bytes(16)
    data[note : note + size] = bytes(size)
    data[notes : notes + whole] = bytes(whole)


def without_elf_note(folder: Path) -> Path:
    path = folder / "vmcore"
    subprocess.run(["cp", "--sparse=always", lab_dump(NAME).vmcore, path], check=True, timeout=100)
    with path.open("r+b") as core:
        head = core.read(1 << 16)
        at = head.index(b"VMCOREINFO\0") - 12
        # A note of an owner whom nobody knows, with nothing in it.
        size = struct.unpack_from("<I", head, at + 4)[0]
        core.seek(at + 12)
        core.write(b"NOTHINGINFO".ljust(12, b"\0") + bytes(size))
    return path


def same(one: DrgnHost, two: DrgnHost) -> None:
    """Symbols, types and memory are what they are in the whole dump."""
    assert two.info().release == one.info().release
    assert two.info().arch == one.info().arch
    fields = [dict(h.info().vmcoreinfo) for h in (one, two)]
    assert fields[0].keys() - fields[1].keys() <= {"CRASHTIME"}
    assert all(fields[0][k] == v for k, v in fields[1].items())
    assert [c.name for c in read_caches(two).all] == [c.name for c in read_caches(one).all]
    base = int.from_bytes(one.read(one.address_of("page_offset_base") or 0, 8), "little")
    pages = np.random.default_rng(1).integers(256, 60_000, 400, np.uint64) << np.uint64(12)
    for size in (8, 3000):
        data = [h.read_many(pages + np.uint64(base + 1500), size) for h in (one, two)]
        assert (data[0][1] == data[1][1]).all()
        assert data[0][1].mean() > 0.9
        assert (data[0][0] == data[1][0]).all()
    assert two.present() is not None


@pytest.mark.parametrize(
    "changes",
    [(without_names,), (without_note,), (without_names, without_note)],
    ids=["no names", "no note", "neither"],
)
def test_a_kdump_without_names_or_note_opens(
    tmp_path: Path, changes: tuple[Callable[[bytearray], None], ...]
) -> None:
    path = of_kdump(tmp_path, *changes)
    same(lab_host(NAME), open_core(path, (lab_dump(NAME).vmlinux,)))


def test_an_elf_core_without_a_note_opens(tmp_path: Path) -> None:
    path = without_elf_note(tmp_path)
    same(lab_host(NAME), open_core(path, (lab_dump(NAME).vmlinux,)))


def test_pages_are_those_of_the_dump() -> None:
    """Of the filtered dump too, whose bitmap has holes."""
    dump, whole = lab_dump(NAME), lab_host(NAME)
    base = int.from_bytes(whole.read(whole.address_of("page_offset_base") or 0, 8), "little")
    for path in (dump.kdump, dump.d31):
        mine, present = KdumpFile(path), examine(path).present
        assert present is not None
        assert mine.vmcoreinfo().startswith("OSRELEASE=6.1")
        ends = [edge for pair in present for edge in pair]
        for edge in [*ends[:40], *ends[-40:]]:
            for at in (edge - 4096, edge):
                inside = any(a <= at < b for a, b in present)
                data = mine.read(at, 4096)
                assert (data is not None) == inside
                if data is not None:
                    assert data == whole.read(base + at, 4096)


def test_a_core_whose_memory_has_no_note_is_refused_in_one_line(tmp_path: Path) -> None:
    path = without_elf_note(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"OSRELEASE=6", b"OSRELEASE=x"))
    with pytest.raises(HostError, match="none is found in its memory") as refused:
        open_core(path, (lab_dump(NAME).vmlinux,))
    assert "\n" not in str(refused.value)
