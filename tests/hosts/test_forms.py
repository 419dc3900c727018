"""Every form of a compressed kdump is read as drgn reads the one by makedumpfile: packed by zlib,
lzo, snappy or zstd, with and without names in its header, flattened, and cut off."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from crashext.hosts import decompress, kdumpfile
from crashext.hosts.base import HostError
from crashext.hosts.drgn import open_core
from crashext.hosts.dumpfile import PAGE_DESC, examine
from crashext.hosts.flattened import open_dump
from crashext.hosts.physical import PhysicalMemory
from crashext.hosts.readers import open_readers
from tests.conftest import lab_dump
from tests.hosts.recompressed import cut, flattened, packer, recompressed, say_packed, without_names

PAGE = 4096
PACKED = tuple(decompress.LIBRARIES)
Change = Callable[[Path], Path]


def changed(folder: Path, form: str, changes: Sequence[Change]) -> Path:
    path = folder / "vmcore"
    if form == "zlib":
        shutil.copyfile(lab_dump("default").d31, path)
    else:
        recompressed(lab_dump("default").d31, path, form)
    for change in changes:
        change(path)
    return path


def cut_off(path: Path) -> Path:
    return cut(path, 0.8)


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        ("lzo", ()),
        ("snappy", (without_names,)),
        ("zstd", (without_names, flattened)),
        ("zlib", (flattened,)),
        ("zlib", (without_names, cut_off)),
        ("zlib", (cut_off,)),
        ("zlib", (flattened, cut_off)),
        ("lzo", (without_names, flattened, cut_off)),
    ],
)
def test_pages_are_those_of_the_dump_it_was_made_of(
    tmp_path: Path, form: str, changes: tuple[Change, ...]
) -> None:
    path = changed(tmp_path, form, changes)
    file, original = examine(path), examine(lab_dump("default").d31).present
    assert file.present is not None
    assert original is not None
    assert file.flattened == (flattened in changes)
    assert bool(file.damage) == (cut_off in changes)
    assert (file.present == original) == (cut_off not in changes)
    whole, mine = PhysicalMemory(lab_dump("default").d31), PhysicalMemory(path)
    readers = open_readers(path, file, lambda address: address, 2)
    assert len(readers) == 2
    frames = [f for a, b in original for f in range(a, b, PAGE)]
    chosen = np.random.default_rng(1).choice(frames, 300).tolist()
    # Where memory begins and ends, in pieces of one page and of more.
    chosen += [edge + at for pair in original[:40] for edge in pair for at in (-PAGE, 0)]
    reads = [(at, size) for at in chosen if at >= 0 for size in (8, PAGE, 9 * PAGE + 8)]

    def side_by_side(number: int) -> list[bytes | None]:
        data = (readers[number].read(at, size) for at, size in reads)
        return [None if piece is None else bytes(piece) for piece in data]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(side_by_side, range(2)))
    there = 0
    for (at, size), one, two in zip(reads, *found, strict=True):
        here = any(a <= at and at + size <= b for a, b in file.present)
        there += here
        expected = whole.read(at, size) if here else None
        assert one == two == expected
        assert mine.read(at, size) == expected
    assert there > 300


@pytest.mark.parametrize("form", PACKED)
def test_without_its_library_one_line_says_what_to_install(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed(tmp_path, "zlib", (without_names,))
    with path.open("r+b") as file:
        head = bytearray(file.read(464))
        say_packed(head, form)
        file.seek(0)
        file.write(head)
    monkeypatch.setattr(kdumpfile, "unpacker", lambda form: None)
    with pytest.raises(
        HostError, match=rf"with {form}, and lib{form[:3]}.* not on this"
    ) as refused:
        open_core(path, (lab_dump("default").vmlinux,))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("form", PACKED)
def test_a_damaged_page_is_none(form: str) -> None:
    page = bytes(range(256)) * 16
    packed, unpack = packer(form)(page), decompress.unpacker(form)
    assert unpack is not None
    assert unpack(packed, PAGE) == page
    assert unpack(packed[: len(packed) // 2], PAGE) is None
    assert unpack(b"\xff" * 64, PAGE) is None
    assert unpack(packed, PAGE - 1) is None  # longer than there is room for


def test_a_page_that_would_never_end_is_none() -> None:
    import zlib

    unpack = decompress.unpacker("zlib")
    assert unpack is not None
    assert unpack(zlib.compress(bytes(1 << 24)), PAGE) is None
    assert unpack(zlib.compress(bytes(PAGE)), PAGE) == bytes(PAGE)


@pytest.mark.parametrize("options", [("-d", "31", "-c"), ("-d", "31", "-l"), ("-d", "31", "-E")])
def test_a_flattened_file_of_makedumpfile_is_what_it_stands_for(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    flat, whole = tmp_path / "flat", tmp_path / "whole"
    core = lab_dump("healthy").vmcore
    with flat.open("wb") as file:
        made: list[str | Path] = ["makedumpfile", "-F", *options, core]
        subprocess.run(made, stdout=file, stderr=subprocess.DEVNULL, check=True)
    with flat.open("rb") as file:
        subprocess.run(["makedumpfile", "-R", whole], stdin=file, check=True, capture_output=True)
    expected = whole.read_bytes()
    with open_dump(flat) as file:
        data = file.read()
        # An ELF file of makedumpfile ends in a hole, which no write says.
        assert data == expected[: len(data)]
        assert not any(expected[len(data) :])
        for at in np.random.default_rng(2).integers(0, len(data), 200).tolist():
            file.seek(at)
            assert file.read(70_000) == data[at : at + 70_000]
    assert examine(flat).present == examine(whole).present
    with flat.open("r+b") as file:
        file.truncate(flat.stat().st_size * 4 // 5)
    if "-E" in options:
        with pytest.raises(HostError, match="headers of a flattened ELF file are written last"):
            examine(flat)
    else:
        assert examine(flat).damage.startswith("truncated")


def test_a_flattened_file_whose_writes_are_nonsense_has_what_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "flat"
    head = b"makedumpfile\0\0\0\0".ljust(4096, b"\0")
    write = (5).to_bytes(8, "big") + (3).to_bytes(8, "big") + b"abc"
    for behind in (
        b"",
        b"\xff" * 15,
        (1).to_bytes(8, "big") + (-7).to_bytes(8, "big", signed=True),
    ):
        path.write_bytes(head + write + behind + b"zzzz")
        with open_dump(path) as file:
            assert file.read() == bytes(5) + b"abc"
    path.write_bytes(head + write[:-1])
    with open_dump(path) as file:
        assert file.read() == bytes(5) + b"ab"


_READ_ALL = """
import sys
from pathlib import Path
import drgn
from crashext.hosts.unusual import guard
core = Path(sys.argv[1])
program = drgn.Program()
program.set_core_dump(core)
guard(program, core)
read = 0
for page in range(0, int(sys.argv[2]), 4096):
    try:
        read += len(program.read(page, 4096, True)) // 4096
    except drgn.FaultError:
        pass
print(read)
"""


@pytest.mark.parametrize("share", [0.79, 0.8, 0.81, 0.9])
def test_what_somebody_has_open_in_drgn_ends_nobody_where_the_file_ends(
    tmp_path: Path, share: float
) -> None:
    """Unguarded, at 0.8, by SIGBUS: a page past the end in a window that was mapped."""
    path = changed(tmp_path, "zlib", (lambda path: cut(path, share),))
    present = examine(path).present
    assert present is not None
    done = subprocess.run(
        [sys.executable, "-c", _READ_ALL, path, str(present[-1][1] + (32 << 20))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == sum(end - start for start, end in present) // PAGE


@pytest.mark.parametrize("form", PACKED)
def test_pages_unpacked_at_once_are_those_unpacked_one_by_one(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, built = Path(decompress.__file__).with_name("unpack.c"), tmp_path / "unpack.so"
    flags = ["-O3", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, "-o", str(built), str(source)], check=True)
    together = decompress.load(built)
    assert together is not None
    asked: list[int] = []

    def counted(*arguments: object) -> int:
        asked.append(together(*arguments))
        return asked[-1]

    path = changed(tmp_path, form, ())
    present = examine(path).present
    assert present is not None
    pieces = [(at, min(1 << 20, b - at)) for a, b in present for at in range(a, b, 1 << 20)][::8]
    monkeypatch.setattr(decompress, "_together", lambda: counted)
    at_once = [kdumpfile.KdumpFile(path).read(*piece) for piece in pieces]
    assert len(asked) > 5
    monkeypatch.setattr(decompress, "_together", lambda: None)
    assert at_once == [kdumpfile.KdumpFile(path).read(*piece) for piece in pieces]
    # A damaged page ends it, and is looked at alone.
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + (1 << 16)] = b"\xff" * (1 << 16)
    path.write_bytes(damaged)
    alone = [kdumpfile.KdumpFile(path).read(*piece) for piece in pieces]
    monkeypatch.setattr(decompress, "_together", lambda: counted)
    assert [kdumpfile.KdumpFile(path).read(*piece) for piece in pieces] == alone


@pytest.mark.parametrize("form", PACKED)
@pytest.mark.parametrize("offset", [1 << 40, (1 << 63) - 256, 1 << 63, (1 << 64) - 8])
def test_places_that_no_file_has_cost_their_pages(tmp_path: Path, form: str, offset: int) -> None:
    """As sums of 64 bits they come round."""
    path = changed(tmp_path, form, ())
    present = examine(path).present
    assert present is not None
    start = next(a for a, b in present if b - a > 64 * PAGE)
    before = sum(b - a for a, b in present if b <= start) // PAGE
    with path.open("r+b") as file:
        block, sub, blocks = struct.unpack_from("<iiI", file.read(464), 428)
        for row in (3, 7):
            file.seek((1 + sub + blocks) * block + (before + row) * PAGE_DESC.itemsize)
            file.write(struct.pack("<Q", offset))
    dump, whole = kdumpfile.KdumpFile(path), PhysicalMemory(lab_dump("default").d31)
    assert dump.read(start, 64 * PAGE) is None
    assert dump.read(start + 7 * PAGE, 8) is None
    for at, size in ((start, 3 * PAGE), (start + 8 * PAGE, 56 * PAGE)):
        assert dump.read(at, size) == whole.read(at, size)


def test_without_a_compiler_pages_are_unpacked_one_by_one(tmp_path: Path) -> None:
    assert decompress.load(tmp_path / "missing.so") is None
