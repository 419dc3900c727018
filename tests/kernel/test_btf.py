"""BTF against drgn's DWARF types of the same kernel, and against damage."""

from __future__ import annotations

import random

import drgn
import pytest

from crashext.kernel.btf import Btf
from crashext.kernel.btf_memory import read_btf
from crashext.kernel.btf_types import BtfKind
from crashext.kernel.fields import Fields, Form, flat
from tests.conftest import lab_host, lab_view
from tests.fake import FakeHost
from tests.kernel.btfmaker import blob, kind_of


@pytest.fixture(scope="module")
def btf() -> Btf:
    found = lab_view("default").btf
    assert found is not None
    return found


def _dwarf_members(kind: drgn.Type) -> list[tuple[str, int, int]]:
    return [(m.name or "", m.bit_offset, m.bit_field_size or 0) for m in kind.members or ()]


def test_structs_are_laid_out_as_dwarf_says(btf: Btf) -> None:
    """Every twentieth struct: its size, and the name, place and bit size of every member."""
    program = lab_host("default")._program
    compared = 0
    for name, numbers in list(btf.named(BtfKind.STRUCT).items())[::20]:
        if len(numbers) > 1 or btf.module(numbers[0]):
            continue  # several structs share the name, and drgn gives any of them
        try:
            dwarf = program.type(f"struct {name}")
        except LookupError:
            continue
        if dwarf.members is None:
            continue
        ours = [(m.name, m.bit_offset, m.bit_size) for m in btf.members(numbers[0])]
        if {n for n, _, _ in ours} != {n for n, _, _ in _dwarf_members(dwarf)}:
            continue  # another file's struct of that name
        assert (name, btf.size(numbers[0]), ours) == (name, dwarf.size, _dwarf_members(dwarf))
        compared += 1
    assert compared >= 300


def test_fields_are_where_drgn_finds_them(btf: Btf) -> None:
    """Nested ones too, by their dotted names."""
    program = lab_host("default")._program
    fields = Fields(btf)
    compared = 0
    for name in ("dentry", "inode", "file", "task_struct", "cred", "vm_area_struct", "super_block"):
        number = btf.find(name)
        assert number is not None
        whole = program.type(f"struct {name}")
        for field in flat(fields.of(number)):
            if field.bit_size:
                continue
            assert drgn.offsetof(whole, field.name) == field.offset, field
            compared += 1
    assert compared > 800


def test_sizes_of_nested_fields_add_up_to_the_struct(btf: Btf) -> None:
    fields = Fields(btf)
    for number in btf.structs(1, 4096)[::50].tolist():
        for field in flat(fields.of(number)):
            assert 0 <= field.offset <= field.offset + field.size <= btf.size(number), field


def test_modules_have_their_own_types_over_the_kernels(btf: Btf) -> None:
    node = btf.find("leaklab_node")
    assert node is not None
    assert btf.module(node) == "leaklab"
    program = lab_host("default")._program
    loaded = {m.name for m in program.modules() if isinstance(m, drgn.RelocatableModule)}
    assert set(btf.modules) - {""} <= loaded
    owner, link, *_ = flat(Fields(btf).of(node))
    assert btf.describe(owner.type) == "struct leaklab_control *"
    assert link.form is Form.LIST
    assert btf.strip(link.type) == btf.find("list_head")


def test_prototypes(btf: Btf) -> None:
    (function,) = btf.named(BtfKind.FUNC)["file_free_rcu"]
    returns, *arguments = btf.prototype(btf.target(function))
    assert returns == 0
    assert [btf.describe(a) for a in arguments] == ["struct callback_head *"]


def test_functions_by_name_are_those_of_the_index(btf: Btf) -> None:
    index = btf.named(BtfKind.FUNC)
    several = [name for name, numbers in index.items() if len(numbers) > 1][:20]
    for name in [*list(index)[::4000], *several, "ops_open"]:
        assert btf.functions(name) == index[name], name
    assert btf.functions("no_such_function") == btf.functions("") == []


def test_a_type_that_contains_itself_ends() -> None:
    data = blob(
        kind_of(1, BtfKind.STRUCT, 1, 8, 1, 1, 0) + kind_of(1, BtfKind.TYPEDEF, 0, 2), b"\0self\0"
    )
    btf = Btf(data)
    assert btf.find("self") == 1
    assert Fields(btf).of(1) == ()
    assert btf.strip(2) == 0
    assert btf.size(2) == 0
    assert btf.describe(2) == "self"


def test_numbers_that_lead_nowhere_are_void() -> None:
    btf = Btf(blob(kind_of(999_999, BtfKind.PTR, 0, 77), b"\0"))
    assert btf.target(1) == 0
    assert btf.name(1) == ""
    assert btf.describe(1) == "void *"


def test_no_btf_is_refused() -> None:
    for data in (b"", b"\0" * 64, blob(b"", b"")[:20]):
        with pytest.raises(ValueError, match="no BTF"):
            Btf(data)
    assert read_btf(FakeHost()) is None
    gone = FakeHost(symbols={"__start_BTF": 0x1000, "__stop_BTF": 0x2000})
    assert read_btf(gone) is None


def test_damage_costs_types_and_never_the_run() -> None:
    """Bytes overwritten at random: what is left of the types can still be asked for."""
    host = lab_host("default")
    start, stop = host.address_of("__start_BTF"), host.address_of("__stop_BTF")
    assert start is not None
    assert stop is not None
    whole = host.read(start, stop - start)
    rng = random.Random(1)
    for damage in (1000, 1000, 300, 100, 30, 10):
        data = bytearray(whole)
        for _ in range(damage):
            data[rng.randrange(24, len(data))] = rng.randrange(256)
        btf = Btf(bytes(data))
        fields = Fields(btf)
        for number in range(0, len(btf), 37):
            btf.size(number)
            btf.describe(number)
            fields.of(number)
            assert 0 <= btf.strip(number) < len(btf)
            if btf.kind[number] in (BtfKind.ENUM, BtfKind.ENUM64):
                btf.enumerators(number)
            if btf.kind[number] == BtfKind.FUNC_PROTO:
                assert all(0 <= t < len(btf) for t in btf.prototype(number))
        for text in ("dentry", "struct inode"):
            btf.find(text)
