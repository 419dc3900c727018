"""What a dump file's headers say, and that files which are no dump are told so in one line."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from crashext.hosts.base import HostError
from crashext.hosts.dumpfile import build_id, examine

ET_EXEC, ET_CORE = 2, 4
PT_LOAD, PT_NOTE = 1, 4
BLOCK = 4096
NOT_RAM = (1 << 64) - 1

Segment = tuple[int, int, int, int]
"""(p_type, p_offset, p_paddr, p_filesz)"""


def elf(segments: Iterable[Segment], length: int, kind: int = ET_CORE) -> bytes:
    """An ELF file of `length` bytes with these program headers and no sections."""
    headers = b"".join(
        struct.pack("<IIQQQQQQ", t, 6, offset, paddr | 0xFFFF888000000000, paddr, size, size, 0)
        for t, offset, paddr, size in segments
    )
    head = b"\x7fELF\2\1\1" + bytes(9)
    count = len(headers) // 56
    head += struct.pack("<HHIQQQIHHHHHH", kind, 62, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    return (head + headers).ljust(length, b"\0")


def kdump(
    written: Iterable[int],
    existing: Iterable[int] = (),
    frames: int = 4096,
    version: int = 5,
    bitmaps: int = 2,
    **header: int,
) -> bytes:
    """A compressed kdump of a machine of `frames` page frames; `header` overrides its fields."""
    pages = sorted(written)
    one = -(-frames // (8 * BLOCK)) * BLOCK

    def bitmap(held: Iterable[int]) -> bytes:
        bits = bytearray(one)
        for pfn in held:
            bits[pfn // 8] |= 1 << pfn % 8
        return bytes(bits)

    fields = {
        "block": BLOCK,
        "sub_blocks": 1,
        "bitmap_blocks": bitmaps * one // BLOCK,
        "max_mapnr": frames,
        **header,
    }
    head = (b"KDUMP   " + struct.pack("<i", version)).ljust(428, b"\0")
    head += struct.pack("<iiII", *fields.values())
    sub = bytes(96) + struct.pack("<Q", frames)
    maps = bitmap({*pages, *existing}) + bitmap(pages) if bitmaps == 2 else bitmap(pages)
    table_at = 2 * BLOCK + len(maps)
    data_at = table_at + 24 * len(pages)
    table = b"".join(struct.pack("<QIIQ", data_at + 16 * i, 16, 0, 0) for i in range(len(pages)))
    return (
        head.ljust(BLOCK, b"\0") + sub.ljust(BLOCK, b"\0") + maps + table + bytes(16 * len(pages))
    )


def saved(folder: Path, data: bytes) -> Path:
    path = folder / "vmcore"
    path.write_bytes(data)
    return path


def refusal(look: Callable[[Path], object], path: Path) -> str:
    """What the user would be told of the file; "" where it is accepted."""
    try:
        look(path)
    except HostError as error:
        return str(error)
    return ""


CORE = elf([(PT_NOTE, 400, 0, 16), (PT_LOAD, 4096, 0x1000, 0x2000)], 4096 + 0x2000)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a kernel dump"),
        (b"Linux version 6.1.0\n" * 50, "not a kernel dump"),
        (b"KDUMP", "not a kernel dump"),
        (elf([], 64, ET_EXEC), "no core dump"),
        (CORE[:20], "damaged"),
        (CORE[:100], "damaged"),
        (b"KDUMP   " + bytes(100), "truncated"),
        (b"makedumpfile\0\0\0\0" + bytes(4096), "not a kernel dump"),  # not one write
    ],
)
def test_a_file_that_is_no_whole_dump_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(HostError, match=says) as refused:
        examine(saved(tmp_path, data))
    assert "\n" not in str(refused.value)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(HostError, match="cannot open dump"):
            examine(path)


def test_diskdump_is_left_to_the_host(tmp_path: Path) -> None:
    found = examine(saved(tmp_path, b"DISKDUMP" + bytes(4096)))
    assert found.present is None


@pytest.mark.parametrize("length", [4095, 4096, 4096 + 0xFFF])
def test_an_elf_core_that_ends_before_its_memory_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(HostError, match=r"truncated: its headers describe 12,288 bytes.*no memory"):
        examine(saved(tmp_path, CORE[:length]))


def test_an_elf_core_that_ends_early_holds_the_whole_pages_before(tmp_path: Path) -> None:
    segments = [(PT_LOAD, 4096, 0x1000, 0x1000), (PT_LOAD, 8192, 0x9000, 0x3000)]
    found = examine(saved(tmp_path, elf(segments, 20480)[: 12288 + 100]))
    assert found.present == ((0x1000, 0x2000), (0x9000, 0xA000))
    assert found.damage == (
        "truncated: its headers describe 20,480 bytes, it has 12,388; "
        "8.0 KiB of the 16.0 KiB of memory in it are missing"
    )


def test_padding_that_is_cut_off_is_no_damage(tmp_path: Path) -> None:
    segments = [(PT_LOAD, 4096, 0x1000, 0x1000), (PT_NOTE, 8192, 0, 0x1000)]
    found = examine(saved(tmp_path, elf(segments, 12288)[:8192]))
    assert (found.present, found.damage) == (((0x1000, 0x2000),), "")


def test_an_elf_core_holds_what_its_load_segments_say(tmp_path: Path) -> None:
    segments = [
        (PT_NOTE, 500, 0, 100),
        (PT_LOAD, 4096, 0x100000, 0x1000),
        (PT_LOAD, 8192, 0x1000, 0x1000),
        (PT_LOAD, 12288, 0x2000, 0x1000),  # goes on where the one above ends
        (PT_LOAD, 16384, 0x200000, 0),  # only memory, nothing in the file
        (PT_LOAD, 16384, NOT_RAM, 0x1000),  # vmalloc space of /proc/kcore
    ]
    found = examine(saved(tmp_path, elf(segments, 20480)))
    assert found.present == ((0x1000, 0x3000), (0x100000, 0x101000))


def test_random_damage_to_an_elf_core_is_an_answer_or_one_line(tmp_path: Path) -> None:
    rng = random.Random(1)
    for _ in range(300):
        data = bytearray(CORE)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(64 + 2 * 56)] = rng.randrange(256)
        data[:4] = CORE[:4]
        assert "\n" not in refusal(
            examine, saved(tmp_path, bytes(data[: rng.choice([64, 200, len(data)])]))
        )


def test_a_kdump_holds_the_pages_of_its_second_bitmap(tmp_path: Path) -> None:
    found = examine(saved(tmp_path, kdump([1, 2, 3, 9], existing=range(100))))
    assert found.present == ((0x1000, 0x4000), (0x9000, 0xA000))


def test_a_kdump_with_one_bitmap_holds_its_pages(tmp_path: Path) -> None:
    """crash reads such files too: the bitmap is too small to be two."""
    found = examine(saved(tmp_path, kdump([0, 4095 * 8], frames=BLOCK * 8, bitmaps=1)))
    assert found.present == ((0, 0x1000), (4095 * 8 * BLOCK, (4095 * 8 + 1) * BLOCK))


def test_bits_past_the_last_page_frame_are_padding(tmp_path: Path) -> None:
    data = kdump([1], frames=8)
    found = examine(saved(tmp_path, data[: 3 * BLOCK] + b"\x02\xff" + data[3 * BLOCK + 2 :]))
    assert found.present == ((0x1000, 0x2000),)


def test_a_kdump_of_version_6_counts_page_frames_in_its_sub_header(tmp_path: Path) -> None:
    # What is left in the header of a count that needs more than 32 bits does not matter.
    data = kdump([5, 4000], version=6, max_mapnr=1)
    assert examine(saved(tmp_path, data)).present == (
        (0x5000, 0x6000),
        (4000 * BLOCK, 4001 * BLOCK),
    )


def test_a_kdump_without_pages_holds_nothing(tmp_path: Path) -> None:
    assert examine(saved(tmp_path, kdump([]))).present == ()


WHOLE = kdump([1, 2, 3])


@pytest.mark.parametrize(
    "length",
    [400, BLOCK, 2 * BLOCK, 3 * BLOCK, 4 * BLOCK - 1, 4 * BLOCK, 4 * BLOCK + 71, 4 * BLOCK + 72],
    ids=lambda n: f"{n} bytes",
)
def test_a_kdump_that_ends_before_its_first_page_is_refused(tmp_path: Path, length: int) -> None:
    assert examine(saved(tmp_path, WHOLE)).present == ((0x1000, 0x4000),)
    with pytest.raises(HostError, match=f"truncated: .* it has {length:,}[;:]"):
        examine(saved(tmp_path, WHOLE[:length]))


def test_a_kdump_that_ends_early_holds_the_pages_before(tmp_path: Path) -> None:
    found = examine(saved(tmp_path, WHOLE[:-1]))
    assert found.present == ((0x1000, 0x3000),)
    assert found.damage == (
        f"truncated: its headers describe {len(WHOLE):,} bytes, it has {len(WHOLE) - 1:,}; "
        "4.0 KiB of the 12.0 KiB of memory in it are missing"
    )
    assert examine(saved(tmp_path, WHOLE)).damage == ""


def test_pages_in_the_hole_of_a_kdump_are_missing(tmp_path: Path) -> None:
    """makedumpfile leaves such pages where it had no room, and sets a flag in the header."""
    data = bytearray(WHOLE)
    data[4 * BLOCK + 24 : 4 * BLOCK + 48] = bytes(24)
    for status, says in ((8, "incomplete: makedumpfile found no space"), (1, "damaged")):
        data[424:428] = struct.pack("<I", status)
        found = examine(saved(tmp_path, bytes(data)))
        assert found.present == ((0x1000, 0x2000), (0x3000, 0x4000))
        assert found.damage.startswith(says)


def test_a_kdump_whose_flag_says_incomplete_and_that_lacks_nothing_is_whole(tmp_path: Path) -> None:
    data = bytearray(WHOLE)
    data[424:428] = struct.pack("<I", 8)
    assert examine(saved(tmp_path, bytes(data))).damage == ""


@pytest.mark.parametrize(
    "header",
    [
        {"block": 0},
        {"block": -4096},
        {"block": 1 << 30},
        {"sub_blocks": 0},
        {"sub_blocks": -1},
        {"sub_blocks": 0x7FFFFFFF},
        {"bitmap_blocks": 0xFFFFFFFF},
        {"max_mapnr": 0},
    ],
    ids=str,
)
def test_a_kdump_header_that_makes_no_sense_is_damage(
    tmp_path: Path, header: dict[str, int]
) -> None:
    with pytest.raises(HostError, match="damaged kdump"):
        examine(saved(tmp_path, kdump([1, 2, 3], (), 4096, 5, 2, **header)))


def test_a_page_past_the_end_of_the_address_space_is_missing_data(tmp_path: Path) -> None:
    data = bytearray(WHOLE)
    data[4 * BLOCK : 4 * BLOCK + 8] = struct.pack("<Q", (1 << 64) - 8)
    assert examine(saved(tmp_path, bytes(data))).present == ((0x2000, 0x4000),)


def test_a_kdump_of_a_large_machine_takes_little_memory(tmp_path: Path) -> None:
    """1 TiB has 2**28 page frames: a few bytes for each are the whole budget of 500 MB."""
    frames = 1 << 21
    path = saved(tmp_path, kdump([5], frames=frames))
    tracemalloc.start()
    try:
        examine(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak / frames < 4


def test_random_damage_to_a_kdump_is_an_answer_or_one_line(tmp_path: Path) -> None:
    rng = random.Random(2)
    places = [*range(8, 12), *range(428, 444), *range(4 * BLOCK, 4 * BLOCK + 72)]
    for _ in range(300):
        data = bytearray(WHOLE)
        for _ in range(rng.randint(1, 4)):
            data[rng.choice(places)] = rng.randrange(256)
        assert "\n" not in refusal(examine, saved(tmp_path, bytes(data)))


def with_build_id(note_name: bytes = b"GNU\0", note_type: int = 3) -> bytes:
    """An ELF executable whose only section of substance is .note.gnu.build-id."""
    names = b"\0.note.gnu.build-id\0.shstrtab\0"
    note = struct.pack("<III", 4, 4, note_type) + note_name + b"\xde\xad\xbe\xef"
    at_note, at_names = 64, 64 + len(note)
    at_table = at_names + len(names)
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", ET_EXEC, 62, 1, 0, 0, at_table, 0, 64, 0, 0, 64, 3, 2)
    sections = [
        (0, 0, 0, 0),
        (1, 7, at_note, len(note)),
        (20, 3, at_names, len(names)),
    ]
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, 0, 0, 4, 0)
        for name, kind, offset, size in sections
    )
    return head + note + names + table


def test_the_build_id_of_an_elf_file_is_its_note(tmp_path: Path) -> None:
    assert build_id(saved(tmp_path, with_build_id())) == "deadbeef"


def test_an_elf_file_without_the_note_has_no_build_id(tmp_path: Path) -> None:
    assert build_id(saved(tmp_path, CORE)) is None
    assert build_id(saved(tmp_path, with_build_id(note_type=1))) is None
    assert build_id(saved(tmp_path, with_build_id(note_name=b"Xen\0"))) is None  # XEN_ELFNOTE_ENTRY


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"no ELF at all" * 20, with_build_id()[:150]])
def test_what_is_no_elf_file_has_no_build_id_to_give(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(HostError, match="not an ELF debug file"):
        build_id(saved(tmp_path, data))


def test_a_debug_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "vmlinux", tmp_path):
        with pytest.raises(HostError, match=str(path)):
            build_id(path)


def test_a_note_whose_name_does_not_end_is_damage(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="not an ELF debug file"):
        build_id(saved(tmp_path, with_build_id(note_name=b"GNU!")))


def test_random_damage_to_a_debug_file_is_an_answer_or_one_line(tmp_path: Path) -> None:
    rng = random.Random(3)
    for _ in range(300):
        data = bytearray(with_build_id())
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(4, len(data))] = rng.randrange(256)
        assert "\n" not in refusal(build_id, saved(tmp_path, bytes(data)))
