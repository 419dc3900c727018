"""Archives that a stranger made: none of them is unpacked to the disk, and none takes long.

Bombs, links, devices, names that lead out, headers of headers, more members than anybody has,
damaged and cut off.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crashext.procfs import archive
from tests.conftest import run
from tests.end_to_end.test_pastes import CASES, first

MEMINFO = (CASES / "percpu/meminfo").read_bytes()
HOLDS = "per-CPU memory has 17.1 GiB"
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, 6),
    "xz": lambda data: lzma.compress(data, preset=0),
    "bz2": lambda data: bz2.compress(data, 1),
}


@pytest.fixture(autouse=True)
def _writes_nothing_and_is_quick(tmp_path: Path) -> Iterator[None]:
    begun = time.process_time()
    yield
    assert time.process_time() - begun < 5
    assert {p.name for p in tmp_path.iterdir()} <= {"archive", "outside"}


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(data))


def made(path: Path, fill: Callable[[tarfile.TarFile], None], form: str = "") -> Path:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        fill(tar)
    path.write_bytes(PACKERS[form](held.getvalue()) if form else held.getvalue())
    return path


def zeros(form: str, mib: int) -> bytes:
    """`mib` MiB of zeros, packed: streams of 64 MiB one after the other unpack as one."""
    return PACKERS[form](bytes(64 << 20)) * (mib // 64)


@pytest.mark.parametrize("form", PACKERS)
def test_a_bomb_is_given_up(form: str, tmp_path: Path) -> None:
    """A tar whose second member is of 2 GiB, which nobody could want whole."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        add(tar, "sosreport-host/proc/meminfo", MEMINFO)
        member = tarfile.TarInfo("sosreport-host/var/log/huge.bin")
        member.size = 2 << 30
        tar.fileobj.write(member.tobuf())
        data = held.getvalue()
    (tmp_path / "archive").write_bytes(PACKERS[form](data) + zeros(form, 512))
    ran = run("leakscan", tmp_path / "archive")
    assert HOLDS in first(ran.out) if ran.status == 0 else "more than 200 times" in ran.err
    assert "more than 200 times its size" in " ".join((ran.out + ran.err).split())


@pytest.mark.parametrize("form", PACKERS)
def test_a_single_packed_text_is_read_to_its_limit(form: str, tmp_path: Path) -> None:
    """Zeros beyond what is ever read: not unpacked at all."""
    (tmp_path / "archive").write_bytes(PACKERS[form](MEMINFO) + zeros(form, 512))
    ran = run("leakscan", tmp_path / "archive")
    assert ran.status in (0, 2)
    assert len(ran.err.splitlines()) == (ran.status == 2)


def test_links_devices_and_ways_out_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(MEMINFO.replace(b"Percpu:", b"Perfoo:"))

    def fill(tar: tarfile.TarFile) -> None:
        outside = str(tmp_path / "outside")
        add(tar, "h/proc/meminfo", MEMINFO)
        for name in ("../meminfo", "/etc/meminfo", "h/../../slabinfo", "h/proc/../../meminfo"):
            add(tar, name, b"MemTotal: 1 kB\n")
        add(tar, "h/proc/slabinfo", type=tarfile.SYMTYPE, linkname=outside)
        add(tar, "h/proc/vmstat", type=tarfile.LNKTYPE, linkname=outside)
        add(tar, "h/proc/buddyinfo", type=tarfile.LNKTYPE, linkname="../../../etc/passwd")
        add(tar, "h/proc/zoneinfo", type=tarfile.FIFOTYPE)
        add(tar, "h/proc/vmallocinfo", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
        add(tar, "h/proc/kmemleak", type=tarfile.BLKTYPE, devmajor=8, devminor=0)
        add(tar, "h/node2.tar.xz", b"\xfd7zXZ\0")
        tar.addfile(tarfile.TarInfo("h/proc"))

    ran = run("leakscan", "-v", made(tmp_path / "archive", fill))
    out = " ".join(ran.out.split())
    assert HOLDS in first(ran.out)
    assert "4 archive members with .. or an absolute path; refused" in out
    assert "3 links in the archive; not followed" in out
    assert "3 devices in the archive; refused" in out
    assert "1 archive in the archive; not read" in out
    assert "read: meminfo; pages" in out


@pytest.mark.parametrize("kind", [b"L", b"K", b"x"])
def test_headers_of_headers(kind: bytes, tmp_path: Path) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "h/proc/meminfo", MEMINFO)
        for _ in range(4000):
            add(tar, "././@LongLink", b"11 path=ab\n", type=kind)
        add(tar, "h/proc/slabinfo", b"slabinfo - version: 2.1\n")

    ran = run("leakscan", made(tmp_path / "archive", fill))
    assert HOLDS in first(ran.out)
    assert "the rest of it was not read" in " ".join(ran.out.split())


@pytest.mark.parametrize("size", [1 << 33, (1 << 63) - 1])
def test_a_header_that_says_it_is_larger_than_all(size: int, tmp_path: Path) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "h/proc/meminfo", MEMINFO)
        member = tarfile.TarInfo("././@PaxHeader")
        member.type, member.size = b"x", size
        tar.fileobj.write(member.tobuf(tarfile.GNU_FORMAT))

    ran = run("leakscan", made(tmp_path / "archive", fill))
    assert ran.status in (0, 2)
    assert len(ran.err.splitlines()) == (ran.status == 2)
    assert "Traceback" not in ran.out + ran.err


def test_more_members_than_anybody_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MOST_MEMBERS", 1000)

    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "h/proc/meminfo", MEMINFO)
        for i in range(3000):
            add(tar, f"h/{i}")

    ran = run("leakscan", made(tmp_path / "archive", fill, "gz"))
    assert HOLDS in first(ran.out)
    assert "rest of the archive; left out: more than 1,000 members" in " ".join(ran.out.split())


def test_a_broken_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "h/proc/meminfo", MEMINFO)
        tar.fileobj.write(b"not a header".ljust(512, b"?"))
        add(tar, "h/proc/slabinfo", b"slabinfo - version: 2.1\n")

    ran = run("leakscan", made(tmp_path / "archive", fill))
    assert HOLDS in first(ran.out)
    assert "the rest of it was not read: it is damaged" in " ".join(ran.out.split())


@pytest.mark.parametrize("form", PACKERS)
def test_an_archive_that_is_cut_off(form: str, tmp_path: Path) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "h/proc/meminfo", MEMINFO)
        add(tar, "h/etc/x", bytes(range(256)) * 400)

    whole = made(tmp_path / "archive", fill, form).read_bytes()
    (tmp_path / "archive").write_bytes(whole[: len(whole) * 9 // 10])
    ran = run("leakscan", tmp_path / "archive")
    assert HOLDS in first(ran.out) if ran.status == 0 else len(ran.err.splitlines()) == 1
    assert "cut off" in ran.out or "not read" in ran.out or "damaged" in ran.err
