"""A flipped bit in a type that is asked for is found out, where no kernel's types look like it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from crashext.hosts.absent import DamagedTypes
from crashext.hosts.base import Host, Layout, UnknownLayout
from crashext.kernel.btf import Btf
from crashext.kernel.btf_asked import miscounted, misplaced, out_of_row
from crashext.kernel.btf_layouts import BtfLayouts, CarriedTypes
from crashext.kernel.btf_memory import read_blobs
from tests.conftest import lab_host
from tests.damaged_btf import Places, Site
from tests.kernel.test_btf_check import blob, record

KERNELS = ("default", "default@sid")
NAMES = b"\0int\0node\0value\0next\0long\0inner\0mark\0"
A_INT, NODE, VALUE, NEXT, A_LONG, INNER, MARK = (
    NAMES.index(b"\0" + n + b"\0") + 1
    for n in (b"int", b"node", b"value", b"next", b"long", b"inner", b"mark")
)
INT, PTR, STRUCT = 1, 2, 4


def of_kernel(name: str) -> bytes:
    blobs = read_blobs(lab_host(name))
    assert blobs is not None
    return blobs[0]


def node(*members: tuple[int, int, int], size: int) -> Btf:
    """A struct of (name, type, byte) members: 1 is an int, 2 a long, 3 a struct of an int."""
    entries = [word for name, kind, at in members for word in (name, kind, 8 * at)]
    types = (
        record(A_INT, INT, 0, 4, 32),
        record(A_LONG, INT, 0, 8, 64),
        record(INNER, STRUCT, 1, 4, MARK, 1, 0),
        record(NODE, STRUCT, len(members), size, *entries),
    )
    return Btf(blob(*types, text=NAMES))


def test_types_that_hold_one_another_are_looked_at_once() -> None:
    """No compiler makes such; each is whole by itself. Twice each: 2**32 ways lead down."""
    union = 5
    types = (
        record(NODE, union, 3, 4, 0, 2, 0, 0, 2, 0, VALUE, 3, 0),
        record(INNER, union, 3, 4, 0, 1, 0, 0, 1, 0, NEXT, 3, 0),
        record(A_INT, INT, 0, 4, 32),
    )
    btf = Btf(blob(*types, text=NAMES))
    assert misplaced(btf, 1) == ""
    assert btf.member_places(1) == {VALUE, NEXT}


@pytest.mark.parametrize(
    ("members", "size", "where"),
    [
        (((VALUE, 1, 0), (NEXT, 2, 8)), 16, ""),
        (((VALUE, 1, 0), (NEXT, 2, 64)), 128, ""),  # ____cacheline_aligned
        (((VALUE, 1, 0), (NEXT, 2, 4)), 12, ""),  # packed
        (((VALUE, 3, 0), (NEXT, 1, 4)), 8, ""),
        (((VALUE, 1, 0), (NEXT, 2, 24)), 32, "next"),
        (((VALUE, 1, 0), (NEXT, 2, 4)), 16, "next"),
        (((VALUE, 1, 0), (NEXT, 2, 8)), 24, "the end"),
    ],
)
def test_compilers_leave_no_more_room_than_alignment_takes(
    members: tuple[tuple[int, int, int], ...], size: int, where: str
) -> None:
    btf = node(*members, size=size)
    number = btf.find("struct node")
    assert number is not None
    assert misplaced(btf, number) == where


@pytest.mark.parametrize(
    ("values", "nth", "damaged"),
    [
        ([0, 1, 2, 3, 4], 2, False),
        ([0, 1, 6, 3, 4], 2, True),
        ([4, 1, 2, 3], 0, True),
        ([0, 1, 2, 7], 3, True),
        ([8, 0, 1, 2], 0, True),  # the first has two names
        ([0, 1, 2, 2], 3, False),  # the last is the largest, by another name
        ([0, 1, 1, 2, 3], 2, False),  # an alias
        ([0, 1, 5, 6, 7], 2, False),  # said to count on from there
        ([1, 2, 4, 8], 2, False),  # bits
        ([0, 1, 7], 2, False),  # too few to tell
    ],
)
def test_an_enumerator_that_its_row_counts_past(values: list[int], nth: int, damaged: bool) -> None:
    assert out_of_row(values, nth) is damaged


@pytest.mark.parametrize("name", KERNELS)
def test_what_is_asked_of_a_whole_kernel_fits(name: str) -> None:
    """Every name in this program's own sources that is one of the kernel's, too."""
    types = BtfLayouts(Btf(of_kernel(name)))
    for word in words_of_sources():
        types.require_fitting(f"struct {word}")
        types.require_in_row(word)


def words_of_sources() -> Iterator[str]:
    from pathlib import Path
    from re import findall

    import crashext

    texts = (path.read_text() for path in Path(crashext.__file__).parent.rglob("*.py"))
    yield from sorted({word for text in texts for word in findall(r"[A-Za-z_]\w{2,}", text)})


@pytest.mark.parametrize("name", KERNELS)
def test_arrays_have_as_many_elements_as_their_enumerator_says(name: str) -> None:
    btf = Btf(of_kernel(name))
    for counted in ("NR_VM_ZONE_STAT_ITEMS", "NR_VM_NODE_STAT_ITEMS", "NR_LRU_LISTS"):
        value = btf.enumerator(counted)
        assert value is not None
        assert miscounted(btf, counted, value) == ""
        assert miscounted(btf, counted, value ^ 1) != ""


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("asked", "kind", "ask"),
    [
        (("struct pglist_data", "node_zones"), "type", "struct pglist_data"),
        (("struct vmap_area", ""), "size", "struct vmap_area"),
        (("", "NR_PAGETABLE"), "value", "NR_PAGETABLE"),
        (("", "LRU_ACTIVE_ANON"), "value", "LRU_ACTIVE_ANON"),
        (("", "NR_VM_NODE_STAT_ITEMS"), "value", "NR_VM_NODE_STAT_ITEMS"),
    ],
)
def test_any_flipped_bit_of_these_numbers_is_found_out(
    name: str, asked: tuple[str, str], kind: str, ask: str
) -> None:
    data = of_kernel(name)
    (site,) = (s for s in Places(data).sites((asked,)) if s.kind == kind)
    for bit in range(3, 8):
        with pytest.raises(DamagedTypes):
            look(BtfLayouts(Btf(flipped(data, site, bit))), ask)


def look(types: BtfLayouts, name: str) -> None:
    if name.startswith("struct "):
        types.require_fitting(name)
    else:
        types.require_in_row(name)


def flipped(data: bytes, site: Site, bit: int) -> bytes:
    at = site.offset + bit // 8
    return data[:at] + bytes([data[at] ^ 1 << bit % 8]) + data[at + 1 :]


class Carrying:
    """A host whose memory has other BTF, with debug files beside it or without."""

    def __init__(self, data: bytes, beside: Host | None) -> None:
        self._data, self._host = data, lab_host("default")
        if beside is not None:
            self.debug_layout = beside.debug_layout  # type: ignore[attr-defined]
            self.debug_enumerator = beside.debug_enumerator  # type: ignore[attr-defined]

    def read(self, address: int, size: int) -> bytes:
        start = self._host.address_of("__start_BTF")
        return self._data if address == start else self._host.read(address, size)

    def __getattr__(self, name: str) -> object:
        return getattr(self._host, name)


QUESTIONS: tuple[tuple[tuple[str, str], str, int, Callable[[CarriedTypes], object]], ...] = (
    (
        ("struct mount", "mnt_ns"),
        "a member's name",
        40,
        lambda types: must(types.layout("struct mount"))["mnt_ns"].offset,
    ),
    (("", "NR_PAGETABLE"), "value", 3, lambda types: types.enumerator("NR_PAGETABLE")),
    (
        ("struct vmap_area", ""),
        "size",
        4,
        lambda types: must(types.layout("struct vmap_area")).size,
    ),
)


def must(layout: Layout | None) -> Layout:
    assert layout is not None
    return layout


@pytest.mark.parametrize(("asked", "kind", "bit", "ask"), QUESTIONS)
def test_damaged_types_are_answered_from_debug_files_or_refused(
    asked: tuple[str, str], kind: str, bit: int, ask: Callable[[CarriedTypes], object]
) -> None:
    data = of_kernel("default")
    right = ask(CarriedTypes(lab_host("default")))
    (site,) = (s for s in Places(data).sites((asked,)) if s.kind == kind)
    damaged = flipped(data, site, bit)
    assert ask(CarriedTypes(Carrying(damaged, lab_host("default")))) == right  # type: ignore[arg-type]
    for alone in (CarriedTypes(Carrying(damaged, None), alone=True),):  # type: ignore[arg-type]
        with pytest.raises(DamagedTypes, match="BTF is damaged: "):
            ask(alone)


def test_a_member_that_no_kernel_had_is_absent() -> None:
    types = CarriedTypes(lab_host("default"), alone=True)
    with pytest.raises(UnknownLayout, match="no member mnt_namespaces_of_all"):
        must(types.layout("struct mount"))["mnt_namespaces_of_all"]


def test_an_enumerator_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a process's memory are asked of each process."""
    types = CarriedTypes(lab_host("default"), alone=True)
    asked: list[str] = []
    monkeypatch.setattr(BtfLayouts, "require_in_row", lambda _, name: asked.append(name))
    values = [types.enumerator("MM_ANONPAGES") for _ in range(3)]
    assert values == [1] * 3
    assert asked == ["MM_ANONPAGES"]
