"""BTF made of a module's DWARF, against the BTF that the kernel's build made of the same module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crashext.hosts.drgn import DrgnHost
from crashext.kernel.btf import Btf
from crashext.kernel.btf_dwarf import btf_of_dwarf
from crashext.kernel.btf_memory import read_blobs
from crashext.kernel.btf_types import BtfKind
from crashext.kernel.module_types import KernelTypes, ModuleTypes
from tests.conftest import lab_dump, lab_host

_MODULE = "leaklab"


@pytest.fixture(scope="module")
def blobs() -> tuple[bytes, dict[str, bytes]]:
    found = read_blobs(lab_host("default"))
    assert found is not None
    return found[0], dict(found[1])


@pytest.fixture(scope="module")
def made(blobs: tuple[bytes, dict[str, bytes]]) -> Btf:
    """The kernel's types with those that were made of leaklab.ko."""
    blob = btf_of_dwarf(lab_dump("default").folder / "leaklab.ko", Btf(blobs[0]))
    assert blob is not None
    return Btf(blobs[0], ((_MODULE, blob),))


@pytest.fixture(scope="module")
def true(blobs: tuple[bytes, dict[str, bytes]]) -> Btf:
    return Btf(blobs[0], ((_MODULE, blobs[1][_MODULE]),))


def _own(btf: Btf, kind: BtfKind) -> dict[str, int]:
    return {
        name: number
        for name, numbers in btf.named(kind).items()
        for number in numbers
        if btf.module(number) == _MODULE
    }


def _laid_out(btf: Btf, number: int) -> Iterator[tuple[str, str, int, int]]:
    for member in btf.members(number):
        yield member.name, btf.describe(member.type), member.bit_offset, member.bit_size
        inner = btf.strip(member.type)
        if not member.name and btf.kind[inner] in (BtfKind.STRUCT, BtfKind.UNION):
            yield from _laid_out(btf, inner)


def test_it_has_the_modules_structs_and_no_others(made: Btf, true: Btf) -> None:
    ours, theirs = _own(made, BtfKind.STRUCT), _own(true, BtfKind.STRUCT)
    assert set(ours) == set(theirs)
    assert len(ours) >= 15
    for name in ours:
        assert made.size(ours[name]) == true.size(theirs[name]), name
        assert list(_laid_out(made, ours[name])) == list(_laid_out(true, theirs[name])), name


def test_what_the_kernel_has_is_the_kernels(made: Btf) -> None:
    for name in ("list_head", "work_struct", "page"):
        (number,) = made.named(BtfKind.STRUCT)[name]
        assert made.module(number) == ""


def test_functions_have_the_prototypes_of_the_build(made: Btf, true: Btf) -> None:
    ours, theirs = _own(made, BtfKind.FUNC), _own(true, BtfKind.FUNC)
    shared = set(ours) & set(theirs)
    assert {"ops_open", "ops_release"} <= shared
    for name in shared:
        here, there = (
            [b.describe(t) for t in b.prototype(b.target(n))]
            for b, n in ((made, ours[name]), (true, theirs[name]))
        )
        assert here == there, name


def test_without_the_kernels_types_it_is_whole() -> None:
    blob = btf_of_dwarf(lab_dump("default").folder / "leaklab.ko", None)
    assert blob is not None
    btf = Btf(blob)
    number = btf.find("struct leaklab_node")
    assert number is not None
    assert [(m.name, btf.describe(m.type)) for m in btf.members(number)][:2] == [
        ("owner", "struct leaklab_control *"),
        ("link", "struct list_head"),
    ]
    assert btf.size(number) == 32


def test_what_is_no_debug_file_has_no_types(tmp_path: Path) -> None:
    empty = tmp_path / "leaklab.ko"
    for content in (b"", b"\x7fELF", b"text" * 100):
        empty.write_bytes(content)
        assert btf_of_dwarf(empty, None) is None
    assert btf_of_dwarf(tmp_path / "missing", None) is None


class Bare(DrgnHost):
    """A kernel whose modules carry no BTF, as before 5.11; `where` has debug files."""

    where: tuple[Path, ...] = ()

    def address_of(self, name: str) -> int | None:
        return None if name == "btf_modules" else super().address_of(name)

    def debug_folders(self) -> tuple[Path, ...]:
        return self.where


def _bare(*where: Path) -> Bare:
    host = Bare(lab_host("default")._program, "vmcore")
    host.where = where
    return host


def test_a_file_is_found_by_its_build_id() -> None:
    types = KernelTypes(_bare(lab_dump("default").folder))
    btf = types.with_modules()  # leaklab is from outside the tree
    assert btf is not None
    assert btf.modules == ("", _MODULE)
    assert btf.find("leaklab_node", _MODULE) is not None
    assert types.with_modules(["no_such_module"]) is btf


def test_another_builds_file_is_none_of_this_kernels(tmp_path: Path) -> None:
    data = (lab_dump("default").folder / "leaklab.ko").read_bytes()
    noted = ModuleTypes(_bare())._build_id(_MODULE)
    assert noted is not None
    assert bytes.fromhex(noted) in data
    other = data.replace(bytes.fromhex(noted), bytes(20))
    (tmp_path / "leaklab.ko").write_bytes(other)
    btf = KernelTypes(_bare(tmp_path)).with_modules()
    assert btf is not None
    assert btf.modules == ("",)
