"""The kind of a word, and what of it stays when what may differ between equals is taken out."""

from __future__ import annotations

import numpy as np
import pytest

from crashext.analysis.likeness.words import (
    Classifier,
    Kind,
    WordMap,
    as_words,
    count_distinct,
    row_hash,
)
from crashext.hosts.base import Module
from crashext.kernel.addresses import AddressSpace
from crashext.kernel.slab.pointers import SlabPointers
from crashext.kernel.slab.slabs import find_slabs
from crashext.progress import silent
from tests.fake import slab_cache, word
from tests.kernel.machine import DIRECT, TEXT, VMEMMAP, Machine

SMALL = slab_cache("kmalloc-64")
DENTRY = slab_cache("dentry", 192, address=0xFFFF888000101000, objects=21)
MODULE = Module("leaky", ((0xFFFFFFFFC0100000, 0xFFFFFFFFC0104000),))
FIRST, SECOND, DENTRIES = (DIRECT + (pfn << 12) for pfn in (2, 5, 9))
HOME = DIRECT + (60 << 12)
"""Where the objects are that are looked at; no slab, so that nothing else points there."""


def in_kernel() -> tuple[Classifier, AddressSpace]:
    machine = Machine(64, SMALL, DENTRY)
    for pfn, cache, objects in ((2, SMALL, 64), (5, SMALL, 64), (9, DENTRY, 21)):
        machine.slab(pfn, cache, objects=objects)
    index = find_slabs(machine.host, machine.memory, machine.caches, {}, 0, silent)
    pointers = SlabPointers(machine.host, machine.space, machine.memory, machine.caches, index)
    return Classifier(machine.space, (MODULE,), pointers), machine.space


KERNEL, SPACE = in_kernel()
OFFLINE = Classifier()


def classified(classifier: Classifier, *objects: list[int], at: int = HOME) -> WordMap:
    """Objects of words, one behind the other."""
    size = 8 * len(objects[0])
    content = np.frombuffer(b"".join(word(*o) for o in objects), np.uint8).reshape(-1, size)
    where = np.uint64(at) + np.arange(len(objects), dtype=np.uint64) * np.uint64(size)
    return classifier.classify(content, where)


def text(characters: bytes) -> int:
    return int.from_bytes(characters.ljust(8, b"\0"), "little")


ANYWHERE = [
    (0, Kind.ZERO),
    (1, Kind.SMALL),
    (0xFFFF, Kind.SMALL),
    (0x10000, Kind.INT),
    (0xFFFFFFFF, Kind.INT),
    (0x0000000500000007, Kind.PAIR),
    (0x00FFFFFF00FFFFFF, Kind.PAIR),
    (0x0100000000000000, Kind.OPAQUE),
    (0xDEAD000000000100, Kind.LIST_POISON),
    (0xDEAD000000000122, Kind.LIST_POISON),
    (0xDEAD000000200200, Kind.LIST_POISON),
    (0x6B6B6B6B6B6B6B6B, Kind.POISON),
    (0xA56B6B6B6B6B6B6B, Kind.POISON),
    (0x5A5A5A5A5A5A5A5A, Kind.POISON),
    (0xD84156C5635688C0, Kind.POISON),
    ((1 << 64) - 1, Kind.NEGATIVE),  # -1: no error number, but every second sentinel
    ((1 << 64) - 2, Kind.ERR_PTR),
    ((1 << 64) - 4095, Kind.ERR_PTR),
    ((1 << 64) - 4096, Kind.NEGATIVE),
    ((1 << 64) - (1 << 24), Kind.NEGATIVE),
    (text(b"ext4_ino"), Kind.ASCII),
    (text(b"sda12"), Kind.ASCII),
    (text(b"a b\n\tc"), Kind.ASCII),
    (text(b"sda1"), Kind.INT),  # four letters are as likely a number
    (text(b"ab\0cdefg"), Kind.OPAQUE),
    (text(b"caf\xc3\xa9 au"), Kind.OPAQUE),
    (0x00007FFC12345678, Kind.USER),
    (0x0123456789ABCDEF, Kind.OPAQUE),
    (0x8000000000000000, Kind.OPAQUE),
    (HOME, Kind.SELF),
    (HOME + 7, Kind.SELF),
]


@pytest.mark.parametrize("classifier", [KERNEL, OFFLINE], ids=["kernel", "offline"])
@pytest.mark.parametrize(("value", "kind"), ANYWHERE, ids=lambda v: f"{v:#x}" if v > 20 else str(v))
def test_a_word_that_is_no_pointer_is_what_its_value_says(
    classifier: Classifier, value: int, kind: Kind
) -> None:
    assert Kind(int(classified(classifier, [value]).kinds[0, 0])) is kind


@pytest.mark.parametrize(
    ("value", "kind", "detail"),
    [
        (TEXT + 0x1234, Kind.TEXT_SYMBOL, TEXT + 0x1234),
        (TEXT + 0x1000000, Kind.DATA_SYMBOL, TEXT + 0x1000000),
        (0xFFFFFFFFC0100010, Kind.MODULE, 0xFFFFFFFFC0100010),
        (FIRST + 64 + 8, Kind.SLAB, 8),
        (DENTRIES + 192 * 20 + 100, Kind.SLAB, 1 << 32 | 100),
        (DENTRIES + 192 * 21, Kind.DIRECT, 0),  # behind the last slot
        (DIRECT + (30 << 12), Kind.DIRECT, 0),
        (0xFFFFC90000123000, Kind.VMALLOC, 0),
        (VMEMMAP + 64 * 5, Kind.VMEMMAP, 0),
        (HOME + 16, Kind.DIRECT, 0),  # just behind the object itself
    ],
)
def test_a_pointer_is_where_it_leads(value: int, kind: Kind, detail: int) -> None:
    words = classified(KERNEL, [1, value])
    assert Kind(int(words.kinds[0, 1])) is kind
    assert int(words.details[0, 1]) == detail


def test_a_percpu_pointer_is_an_address_less_a_cpu_s_offset() -> None:
    pointer = 0xFFFF88803FC00100 - SPACE.percpu_offsets[0]
    assert pointer == 0x100
    assert classified(KERNEL, [pointer]).kinds[0, 0] == Kind.SMALL  # too small to tell
    dynamic = 0xFFFFE8FFFFC12340 - SPACE.percpu_offsets[0] & (1 << 64) - 1
    assert classified(KERNEL, [dynamic]).kinds[0, 0] == Kind.PERCPU


def test_the_address_of_a_program_is_no_percpu_pointer() -> None:
    """Position-independent programs are at 0x5555_5555_4000 and up to 1 TiB above it."""
    addresses = [0x0000555555554000, 0x000055D0C0FFE000, 0x0000565555554000]
    assert classified(KERNEL, addresses).kinds.tolist() == [[Kind.USER] * 3]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (0xFFFFFFFF81234567, Kind.TEXT_SYMBOL),
        (0xFFFFFFFFC0123456, Kind.MODULE),
        (0xFFFF88801F59BADE, Kind.DIRECT),
        (0xFFFF882F59BADE00, Kind.DIRECT),  # RHEL 7's base
        (0xFFFF9C0012345678, Kind.DIRECT),  # randomised
        (0xFFFFC90000123000, Kind.VMALLOC),
        (0xFFFFEA0000004000, Kind.VMEMMAP),
    ],
)
def test_without_a_kernel_the_architecture_s_ranges_tell(value: int, kind: Kind) -> None:
    assert classified(OFFLINE, [value]).kinds[0, 0] == kind


def test_an_empty_list_head_points_to_itself_at_any_address() -> None:
    words = classified(KERNEL, [HOME, HOME, 5], [HOME + 24, HOME + 24, 5])
    assert words.kinds[:, :2].tolist() == [[Kind.SELF] * 2] * 2
    assert words.details.tolist() == [[0, 0, 0]] * 2
    assert len(set(words.shapes().tolist())) == 1
    assert (words.canonical()[0] == words.canonical()[1]).all()


def test_every_kind_has_a_name_of_its_own() -> None:
    assert len({kind.label for kind in Kind}) == len(Kind)


def views(*values: int) -> tuple[list[bytes], list[int]]:
    """The canonical bytes and the structure tokens of some words."""
    words = classified(KERNEL, *([1, v] for v in values))
    return (
        [row[8:].tobytes() for row in words.canonical()],
        [int(t) for t in words.structure()[:, 1]],
    )


ALIKE = {
    "two objects of one cache": (FIRST + 64 * 3 + 16, SECOND + 64 * 40 + 16),
    "two vmalloc areas": (0xFFFFC90000001000, 0xFFFFC90000777000),
    "two struct pages": (VMEMMAP + 64 * 5, VMEMMAP + 64 * 9),
    "two pages": (DIRECT + (30 << 12), DIRECT + (31 << 12) + 8),
    "two user addresses": (0x7FFC12345678, 0x7F0012345000),
}
APART = {
    "two caches": (FIRST + 64, DENTRIES + 192),
    "two functions": (TEXT + 0x100, TEXT + 0x200),
    "two poisons": (0xDEAD000000000100, 0xDEAD000000000122),
    "a slab and a page": (FIRST + 64, DIRECT + (30 << 12)),
    "module and kernel": (0xFFFFFFFFC0100010, TEXT + 0x10),
}


@pytest.mark.parametrize(("one", "other"), ALIKE.values(), ids=ALIKE.keys())
def test_pointers_that_differ_only_in_where_are_equal(one: int, other: int) -> None:
    content, structure = views(one, other)
    assert content[0] == content[1]
    assert structure[0] == structure[1] != 0


@pytest.mark.parametrize(("one", "other"), APART.values(), ids=APART.keys())
def test_pointers_to_different_things_differ_nearly_everywhere(one: int, other: int) -> None:
    content, structure = views(one, other)
    assert sum(a != b for a, b in zip(*content, strict=True)) >= 6
    assert structure[0] != structure[1]
    assert 0 not in structure


def test_another_offset_in_the_same_cache_is_partly_alike() -> None:
    content, structure = views(FIRST + 64, FIRST + 64 + 16)
    different = sum(a != b for a, b in zip(*content, strict=True))
    assert 1 <= different <= 2
    assert structure[0] == structure[1]  # the same kind of pointer


def test_numbers_and_text_stay_themselves_and_numbers_say_nothing_of_structure() -> None:
    values = (7, 0x12345, 0x0000000500000007, 0, text(b"ext4_ino"))
    content, structure = views(*values)
    assert [int.from_bytes(c, "little") for c in content] == list(values)
    assert structure[:4] == [0, 0, 0, 0]
    assert structure[4] != 0


def test_shapes_tell_kinds_and_caches_apart_but_not_numbers_of_a_kind() -> None:
    rows = [
        [FIRST + 64, 5],
        [SECOND + 128, 9],
        [DENTRIES, 5],
        [FIRST + 72, 5],
        [FIRST + 64, 1 << 20],
    ]
    shapes = classified(KERNEL, *rows).shapes().tolist()
    assert shapes[0] == shapes[1]
    assert len(set(shapes)) == 4


def test_objects_that_differ_in_a_small_number_share_a_representative() -> None:
    words = classified(KERNEL, [FIRST, 5], [SECOND + 64, 900], [FIRST, 1 << 20], [TEXT, 5])
    hashes = words.representatives(words.canonical()).tolist()
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize("size", [1, 4, 7, 8, 9, 12, 31])
def test_an_odd_size_is_filled_up_with_zeros(size: int) -> None:
    content = np.full((3, size), 0xFF, np.uint8)
    words = as_words(content)
    assert words.shape == (3, -(-size // 8))
    last = words[:, -1].tolist()
    assert last == [(1 << 8 * (size % 8 or 8)) - 1] * 3
    found = OFFLINE.classify(content, np.array([1 << 40] * 3, np.uint64))
    assert found.kinds.shape == words.shape


def test_no_objects_are_no_words() -> None:
    for classifier in (KERNEL, OFFLINE):
        found = classifier.classify(np.zeros((0, 24), np.uint8), np.zeros(0, np.uint64))
        assert found.kinds.shape == (0, 3)
        assert found.canonical().shape == (0, 24)
        assert found.shapes().tolist() == []


def test_a_row_s_hash_depends_on_every_word_and_its_place() -> None:
    rows = np.array([[1, 2, 3], [1, 2, 4], [2, 1, 3], [1, 2, 3], [0, 2, 3]], np.uint64)
    hashes = row_hash(rows).tolist()
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 4


@pytest.mark.parametrize(
    ("values", "different"), [([], 0), ([5], 1), ([5, 5, 5], 1), ([3, 1, 3, (1 << 64) - 1], 3)]
)
def test_distinct_values_are_counted(values: list[int], different: int) -> None:
    assert count_distinct(np.array(values, np.uint64)) == different
