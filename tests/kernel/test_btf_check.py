"""BTF that is not whole is refused with a reason; that of real kernels has none."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest

from crashext.kernel.btf import Btf
from crashext.kernel.btf_check import defect
from crashext.kernel.btf_layouts import BtfLayouts
from crashext.kernel.btf_memory import read_blobs
from crashext.kernel.btf_types import BtfKind
from crashext.kernel.btf_unit import parse
from tests.conftest import lab_host

INT, PTR, ARRAY, STRUCT, FUNC, PROTO = 1, 2, 3, 4, 12, 13
NAMES = b"\0int\0node\0value\0next\0frob\0"
A_INT, NODE, VALUE, NEXT, FROB = (
    NAMES.index(n) for n in (b"int", b"node", b"val", b"next", b"fro")
)


def record(name: int, kind: int, vlen: int, third: int, *rest: int) -> list[int]:
    return [name, kind << 24 | vlen, third, *rest]


WHOLE = (
    record(A_INT, INT, 0, 4, 32),  # 1
    record(NODE, STRUCT, 2, 16, VALUE, 1, 0, NEXT, 3, 64),  # 2: struct node
    record(0, PTR, 0, 2),  # 3
    record(0, ARRAY, 0, 0, 1, 1, 4),  # 4: int[4]
    record(0, PROTO, 1, 1, VALUE, 3),  # 5
    record(FROB, FUNC, 1, 5),  # 6
)


def blob(*types: list[int], text: bytes = NAMES) -> bytes:
    words = [word for one in types for word in one]
    data = struct.pack(f"<{len(words)}I", *words)
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(data), len(data), len(text))
    return head + data + text


def why(data: bytes) -> str:
    unit = parse("", data)
    assert unit is not None
    return defect(unit)


def changed(row: int, word: int, value: int) -> bytes:
    types = [list(one) for one in WHOLE]
    types[row - 1][word] = value
    return blob(*types)


def test_whole_types_have_no_defect() -> None:
    assert why(blob(*WHOLE)) == ""


@pytest.mark.parametrize(
    ("row", "word", "value", "says"),
    [
        (1, 1, 0, "it has no types"),
        (5, 1, 0, "its types end early"),
        (1, 1, INT << 24 | 0x10000, "type 1 is none"),
        (1, 0, 0, "type 1 is none"),
        (3, 0, A_INT, "type 3 is none"),
        (2, 0, NODE + 1, "a name is none"),
        (2, 3, 999, "a name is beyond its names"),
        (2, 3, 0, "a member is none"),
        (2, 4, 0, "a type refers to one that is none"),
        (2, 4, 77, "a type refers to one that is none"),
        (2, 4, 6, "a member is none"),
        (2, 5, 4, "type 2 has members out of place"),
        (2, 8, 16, "type 2 has members out of place"),
        (2, 8, 128, "type 2 has members out of place"),
        (2, 2, 8, "type 2 has members out of place"),
        (2, 7, 4, "type 2 has members out of place"),
        (3, 2, 77, "type 3 refers to a type that is none"),
        (4, 3, 0, "a type refers to one that is none"),
        (6, 2, 2, "a function is none"),
    ],
)
def test_each_rule_has_damage_that_breaks_it(row: int, word: int, value: int, says: str) -> None:
    assert why(changed(row, word, value)) == says


def test_names_that_are_gone_are_missed() -> None:
    gone = NAMES[:NODE] + bytes(len(NAMES) - NODE)
    assert why(blob(*WHOLE, text=gone)) == "a name is none"
    assert why(blob(*WHOLE, text=NAMES[:-1] + b"x")) == "its names are not whole"
    assert why(blob(*WHOLE, text=NAMES.replace(b"o", b"\xff"))) == "a name is none"


def test_a_name_stands_there_once() -> None:
    assert why(blob(*WHOLE, text=NAMES.replace(b"frob", b"node"))) == "a name is there twice"


def test_types_that_are_sorted_by_name_stay_so() -> None:
    names = [f"t{i:03}".encode() for i in range(300)]
    text = b"\0" + b"\0".join(names) + b"\0"
    order = [record(text.index(name), INT, 0, 4, 32) for name in names]
    assert why(blob(*order, text=text)) == ""
    moved = text.replace(b"t200", b"t20p")
    assert why(blob(*order, text=moved)) == "some names are not in their order"
    assert why(blob(*order[::-1], text=text)) == ""  # never were


def test_real_types_are_whole_and_lost_pages_of_them_are_found() -> None:
    found = read_blobs(lab_host("default"))
    assert found is not None
    data, modules = found
    assert "leaklab" in dict(modules)  # a module's that has a defect would be left out
    rng = random.Random(3)
    names = [f"struct {name}" for name in Btf(data).named(BtfKind.STRUCT)][::50]
    truth, found_out = BtfLayouts(Btf(data)), 0
    for _ in range(12):
        at = rng.randrange(0, len(data) - 4096, 4096)
        other = rng.randrange(0, len(data) - 4096, 4096)
        for page in (bytes(4096), data[other : other + 4096]):
            damaged = data[:at] + page + data[at + 4096 :]
            unit = parse("", damaged)
            if unit is None or defect(unit):
                found_out += 1
                continue
            layouts = BtfLayouts(Btf(damaged))
            assert [layouts.layout(n) for n in names] == [truth.layout(n) for n in names]
    assert found_out > 20


def test_a_damaged_module_is_left_out_alone() -> None:
    host = lab_host("default")
    found = read_blobs(host)
    assert found is not None
    kernel, modules = found
    name, data = modules[0]
    unit = parse(name, data[:-40] + bytes(40))
    assert unit is not None
    assert defect(unit, Btf(kernel).base)
    assert defect(parse(name, data) or unit, Btf(kernel).base) == ""
    assert np.all(unit.starts[1:] > unit.starts[:-1])
