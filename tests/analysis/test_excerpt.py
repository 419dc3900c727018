"""Memory pasted from crash or gdb into a ticket."""

from __future__ import annotations

from contextlib import suppress

import pytest

from crashext.analysis.excerpt import compare_text
from crashext.analysis.settings import Settings
from crashext.hosts.base import HostError
from crashext.procfs.memorytext import parse
from tests.fake import word

SETTINGS = Settings(1000, 0, 0.7, "hamming", 0)
START = 0xFFFF88031E138000

RD = """\
crash> rd ffff88031e138000 6
ffff88031e138000:  ffff882f59bade00 dead000000100100   ...Y/...........
ffff88031e138010:  dead000000200200 ffffffff81a2b3c0   .. .............
ffff88031e138020:  0000000000000005 6f6e5f3474786500   .........ext4_no
crash>
"""
RD_WORDS = (
    0xFFFF882F59BADE00,
    0xDEAD000000100100,
    0xDEAD000000200200,
    0xFFFFFFFF81A2B3C0,
    5,
    0x6F6E5F3474786500,
)


def test_crash_s_rd_is_read_without_its_ascii_column() -> None:
    found = parse(RD)
    assert found.pieces == ((START, word(*RD_WORDS)),)
    assert found.ignored == 2


def test_gdb_s_giant_words_are_read() -> None:
    found = parse(
        "(gdb) x/4gx 0xffff88031e138000\n"
        "0xffff88031e138000:\t0xffff882f59bade00\t0xdead000000100100\n"
        "0xffff88031e138010 <init_task+16>:\t0xdead000000200200\t0xffffffff81a2b3c0\n"
    )
    assert found.pieces == ((START, word(*RD_WORDS[:4])),)
    assert found.ignored == 1


def test_gdb_s_words_are_read_in_memory_s_order() -> None:
    found = parse("0xffff88031e138000:\t0x59bade00\t0xffff882f\t0x00100100\t0xdead0000\n")
    assert found.pieces == ((START, word(*RD_WORDS[:2])),)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_rd_of_any_word_size_is_the_same_memory(size: int) -> None:
    data = bytes(range(0x80, 0x90))
    words = [data[i : i + size][::-1].hex() for i in range(0, 16, size)]
    found = parse(f"ffff88031e138000:  {' '.join(words)}   ................\n")
    assert found.pieces == ((START, data),)


@pytest.mark.parametrize(
    "column", ["deadbeefdeadbeef", "0123456789abcdef", "dead beef 0 1234", "cafe", "ab cd ef 01 23"]
)
def test_an_ascii_column_that_looks_like_hex_is_text(column: str) -> None:
    line = f"ffff88031e138000:  6665656264616564 6665656264616564   {column}\n"
    assert parse(line).pieces == ((START, b"deadbeefdeadbeef"),)
    short = f"ffff88031e138010:  6665656264616564                    {column[:8]}\n"
    assert parse(short).pieces == ((START + 16, b"deadbeef"),)


@pytest.mark.parametrize(
    ("words", "column", "data"),
    [
        ("64616564 66656562", "deadbeef", b"deadbeef"),  # rd -32, two words on the last line
        ("6665 6465", "efed", b"efed"),  # rd -16
        ("61 62", "ab", b"ab"),  # rd -8
    ],
)
def test_an_ascii_column_beside_short_words_is_text_too(
    words: str, column: str, data: bytes
) -> None:
    assert parse(f"ffff88031e138000:  {words:<36}   {column}\n").pieces == ((START, data),)


def test_a_gap_starts_another_piece() -> None:
    found = parse(
        "ffff88031e138000:  0000000000000001 0000000000000002\n"
        "ffff88031e138040:  0000000000000003 0000000000000004\n"
        "ffff88031e138050:  0000000000000005\n"
    )
    assert found.pieces == ((START, word(1, 2)), (START + 0x40, word(3, 4, 5)))


def test_a_name_in_place_of_a_word_keeps_its_place() -> None:
    """rd -s and -S print names: the value is not known, but its place is."""
    found = parse(
        "ffff88031e138000:  0000000000000001 init_task+16\n"
        "ffff88031e138010:  [kmalloc-64]     0000000000000002\n"
        "ffff88031e138020:  0000000000000003 0000000000000004\n"
    )
    assert found.pieces == ((START, word(1, 0, 0, 2, 3, 4)),)
    assert found.names == {
        START + 8: ("init_task+16", False),
        START + 16: ("[kmalloc-64]", False),
    }
    assert found.ignored == 0


def test_rd_with_the_addresses_of_its_slab_pointers() -> None:
    """rd -SS: the whole value is there, beside the cache's name."""
    found = parse("ffff88031e138000:  [ffff882f59bade00:kmalloc-256] dead000000100100 \n")
    assert found.pieces == ((START, word(*RD_WORDS[:2])),)
    assert found.names == {START: ("[kmalloc-256]", True)}


OBJECTS = """\
crash> rd -S ffff88031e138000 8
ffff88031e138000:  [size-256]       dead000000100100
ffff88031e138010:  dead000000200200 tcp_v4_rcv+16
ffff88031e138020:  [size-256]       dead000000100100
ffff88031e138030:  dead000000200200 tcp_v4_rcv+16
"""


def test_a_name_without_a_value_is_never_a_number() -> None:
    report = compare_text(OBJECTS, 32, SETTINGS)
    for subject in report.subjects:
        first, _, _, last = subject.words
        assert (first.kind, first.value, first.shown) == ("slab-pointer", 0, False)
        assert first.meaning == "[size-256] slab pointer, value not in the text"
        assert (last.kind, last.value, last.shown) == ("text-symbol", 0, False)
        assert last.meaning == "tcp_v4_rcv+16, value not in the text"
    assert report.pairs[0].differing == ()


BYTES = word(*RD_WORDS[:4])


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (  # hexdump -C
            "00000000  00 de ba 59 2f 88 ff ff  00 01 10 00 00 00 ad de  |...Y/...........|\n"
            "00000010  00 02 20 00 00 00 ad de  c0 b3 a2 81 ff ff ff ff  |.. .............|\n"
            "00000020\n",
            0,
        ),
        (  # hexdump
            "0000000 de00 59ba 882f ffff 0100 0010 0000 dead\n"
            "0000010 0200 0020 0000 dead b3c0 81a2 ffff ffff\n0000020\n",
            0,
        ),
        (  # xxd
            "00000000: 00de ba59 2f88 ffff 0001 1000 0000 adde  ...Y/...........\n"
            "00000010: 0002 2000 0000 adde c0b3 a281 ffff ffff  .. .............\n",
            0,
        ),
        (  # xxd -e -g8, which says by its characters that it is little-endian
            "00000000: ffff882f59bade00 dead000000100100  ...Y/...........\n"
            "00000010: dead000000200200 ffffffff81a2b3c0  .. .............\n",
            0,
        ),
        (  # xxd -g8, which says that it is not
            "00000000: 00deba592f88ffff 000110000000adde  ...Y/...........\n"
            "00000010: 000220000000adde c0b3a281ffffffff  .. .............\n",
            0,
        ),
        (  # od -A x -t x8, and od -t x2 with its octal offsets
            "000000 ffff882f59bade00 dead000000100100\n"
            "000010 dead000000200200 ffffffff81a2b3c0\n000020\n",
            0,
        ),
        (
            "0000000 de00 59ba 882f ffff 0100 0010 0000 dead\n"
            "0000020 0200 0020 0000 dead b3c0 81a2 ffff ffff\n0000040\n",
            0,
        ),
        (  # gdb x/4gx, x/4xa
            "0xffff88031e138000:\t0xffff882f59bade00\t0xdead000000100100\n"
            "0xffff88031e138010 <a+16>:\t0xdead000000200200\t0xffffffff81a2b3c0 <b+4>\n",
            START,
        ),
        (  # gdb x/32xb
            "0xffff88031e138000:\t0x00\t0xde\t0xba\t0x59\t0x2f\t0x88\t0xff\t0xff\n"
            "0xffff88031e138008:\t0x00\t0x01\t0x10\t0x00\t0x00\t0x00\t0xad\t0xde\n"
            "0xffff88031e138010:\t0x00\t0x02\t0x20\t0x00\t0x00\t0x00\t0xad\t0xde\n"
            "0xffff88031e138018:\t0xc0\t0xb3\t0xa2\t0x81\t0xff\t0xff\t0xff\t0xff\n",
            START,
        ),
        (  # kmemleak
            "unreferenced object 0xffff88031e138000 (size 64):\n"
            '  comm "x", pid 1, jiffies 4294667980\n'
            "  hex dump (first 32 bytes):\n"
            "    00 de ba 59 2f 88 ff ff 00 01 10 00 00 00 ad de  ...Y/...........\n"
            "    00 02 20 00 00 00 ad de c0 b3 a2 81 ff ff ff ff  .. .............\n"
            "  backtrace (crc 84021ac):\n    kmemleak_alloc+0x3c/0x50\n",
            START,
        ),
        (  # SLUB
            "[   12.3] Redzone  ffff88031e137ff0: bb bb bb bb bb bb bb bb bb bb bb bb bb bb bb bb\n"
            "[   12.3] Object   ffff88031e138000: 00 de ba 59 2f 88 ff ff 00 01 10 00 00 00 ad de"
            "  ...Y/...........\n"
            "[   12.3] Object   ffff88031e138010: 00 02 20 00 00 00 ad de c0 b3 a2 81 ff ff ff ff"
            "  .. .............\n",
            START,
        ),
        (  # print_hex_dump with a prefix
            "[   12.3] skb: ffff88031e138000: 00 de ba 59 2f 88 ff ff 00 01 10 00 00 00 ad de\n"
            "[   12.3] skb: ffff88031e138010: 00 02 20 00 00 00 ad de c0 b3 a2 81 ff ff ff ff\n",
            START,
        ),
        (  # drgn
            ">>> prog.read(0xffff88031e138000, 32)\n"
            "b'\\x00\\xde\\xbaY/\\x88\\xff\\xff\\x00\\x01\\x10\\x00\\x00\\x00\\xad\\xde"
            "\\x00\\x02 \\x00\\x00\\x00\\xad\\xde\\xc0\\xb3\\xa2\\x81\\xff\\xff\\xff\\xff'\n",
            START,
        ),
        (  # drgn's print_annotated_memory()
            "ADDRESS           VALUE\n"
            "ffff88031e138000: ffff882f59bade00 [slab object: kmalloc-256+0x0]\n"
            "ffff88031e138008: dead000000100100\nffff88031e138010: dead000000200200\n"
            "ffff88031e138018: ffffffff81a2b3c0 [function symbol: foo+0x0]\n",
            START,
        ),
        (  # volatility's db()
            "0xffff88031e138000    00 de ba 59 2f 88 ff ff 00 01 10 00 00 00 ad de    ...Y/....\n"
            "0xffff88031e138010    00 02 20 00 00 00 ad de c0 b3 a2 81 ff ff ff ff    .. ......\n",
            START,
        ),
    ],
)
def test_the_same_memory_as_every_tool_prints_it(text: str, start: int) -> None:
    assert parse(text).pieces == ((start, BYTES),)
    quoted = "".join(f"> {line}\r\n" for line in text.splitlines())
    assert parse(quoted).pieces == ((start, BYTES),)


def test_a_star_repeats_the_line_before() -> None:
    found = parse(
        "00000000  01 00 00 00 00 00 00 00  02 00 00 00 00 00 00 00  |................|\n*\n"
        "00000030  03 00 00 00 00 00 00 00  04 00 00 00 00 00 00 00  |................|\n"
    )
    assert found.pieces == ((0, word(1, 2, 1, 2, 1, 2, 3, 4)),)


def test_words_that_may_be_either_way_round_are_said() -> None:
    text = "00000000: ffff882f59bade00 dead000000100100\n"
    assert parse(text).assumed == 1
    assert any(s.what == "lines of words" for s in compare_text(text, 16, SETTINGS).skipped)


def test_lines_that_show_no_memory_are_counted_and_empty_ones_are_not() -> None:
    found = parse("\n\n  \nHello,\nffff88031e138000: nothing here\nfff: 00\n\x1b[31m0: 1\n")
    assert (found.pieces, found.ignored) == ((), 4)


@pytest.mark.parametrize("text", ["", "\n\n", "no memory at all", "ffff88031e138000:"])
def test_text_without_memory_is_refused(text: str) -> None:
    with pytest.raises(HostError, match="no memory in this text"):
        compare_text(text, 32, SETTINGS)


@pytest.mark.parametrize("size", [49, 4096, 1 << 62])
def test_a_size_that_no_piece_holds_is_refused(size: int) -> None:
    with pytest.raises(HostError, match="no whole object"):
        compare_text(RD, size, SETTINGS)


def lines(data: list[int], start: int = START) -> str:
    """Words as rd prints them."""
    rows = [data[i : i + 2] for i in range(0, len(data), 2)]
    return "".join(
        f"{start + 16 * i:016x}:  {' '.join(f'{v:016x}' for v in row)}   ....\n"
        for i, row in enumerate(rows)
    )


def test_objects_are_cut_from_the_start_of_each_piece_and_the_rest_is_said() -> None:
    """48 bytes in objects of 20: two, and 8 bytes over."""
    report = compare_text(RD, 20, SETTINGS)
    assert [s.address for s in report.subjects] == [START, START + 20]
    assert [len(s.words) for s in report.subjects] == [3, 3]
    assert [w.size for w in report.subjects[0].words] == [8, 8, 4]
    assert [(s.what, s.count) for s in report.skipped] == [
        ("lines without memory", 2),
        ("bytes after the last whole object", 8),
    ]


def test_alike_objects_in_a_text_are_one_group_and_counted_exactly() -> None:
    nodes = [
        v for i in range(40) for v in (START + 0x10000 + i, 0xDEAD000000100100, 0xFEED0000 + i, 7)
    ]
    report = compare_text(lines(nodes), 32, SETTINGS)
    (group,) = report.groups
    assert (group.sampled, group.objects.estimate, group.objects.exact) == (40, 40, True)
    assert (group.lowest, group.highest) == (START, START + 32 * 39)
    assert report.subjects == ()
    assert not report.skipped


def test_two_objects_in_a_text_are_compared_word_by_word() -> None:
    report = compare_text(lines([START + 64, 5, 9, 0, START + 128, 5, 8, 0]), 32, SETTINGS)
    (pair,) = report.pairs
    assert (pair.first, pair.second) == (START, START + 32)
    assert pair.differing == (16,)


def test_one_object_alone_is_decoded() -> None:
    report = compare_text(lines([0xDEAD000000100100, 0]), 16, SETTINGS)
    assert [w.kind for w in report.subjects[0].words] == ["list-poison", "zero"]
    assert (report.pairs, report.groups) == ((), ())


def test_memory_at_the_end_of_the_address_space_is_compared_or_refused() -> None:
    text = "fffffffffffffff8:  0000000000000001 0000000000000002\n"
    with suppress(HostError):
        assert len(compare_text(text, 8, SETTINGS).subjects) <= 2
