"""Whether BTF is whole: what the kernel's own verifier asks of it, and what its makers keep to.

A dump may have lost pages of it, or hold other bytes there. Wrong types are worse than none: each
rule is one that damage breaks and no kernel's BTF does. Sources: kernel/bpf/btf.c
(btf_check_all_metas, btf_struct_resolve), tools/lib/bpf/btf.c (btf_dedup_strings: each string
stands alone).
"""

from __future__ import annotations

from collections.abc import Callable
from operator import gt

import numpy as np
from numpy.typing import NDArray

from crashext.kernel.btf_types import BtfKind
from crashext.kernel.btf_unit import Unit, entry_words, words_of

Numbers = NDArray[np.int64]
Kinds = NDArray[np.bool_]
"""Some kinds of types: which they are, by number; the last is the unknown one."""

_K = BtfKind
_UNKNOWN = -1


def _kinds(*kinds: int) -> Kinds:
    """To look a hundred thousand up in at once."""
    table = np.zeros(33, np.bool_)
    table[list(kinds)] = True
    return table


_UNUSED = 0x60FF0000  # bits of a type's second word
_NAMED = _kinds(_K.INT, _K.FWD, _K.TYPEDEF, _K.FUNC, _K.VAR, _K.DATASEC, _K.FLOAT, _K.DECL_TAG)
_NAMELESS = _kinds(_K.PTR, _K.ARRAY, _K.VOLATILE, _K.CONST, _K.RESTRICT, _K.FUNC_PROTO)
_HAVE_ENTRIES = _kinds(_K.STRUCT, _K.UNION, _K.ENUM, _K.FUNC_PROTO, _K.DATASEC, _K.ENUM64, _K.FUNC)
_SIZED = _kinds(_K.INT, _K.STRUCT, _K.UNION, _K.ENUM, _K.ENUM64, _K.FLOAT)
_REFER = _kinds(
    *(_K.PTR, _K.TYPEDEF, _K.VOLATILE, _K.CONST, _K.RESTRICT, _K.FUNC, _K.VAR, _K.DECL_TAG),
    *(_K.TYPE_TAG, _K.FUNC_PROTO),
)
_TRANSPARENT = _kinds(_K.TYPEDEF, _K.VOLATILE, _K.CONST, _K.RESTRICT, _K.TYPE_TAG)
_NO_MEMBER = _kinds(_K.VOID, _K.FWD, _K.FUNC, _K.FUNC_PROTO, _K.VAR, _K.DATASEC, _K.DECL_TAG)
_MOST_ARE = 100
"""Of types in an order, one in so many may be out of it: where more are, there was none."""
_MAX_CHAIN = 24  # modifiers, typedefs and arrays around one type
_LETTER = np.zeros(256, np.bool_)
"""Those of a C name; blanks of int's, dots of sections', what C++ and Rust put in besides."""
_LETTER[list(b"\0 $.:<>,&*()[]{}-+~_0123456789")] = True
_LETTER[65:91] = _LETTER[97:123] = True
# const struct {...};
_MAY_BE_NAMELESS = _kinds(_K.STRUCT, _K.UNION, _K.CONST, _K.VOLATILE, _UNKNOWN)


def defect(unit: Unit, base: tuple[int, int] = (1, 0)) -> str:
    """What is wrong with the BTF of the kernel, or of a module; "" where nothing is.

    `base` is where a module's own types and strings begin to count.
    """
    checks: tuple[Callable[[_Table], str], ...] = (
        _ends,
        _heads,
        _names,
        _order,
        _references,
        _members,
    )
    table = _Table(unit, base)
    return next((why for check in checks if (why := check(table))), "")


class _Table:
    """A unit's types as columns; row i is the type of number `first` + i."""

    def __init__(self, unit: Unit, base: tuple[int, int]) -> None:
        self.unit, (self.first, self.text) = unit, base
        starts = unit.starts
        self.name, self.info, self.third = (self.words(starts + i) for i in range(3))
        self.kind = self.info >> 24 & 0x1F
        self.vlen = self.info & 0xFFFF
        self.flag = self.info >> 31 != 0
        self.end = self.first + len(starts)

    def words(self, at: Numbers) -> Numbers:
        return self.unit.words[at].astype(np.int64)

    def rows(self, *kinds: BtfKind) -> Numbers:
        return self.of(_kinds(*kinds))

    def of(self, kinds: Kinds) -> Numbers:
        return np.flatnonzero(kinds[self.kind])

    def entries(self, kind: BtfKind) -> tuple[Numbers, Numbers]:
        """(row of the type, where in `words` an entry begins) of every entry of a kind's types."""
        rows = self.rows(kind)
        counts = self.vlen[rows]
        owner = np.repeat(rows, counts)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        return owner, self.unit.starts[owner] + 3 + nth * entry_words(kind)

    def kinds_of(self, types: Numbers) -> Numbers:
        """Kinds of types by number; unknown for those of the kernel that a module refers to."""
        own = types >= self.first
        rows = np.where(own, types - self.first, 0)
        kinds = np.where(own, self.kind[rows], _UNKNOWN)
        return np.where(types == 0, int(_K.VOID), kinds)


def _ends(table: _Table) -> str:
    unit = table.unit
    if not len(unit.starts):
        return "it has no types"
    last = int(unit.starts[-1])
    if last + words_of(int(table.kind[-1]), int(table.vlen[-1])) != len(unit.words):
        return "its types end early"
    text = unit.strings
    starts_well = table.text or text[:1] == b"\0"
    return "" if text[-1:] == b"\0" and starts_well else "its names are not whole"


def _heads(table: _Table) -> str:
    extra = ~_HAVE_ENTRIES[table.kind] & (table.vlen != 0)
    unnamed = _NAMED[table.kind] & (table.name == 0)
    named = _NAMELESS[table.kind] & (table.name != 0)
    bad = extra | unnamed | named | (table.info & _UNUSED != 0)
    return _of_type(table, bad, "is none")


def _names(table: _Table) -> str:
    """A name is a whole string, and no empty one."""
    places = [table.name]
    for kind in (_K.STRUCT, _K.UNION, _K.ENUM, _K.ENUM64, _K.FUNC_PROTO):
        _, at = table.entries(kind)
        names = table.words(at)
        if kind in (_K.ENUM, _K.ENUM64) and not names.all():
            return "an enumerator has no name"
        places.append(names)
    every = np.concatenate(places)
    own = every[every >= max(table.text, 1)] - table.text
    text = np.frombuffer(table.unit.strings, np.uint8)
    if len(own) and int(own.max()) >= len(text):
        return "a name is beyond its names"
    before = text[np.maximum(own - 1, 0)]
    if ((before != 0) & (own > 0)).any() or (text[own] == 0).any():
        return "a name is none"
    return "a name is none" if not _LETTER[text].all() else ""


def _order(table: _Table) -> str:
    """Each name of the kernel's stands there once (btf_dedup_strings), and types that were sorted
    by name (those of 7.2, by resolve_btfids) are so.
    """
    if table.text:
        return ""
    texts = table.unit.strings.split(b"\0")[:-1]
    if len(set(texts)) < len(texts):
        return "a name is there twice"
    begins = np.flatnonzero(np.frombuffer(table.unit.strings, np.uint8) == 0)
    nth = np.searchsorted(begins, table.name).tolist()
    names = [texts[i] for i in nth]
    disorder = sum(map(gt, names, names[1:]))
    sorted_once = 0 < disorder < len(names) // _MOST_ARE
    return "some names are not in their order" if sorted_once else ""


def _references(table: _Table) -> str:
    refer = _REFER[table.kind] & (table.third >= table.end)
    why = _of_type(table, refer, "refers to a type that is none")
    arrays = table.unit.starts[table.rows(_K.ARRAY)]
    may_be_void = [table.words(table.entries(_K.FUNC_PROTO)[1] + 1)]
    must_be = [table.words(arrays + 3), table.words(arrays + 4)]
    must_be += [table.words(table.entries(kind)[1] + 1) for kind in (_K.STRUCT, _K.UNION)]
    must_be += [table.words(table.entries(_K.DATASEC)[1])]
    every = np.concatenate(may_be_void + must_be)
    if why or (every >= table.end).any() or not np.concatenate(must_be).all():
        return why or "a type refers to one that is none"
    functions = table.rows(_K.FUNC)
    kinds = table.kinds_of(table.third[functions])
    if ((kinds != _K.FUNC_PROTO) & (kinds != _UNKNOWN)).any():
        return "a function is none"
    return ""


def _members(table: _Table) -> str:
    """Members lie inside their struct, one after the other, and are of types that have a size."""
    sizes = _sizes(table)
    for kind in (_K.STRUCT, _K.UNION):
        owner, at = table.entries(kind)
        types, raw = table.words(at + 1), table.words(at + 2)
        kinds = table.kinds_of(types)
        nameless = (table.words(at) == 0) & ~_MAY_BE_NAMELESS[kinds]
        if _NO_MEMBER[kinds].any() or nameless.any():
            return "a member is none"
        flag = table.flag[owner]
        begin = np.where(flag, raw & 0xFFFFFF, raw)
        width = np.where(flag, raw >> 24, 0)
        bits = np.where(width > 0, width, 8 * _looked_up(table, sizes, types))
        known = bits >= 0
        end = begin + np.where(known, bits, 0)
        bad = end > 8 * table.third[owner]
        bad |= (width == 0) & (begin % 8 != 0)
        if kind is _K.STRUCT:
            same = owner[1:] == owner[:-1]
            bad[1:] |= same & (begin[1:] < end[:-1])
        else:
            bad |= begin != 0
        if bad.any():
            row = int(owner[np.argmax(bad)])
            return _of_type(table, np.arange(len(table.kind)) == row, "has members out of place")
    return ""


def _looked_up(table: _Table, sizes: Numbers, types: Numbers) -> Numbers:
    own = types >= table.first
    return np.where(own, sizes[np.where(own, types - table.first, 0)], _UNKNOWN)


def _sizes(table: _Table) -> Numbers:
    """Bytes of each type; unknown where it has none, or the kernel has it and this is a module."""
    sizes = np.full(len(table.kind), _UNKNOWN, np.int64)
    fixed = _SIZED[table.kind]
    sizes[fixed] = table.third[fixed]
    sizes[table.rows(_K.PTR)] = 8
    through, arrays = table.of(_TRANSPARENT), table.rows(_K.ARRAY)
    at = table.unit.starts[arrays]
    element, count = table.words(at + 3), table.words(at + 5)
    for _ in range(_MAX_CHAIN):
        before = sizes[arrays].copy(), sizes[through].copy()
        sizes[through] = _looked_up(table, sizes, table.third[through])
        inner = _looked_up(table, sizes, element)
        sizes[arrays] = np.where(inner < 0, _UNKNOWN, inner * count)
        if np.array_equal(before[0], sizes[arrays]) and np.array_equal(before[1], sizes[through]):
            break
    return sizes


def _of_type(table: _Table, bad: NDArray[np.bool_], what: str) -> str:
    return f"type {table.first + int(np.argmax(bad))} {what}" if bad.any() else ""
