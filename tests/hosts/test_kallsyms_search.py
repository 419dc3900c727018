"""Kallsyms tables without VMCOREINFO's help: found where they are, and only where all fit."""

from __future__ import annotations

import struct

import pytest

from crashext.hosts.kallsyms_search import Tables, find_tables

STEXT = 0xFFFFFFFF81000000
GAP = 3 << 20  # of code, before the tables
MIB = 1 << 20


def aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def packed(count: int) -> tuple[bytes, list[int]]:
    """Names as scripts/kallsyms.c packs them, and where each begins."""
    out, starts = bytearray(), []
    for number in range(count):
        name = f"T\x01{number}".encode()
        starts.append(len(out))
        out += bytes([len(name)]) + name
    return bytes(out), starts


def kernel(
    count: int, *, decoy: bool = False, mark: str = "I", gap: int = GAP
) -> tuple[bytes, Tables]:
    """Read-only data with tables of `count` symbols, and where they are."""
    tokens = [b"symbol_" if i == 1 else bytes([i]) if 32 < i < 127 else b"_x" for i in range(256)]
    index, table = [], b""
    for token in tokens:
        index.append(len(table))
        table += token + b"\0"
    names, starts = packed(count)
    before = bytes(gap) + b"\x90" * 8
    if decoy:  # another array of one-letter strings
        before += b"".join(bytes([c, 0]) for c in b"0123456789abcdef")
    offsets = len(before)
    base = offsets + len(aligned(bytes(4 * count)))
    name_at = base + 16
    markers = name_at + len(aligned(names))
    marks = struct.pack(f"<{(count + 255) // 256}{mark}", *starts[::256])
    table_at = markers + len(aligned(marks))
    index_at = table_at + len(aligned(table))
    data = (
        before
        + aligned(struct.pack(f"<{count}i", *range(count)))
        + struct.pack("<QQ", STEXT, count)
        + aligned(names)
        + aligned(marks)
        + aligned(table)
        + struct.pack("<256H", *index)
    )
    found = (name_at, table_at, index_at, base + 8, offsets, base)
    return data, Tables(*(STEXT + at for at in found))


def search(data: bytes, variables: tuple[int, ...] = ()) -> Tables | None:
    def read(at: int, size: int) -> bytes:
        return data[at - STEXT :][:size].ljust(size, b"\0")

    return find_tables(read, STEXT, variables)


@pytest.mark.parametrize("count", [513, 700, 768, 1023, 1024, 2000])
@pytest.mark.parametrize("decoy", [False, True])
@pytest.mark.parametrize("mark", ["I", "Q"])  # of a long until 4.20: RHEL 8
def test_tables_are_where_they_are(count: int, decoy: bool, mark: str) -> None:
    data, truth = kernel(count, decoy=decoy, mark=mark)
    assert search(data) == truth


@pytest.mark.parametrize("variable", [0, 2 * MIB, 3 * MIB, 9 * MIB, 1 << 30])
def test_they_are_found_before_and_behind_the_first_variable(variable: int) -> None:
    data, truth = kernel(1000, decoy=True)
    assert search(data, (STEXT + variable, STEXT + 50 * MIB, 8)) == truth


def test_they_may_lie_across_what_is_read_at_once() -> None:
    _, at = kernel(300_000, gap=0)
    for table, into in ((at.token_table, 0), (at.token_table, 40), (at.token_index, 100)):
        data, truth = kernel(300_000, gap=-(table - STEXT + into) % MIB & -8)
        assert truth.token_table - truth.names > 2 * MIB
        assert search(data) == search(data, (STEXT + 9 * MIB,)) == truth


@pytest.mark.parametrize("table", ["names", "token_table", "token_index", "num_syms"])
def test_tables_that_do_not_fit_each_other_are_not_found(table: str) -> None:
    data, truth = kernel(1000)
    at = getattr(truth, table) - STEXT
    # Another letter in a token is still a token: that is for the names' own checks to find.
    wrong = 0 if table == "token_table" else data[at] ^ 0x55
    data = data[:at] + bytes([wrong]) + data[at + 1 :]
    assert search(data) is None


def test_a_kernel_without_them_has_none() -> None:
    assert search(bytes(GAP)) is None
