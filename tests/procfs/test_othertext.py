"""Memory that is printed in another base than 16: the same 32 bytes in every form, or none at all.

Forms: gdb's x/ with d, u, o, t, c and units (gdb/printcmd.c), crash's rd -d and -D, drgn's arrays.
"""

from __future__ import annotations

import pytest

from crashext.procfs.memorytext import parse

AT = 0xFFFF888003C44000
WORDS = (0xDEADBEEF, 0xFFFF888003C44040, 1, 0)
DATA = b"".join(word.to_bytes(8, "little") for word in WORDS)


def signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def by_two(shown: list[str], between: str = "\t", after: str = ":\t") -> str:
    return (
        f"{AT:#x}{after}{shown[0]}{between}{shown[1]}\n"
        f"{AT + 16:#x}{after}{shown[2]}{between}{shown[3]}\n"
    )


CHARACTERS = "".join(
    f"{AT + i:#x} <foo+{i}>:\t"
    + "\t".join(f"{b - 256 if b > 127 else b} '\\{b:03o}'" for b in DATA[i : i + 8])
    + "\n"
    for i in range(0, 32, 8)
)
FORMS = {
    "x/4dg": "(gdb) x/4dg p\n" + by_two([str(signed(w)) for w in WORDS]),
    "x/4ug": "(gdb) x/4ug p\n" + by_two([str(w) for w in WORDS]),
    "x/4og": "(gdb) x/4og p\n" + by_two([f"0{w:o}" if w else "0" for w in WORDS]),
    "x/4tg": "(gdb) x/4tg p\n" + by_two([f"{w:064b}" for w in WORDS]),
    "x/32cb": "(gdb) x/32cb p\n" + CHARACTERS,
    "without the command": by_two([str(signed(w)) for w in WORDS]),
    "x/8uw": "(gdb) x/8uw p\n"
    + "".join(
        f"{AT + i:#x}:\t"
        + "\t".join(str(int.from_bytes(DATA[j : j + 4], "little")) for j in range(i, i + 16, 4))
        + "\n"
        for i in (0, 16)
    ),
    "rd -d": "crash> rd -d ffff888003c44000 4\n"
    + by_two([f"{signed(w):20}" for w in WORDS], " ", ":  ").replace("0x", ""),
    "drgn": f'>>> Object(prog, "u64[4]", address={AT:#x})\n'
    f"(u64 [4]){{ {WORDS[0]}, {WORDS[1]}, 1 }}\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_bytes_in_every_form(form: str) -> None:
    found = parse(FORMS[form])
    assert found.pieces == ((AT, DATA),)


@pytest.mark.parametrize(
    "text",
    [
        "(gdb) x/8d p\n0xffff888003c44000:\t1\t2\t3\t4\t5\t6\t7\t8\n",  # bytes, or halves
        "(gdb) x/2bu p\n0xffff888003c44000:\t1\t256\n",  # no byte
        "(gdb) x/2og p\n0xffff888003c44000:\t09\t1\n",  # not octal
        '(gdb) x/2s p\n0xffff888003c44000:\t"hello"\n',
        "(gdb) x/1i p\n0xffffffff81000000 <startup_64>:\tlea    0x51(%rip),%rsp\n",
    ],
)
def test_what_could_be_something_else_is_left_out(text: str) -> None:
    found = parse(text)
    assert found.pieces == ()
    assert found.ignored >= 2


def test_a_new_command_ends_what_the_last_one_asked_for() -> None:
    text = (
        "crash> rd -d ffff888003c44000 2\n"
        "ffff888003c44000:                    17                   16\n"
        "crash> rd ffff888003c44010 2\nffff888003c44010:  0000000000000017 0000000000000016\n"
    )
    ((_, data),) = parse(text).pieces
    assert [int.from_bytes(data[i : i + 8], "little") for i in range(0, 32, 8)] == [17, 16, 23, 22]
