"""An object's members by name: a struct of the kernel laid over memory, with meanings.

From BTF, nested structs and unions included; where the dump has none, from the host's debug info,
which gives the outermost members only. That the object is of this type is the user's claim.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from shlex import quote
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from crashext.analysis.likeness.decode import Decoder
from crashext.analysis.likeness.words import Classifier, Kind
from crashext.analysis.results.reports import MemberValue
from crashext.hosts.base import U64, HostError, ReadFault
from crashext.hosts.plain import answered
from crashext.hosts.recorded import RecordedHost
from crashext.kernel.access import words_at
from crashext.kernel.btf import Btf
from crashext.kernel.btf_names import close_to, no_such_type
from crashext.kernel.btf_types import BtfKind
from crashext.kernel.errnos import error_name
from crashext.kernel.fields import Field, Fields, Form, flat
from crashext.kernel.slab.view import KernelView
from crashext.wording import missing

_MAX_SIZE = 1 << 20
_MAX_MEMBERS = 8192
_MAX_ENUMERATORS = 64
_ELEMENTS = 8
_TEXT = 64
_ELEMENT = re.compile(r"(.*)\[\d+\]")


class PlacedMember(msgspec.Struct, frozen=True, array_like=True):
    """One member as it is printed: a number, a pointer, text, or `count` numbers alike."""

    name: str
    offset: int
    size: int
    """Of all elements together."""
    form: Form
    count: int = 1
    signed: bool = False
    bit_offset: int = 0
    bit_size: int = 0
    names: Annotated[tuple[tuple[int, str], ...], Meta(max_length=_MAX_ENUMERATORS)] = ()
    """Enumerators by value."""


@dataclass(frozen=True)
class Structure:
    """A type to lay over memory."""

    name: str
    size: int
    slots: tuple[PlacedMember, ...]


class _Answer(msgspec.Struct, omit_defaults=True):
    """What BTF says of a name: the type, or types of names that are close."""

    name: str = ""
    size: int = 0
    members: Annotated[tuple[PlacedMember, ...], Meta(max_length=_MAX_MEMBERS)] = ()
    close: tuple[str, ...] = ()


def find_structure(view: KernelView, name: str, module: str | None = None) -> Structure:
    """The type called `name`, with or without ``struct``, of a `module` ("" for the kernel) or of
    whoever has it first. Raises `HostError` with names that are close where there is none.
    """
    name = " ".join(name.split())
    key = f"members of {name}" + ("" if module is None else f" of {module or 'the kernel'}")
    answer = answered(view.host, key, _Answer, lambda: _by_btf(view, name, module))
    if answer is not None and answer.name:
        return _checked(answer)
    host = view.host
    before = host.unanswered if isinstance(host, RecordedHost) else 0
    found = _by_layout(view, name)
    if found is not None:
        return found
    if isinstance(host, RecordedHost) and host.unanswered > before:
        host.unanswered = before  # the error says it, to whoever needs the type
        raise HostError(
            f"this session did not record {name}: objsim ADDRESS --as {quote(name)} --record FILE "
            "on the dump makes one that does"
        )
    raise HostError(no_such_type(name, () if answer is None else answer.close))


def _by_btf(view: KernelView, name: str, module: str | None) -> _Answer | None:
    btf = view.btf
    number = None if btf is None else btf.find(name, module)
    if number is None:  # a module's that nobody has asked for yet?
        btf = view.types.with_all()
        number = None if btf is None else btf.find(name, module)
    if btf is None:
        return None
    if number is None:
        known = [*btf.named(BtfKind.STRUCT), *btf.named(BtfKind.UNION)]
        return _Answer(close=close_to(name, known))
    slots = _slots(btf, flat(Fields(btf).of(number)))
    return _Answer(btf.describe(number), btf.size(number), tuple(slots))


def _checked(answer: _Answer) -> Structure:
    """No member may lead outside the type: it may be a stranger's. Raises `HostError`."""
    sound = 0 <= answer.size <= _MAX_SIZE and all(
        min(s.offset, s.size, s.bit_offset, s.bit_size) >= 0
        and s.offset + s.size <= answer.size
        and 0 < s.count <= max(s.size, 1)
        and s.bit_offset + s.bit_size <= 8 * s.size
        for s in answer.members
    )
    if not sound:
        raise HostError("the description of this type makes no sense")
    return Structure(answer.name, answer.size, answer.members)


def _slots(btf: Btf, fields: list[Field]) -> list[PlacedMember]:
    """Fields as they are printed: links one by one, elements of an array together."""
    result: list[PlacedMember] = []
    for _, run in groupby(enumerate(fields), key=lambda f: _array_of(f[1]) or f[0]):
        some = [field for _, field in run]
        first = some[0]
        if first.form in (Form.LIST, Form.HLIST_NODE):
            second = "prev" if first.form == Form.LIST else "pprev"
            for field in some:
                for at, link in ((0, "next"), (8, second)):
                    where = field.offset + at
                    result.append(PlacedMember(f"{field.name}.{link}", where, 8, Form.POINTER))
            continue
        name = first.name
        if len(some) > 1:
            name = f"{_array_of(first)[0]}[{len(some)}]"
        inner = btf.strip(first.type)
        names = btf.enumerators(inner) if first.form == Form.ENUM else {}
        result.append(
            PlacedMember(
                name,
                first.offset,
                first.size * len(some),
                first.form,
                len(some),
                btf.kind[inner] == BtfKind.INT and btf.integer(inner)[0],
                first.bit_offset,
                first.bit_size,
                tuple(list(names.items())[:_MAX_ENUMERATORS]),
            )
        )
    return result[:_MAX_MEMBERS]


def _array_of(field: Field) -> tuple[str, int, int]:
    """What elements of one array have in common; () for what is no element."""
    match = _ELEMENT.fullmatch(field.name)
    return (match[1], field.size, int(field.form)) if match else ()  # type: ignore[return-value]


def _by_layout(view: KernelView, name: str) -> Structure | None:
    for full in (name, f"struct {name}") if " " not in name else (name,):
        layout = view.host.layout(full)
        if layout is not None and layout.size <= _MAX_SIZE:
            slots = sorted(
                (
                    PlacedMember(
                        n,
                        m.offset,
                        m.size,
                        Form.POINTER if m.size == 8 else Form.INT if m.size < 8 else Form.BYTES,
                        bit_offset=m.bit_offset,
                        bit_size=m.bit_size,
                    )
                    for n, m in layout.members.items()
                    if m.size and m.offset + m.size <= layout.size
                ),
                key=lambda s: (s.offset, s.bit_offset, -s.size),
            )
            return Structure(full, layout.size, tuple(slots[:_MAX_MEMBERS]))
    return None


def members(
    view: KernelView,
    classifier: Classifier,
    decoder: Decoder,
    address: int,
    what: Structure,
    room: int,
) -> tuple[MemberValue, ...]:
    """The members of the `what` at `address`, in order of declaration.

    Those that end after `room` bytes are left out: they are another object's.
    """
    data, ok = _read(view, address, min(what.size, room))
    words = classifier.classify(data[None], np.array([address], np.uint64))
    kinds, details = words.kinds[0], words.details[0]
    result = []
    for slot in what.slots:
        end = slot.offset + slot.size
        if end > len(data):
            continue
        raw = data[slot.offset : end].tobytes()
        value = None
        if not ok[slot.offset // 8 : (end + 7) // 8].all():
            meaning = missing(view.host.info().live)
        elif slot.form in (Form.CHARS, Form.BYTES):
            meaning = _text(raw) if slot.form == Form.CHARS else _bytes(raw)
        elif slot.count > 1:
            meaning = _array(raw, slot)
        else:
            value = U64.from_bytes(raw, "little")
            if slot.bit_size:
                value = U64(value >> slot.bit_offset & (1 << slot.bit_size) - 1)
            if slot.size == 8 and slot.offset % 8 == 0 and not slot.bit_size:
                word = slot.offset // 8
                meaning = decoder.meaning(
                    value, Kind(int(kinds[word])), slot.offset, int(details[word])
                )
                if slot.form == Form.TAGGED and kinds[word] == Kind.SELF:
                    meaning = "itself: in no tree" if details[word] == slot.offset else meaning
                meaning = meaning or _number(value, slot)
            else:
                meaning = _number(value, slot)
        result.append(MemberValue(slot.name, slot.offset, slot.size, value, meaning))
    return tuple(result)


def _read(view: KernelView, address: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Bytes, and which of their words are in the dump."""
    count = (size + 7) // 8
    try:
        data = np.frombuffer(view.host.read(address, size), np.uint8)
        return data, np.ones(count, np.bool_)
    except ReadFault:
        words, ok = words_at(view.host, np.uint64(address) + np.arange(count, dtype=np.uint64) * 8)
        return np.where(ok, words, 0).astype("<u8").view(np.uint8)[:size], ok


def _number(value: int, slot: PlacedMember) -> str:
    bits = slot.bit_size or 8 * slot.size // slot.count
    if slot.form == Form.BOOL:
        return {0: "false", 1: "true"}.get(value, f"{value}, neither false nor true")
    known = dict(slot.names).get(value)
    if known is not None:
        return f"{known} ({value})"
    if (slot.signed or slot.form == Form.ENUM) and value >> (bits - 1) & 1 and bits >= 8:
        value -= 1 << bits
    error = error_name(value)
    return f"{value} ({error})" if error else str(value)


def _array(raw: bytes, slot: PlacedMember) -> str:
    size = slot.size // slot.count
    values = [int.from_bytes(raw[i : i + size], "little") for i in range(0, len(raw), size)]
    if not any(values):
        return "all 0"
    shown = [f"{v:#x}" if size == 8 else _number(v, slot) for v in values[:_ELEMENTS]]
    return ", ".join(shown) + (f", ... {len(values)} in all" if len(values) > _ELEMENTS else "")


def _text(raw: bytes) -> str:
    """Characters as text where they are some, else as bytes."""
    text, _, rest = raw.partition(b"\0")
    if text and not rest.strip(b"\0") and all(0x20 <= c < 0x7F for c in text):
        more = "..." if len(text) > _TEXT else ""
        return f'"{text[:_TEXT].decode("ascii")}"{more}'
    return _bytes(raw)


def _bytes(raw: bytes) -> str:
    if not any(raw):
        return "all 0"
    return raw[:_ELEMENTS].hex(" ") + (f" ... {len(raw)} bytes" if len(raw) > _ELEMENTS else "")
