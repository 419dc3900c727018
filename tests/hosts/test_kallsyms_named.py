"""What instructions name, byte by byte, and which variables cannot be where they are said to be."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.hosts.kallsyms_named import Named, named_in

BASE = 0xFFFFFFFF81000000
LOW, HIGH = BASE + (1 << 20), BASE + (1 << 21)
TARGET = LOW + 0x1238


def relative(code: str, target: int = TARGET, behind: str = "", at: int = 0) -> bytes:
    """An instruction at `at` whose displacement leads to a target; `behind` is its number."""
    head, tail = bytes.fromhex(code), bytes.fromhex(behind)
    end = BASE + at + len(head) + 4 + len(tail)
    return head + (target - end).to_bytes(4, "little", signed=True) + tail


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize(
    ("code", "behind"),
    [
        ("488b05", ""),  # mov x(%rip),%rax
        ("803d", "01"),  # cmpb $1,x(%rip)
        ("48833d", "00"),  # cmpq $0,x(%rip)
        ("48c705", "00000000"),  # movq $0,x(%rip)
        ("66c705", "0100"),  # movw $1,x(%rip)
        ("66448105", "0100"),  # with a register's extension
        ("f605", "02"),  # testb $2,x(%rip)
        ("f705", "02000000"),  # testl $2,x(%rip)
        ("f71d", ""),  # negl x(%rip)
        ("480fba2d", "05"),  # btsq $5,x(%rip)
        ("f0480fc105", ""),  # lock xadd %rax,x(%rip)
    ],
)
def test_an_instruction_names_what_its_distance_leads_to(at: int, code: str, behind: str) -> None:
    text = np.frombuffer(bytes(at) + relative(code, behind=behind, at=at) + bytes(8), np.uint8)
    assert named_in(text, BASE, LOW, HIGH).tolist() == [TARGET - LOW]


def test_whole_addresses_are_named_too_and_what_lies_elsewhere_is_not() -> None:
    mov = bytes.fromhex("48c7c7") + (TARGET & 0xFFFFFFFF).to_bytes(4, "little")
    for text in (mov + bytes(8), b"\x90" + mov + bytes(8)):
        assert named_in(np.frombuffer(text, np.uint8), BASE, LOW, HIGH).tolist() == [TARGET - LOW]
    for text in (relative("488b05", LOW - 8), relative("488b05", HIGH), relative("488b85")):
        assert not len(named_in(np.frombuffer(text + bytes(8), np.uint8), BASE, LOW, HIGH))


def named(*offsets: int) -> Named:
    return Named(LOW, HIGH, np.array(sorted(offsets), np.uint32))


def at(*offsets: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array([LOW + offset for offset in offsets], np.uint64)


@pytest.mark.parametrize("bit", range(3, 7))
def test_a_variable_that_a_flipped_bit_moved_is_elsewhere(bit: int) -> None:
    code = named(0x1000, 0x1200, 0x1300)
    moved = 0x1200 ^ 1 << bit
    found = code.elsewhere(at(0x1000, moved, 0x1300), LOW + moved)
    assert found == LOW + 0x1200


def test_one_whose_distance_lost_a_bit_is_elsewhere() -> None:
    """Of 7.2: the address has more bits changed than the distance."""
    code = named(0x1000, 0x1230, 0x1300)
    assert code.elsewhere(at(0x1000, 0x122C, 0x1300), LOW + 0x122C) == LOW + 0x1230
    assert code.elsewhere(at(0x1000, 0x1240, 0x1240), LOW + 0x1240) == LOW + 0x1230


def test_one_that_moved_onto_its_neighbour_is_elsewhere() -> None:
    code = named(0x1000, 0x1200, 0x1208)
    assert code.elsewhere(at(0x1000, 0x1208, 0x1208), LOW + 0x1208) == LOW + 0x1200


def test_what_code_names_is_where_it_is() -> None:
    code = named(0x1000, 0x1200, 0x1208, 0x1300)
    assert code.elsewhere(at(0x1000, 0x1200, 0x1300), LOW + 0x1200) is None
    # One that no code uses, and nothing near it that has no symbol.
    assert code.elsewhere(at(0x1000, 0x1200, 0x1208, 0x1280, 0x1300), LOW + 0x1280) is None
    # Two names of one variable.
    assert named(0x1200).elsewhere(at(0x1000, 0x1200, 0x1200, 0x1300), LOW + 0x1200) is None
    assert HIGH not in code
    assert LOW - 8 not in code
