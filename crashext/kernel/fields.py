"""A struct taken apart into what its bytes hold: pointers, list links, numbers, text, unions.

Built on BTF. It knows the kernel's few basic structs by name (list_head, spinlock, rb_node, ...)
and nothing of any object's content.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from crashext.kernel.btf import Btf
from crashext.kernel.btf_types import BtfKind

_MAX_DEPTH = 24
_MAX_ELEMENTS = 64
_MAX_FIELDS = 4096
_TELLING_ELEMENTS = 16


class Form(enum.IntEnum):
    """What a field holds, as far as the bytes could show it."""

    POINTER = 0
    FUNCTION = 1
    LONG = 2
    """A number of 8 bytes."""
    INT = 3
    """A smaller number, a bit field, part of one."""
    CHARS = 4
    TAGGED = 5
    """A pointer with flags in its low bits, or a number: rb_node's parent, mutex.owner."""
    BYTES = 6
    """Anything."""
    LIST = 7
    """A list_head, 16 bytes."""
    HLIST_NODE = 8
    BOOL = 9
    ENUM = 10
    REFCOUNT = 11
    LOCK = 12
    """A spinlock of 4 bytes, which is 0 when nobody holds it."""


class Field(NamedTuple):
    """One leaf. Offset and size in bytes from the struct's start."""

    offset: int
    size: int
    form: Form
    type: int
    """BTF number of its type."""
    name: str
    """Dotted, with [i] for elements of arrays."""
    owner: int
    """BTF number of the innermost named struct it is declared in."""
    bit_offset: int = 0
    bit_size: int = 0
    share: float = 1.0
    """Under 1 for an element of a long array, whose elements tell the same again and again."""


class Choice(NamedTuple):
    """A union: one of several lists of fields."""

    offset: int
    size: int
    alternatives: tuple[tuple[Field | Choice, ...], ...]


Items = tuple["Field | Choice", ...]

_WHOLE = {
    "list_head": (Form.LIST, 16),
    "hlist_node": (Form.HLIST_NODE, 16),
    "hlist_bl_node": (Form.HLIST_NODE, 16),
    "refcount_struct": (Form.REFCOUNT, 4),
    # With lock debugging they are larger, and taken apart like any struct.
    "spinlock": (Form.LOCK, 4),
    "raw_spinlock": (Form.LOCK, 4),
    "qspinlock": (Form.LOCK, 4),
}
_WORDS = {
    ("rb_node", "__rb_parent_color"): Form.TAGGED,
    ("mutex", "owner"): Form.TAGGED,
    ("rw_semaphore", "owner"): Form.TAGGED,
    ("work_struct", "data"): Form.TAGGED,
    ("hlist_nulls_node", "next"): Form.TAGGED,
    ("hlist_bl_head", "first"): Form.TAGGED,
    # Functions of user space, or SIG_DFL and the like.
    ("sigaction", "sa_handler"): Form.LONG,
    ("sigaction", "sa_restorer"): Form.LONG,
}
"""Members whose type says less than is known of them, all of 8 bytes."""


class Fields:
    """Takes structs of one kernel apart, each once."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._known: dict[tuple[int, int], Items] = {}

    def of(self, number: int) -> Items:
        """The fields of a struct or union, by offset as declared. Empty for other types."""
        return self._struct(number, number, 0)

    def _struct(self, number: int, owner: int, depth: int) -> Items:
        """`owner` differs from `number` for an anonymous struct."""
        known = self._known.get((number, owner))
        if known is not None:
            return known
        btf = self._btf
        if depth > _MAX_DEPTH or btf.kind[number] not in (BtfKind.STRUCT, BtfKind.UNION):
            return ()
        self._known[number, owner] = ()  # what a struct that claims to contain itself finds
        name = btf.name(number)
        size = btf.size(number)
        parts: list[Items] = []
        count = 0
        for member in btf.members(number):
            offset = member.bit_offset // 8
            if offset > size:
                continue
            form = _WORDS.get((name, member.name))
            if form is not None and btf.size(member.type) == 8:
                part: Items = (Field(offset, 8, form, member.type, member.name, owner),)
            elif member.bit_size:
                bits = member.bit_offset % 8
                width = (bits + member.bit_size + 7) // 8
                whole = Field(offset, width, Form.INT, member.type, member.name, owner)
                part = (whole._replace(bit_offset=bits, bit_size=member.bit_size),)
            else:
                part = self._place(member.type, offset, member.name, owner, depth + 1)
            leaves = _leaves(part)
            if count + leaves > _MAX_FIELDS:  # more than anybody reads: only its place is kept
                whole = Field(
                    offset, btf.size(member.type), Form.BYTES, member.type, member.name, owner
                )
                part, leaves = (whole,), 1
            if count + leaves > _MAX_FIELDS:
                break
            parts.append(part)
            count += leaves
        if btf.kind[number] == BtfKind.UNION:
            distinct = tuple(p for p in parts if p)
            items: Items = distinct[0] if len(distinct) == 1 else (Choice(0, size, distinct),)
        else:
            items = tuple(item for part in parts for item in part)
        self._known[number, owner] = items
        return items

    def _place(self, number: int, offset: int, name: str, owner: int, depth: int) -> Items:
        """The fields of something of type `number` at `offset`."""
        btf = self._btf
        inner = btf.strip(number)
        kind = btf.kind[inner]
        size = btf.size(inner)
        if kind in (BtfKind.STRUCT, BtfKind.UNION):
            own = btf.name(inner)
            whole = _WHOLE.get(own)
            if whole is not None and whole[1] == size and kind == BtfKind.STRUCT:
                return (Field(offset, size, whole[0], number, name, owner),)
            nested = self._struct(inner, inner if own else owner, depth)
            return tuple(_moved(item, offset, name) for item in nested)
        if kind == BtfKind.ARRAY:
            return self._array(number, inner, offset, name, owner, depth)
        form = self._form(inner, size)
        return () if form is None else (Field(offset, size, form, number, name, owner),)

    def _array(
        self, number: int, inner: int, offset: int, name: str, owner: int, depth: int
    ) -> Items:
        btf = self._btf
        element, count = btf.array(inner)
        size = btf.size(element)
        if not size or not count or depth > _MAX_DEPTH:
            return ()
        if size == 1:
            return (Field(offset, count, Form.CHARS, number, name, owner),)
        if count > _MAX_ELEMENTS:
            return (Field(offset, size * count, Form.BYTES, number, name, owner),)
        first = self._place(element, 0, "", owner, depth + 1)
        if count * _leaves(first) > _MAX_FIELDS:
            return (Field(offset, size * count, Form.BYTES, number, name, owner),)
        share = min(1.0, _TELLING_ELEMENTS / count)
        return tuple(
            _moved(item, offset + i * size, f"{name}[{i}]", share)
            for i in range(count)
            for item in first
        )

    def _form(self, inner: int, size: int) -> Form | None:
        btf = self._btf
        match btf.kind[inner]:
            case BtfKind.PTR:
                function = btf.kind[btf.strip(btf.target(inner))] == BtfKind.FUNC_PROTO
                return Form.FUNCTION if function else Form.POINTER
            case BtfKind.INT:
                if btf.integer(inner)[2]:
                    return Form.BOOL
                return Form.LONG if size == 8 else Form.INT if size < 8 else Form.BYTES
            case BtfKind.ENUM | BtfKind.ENUM64:
                return Form.ENUM if size <= 4 else Form.LONG
            case _:
                return None


def _moved(item: Field | Choice, by: int, name: str, share: float = 1.0) -> Field | Choice:
    if isinstance(item, Choice):
        return Choice(
            item.offset + by,
            item.size,
            tuple(tuple(_moved(i, by, name, share) for i in a) for a in item.alternatives),
        )
    offset, size, form, kind, own, owner, bit_offset, bit_size, own_share = item
    if name:
        own = f"{name}.{own}" if own and own[0] != "[" else name + own
    # Not _replace, which takes twice as long: the structs that fit a cache have 50,000 fields.
    return Field(offset + by, size, form, kind, own, owner, bit_offset, bit_size, own_share * share)


def _leaves(items: Items) -> int:
    return len(items) + sum(
        sum(map(_leaves, item.alternatives)) - 1 for item in items if isinstance(item, Choice)
    )


def flat(items: Items) -> list[Field]:
    """Fields of every alternative, in order."""
    result: list[Field] = []
    for item in items:
        if isinstance(item, Choice):
            for alternative in item.alternatives:
                result += flat(alternative)
        else:
            result.append(item)
    return result
