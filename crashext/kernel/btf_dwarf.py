"""BTF of a module made of its debug file's DWARF, for kernels whose modules carry none.

What pahole does when a kernel is built: types that the kernel has itself are left to it, and all
others follow its numbering. drgn reads the DWARF; names of types are found by trying the debug
file's strings. Of types that share a name in one module the first is known.

Sources: include/uapi/linux/btf.h.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from crashext.kernel.btf import Btf
from crashext.kernel.btf_types import BtfKind
from crashext.kernel.btf_words import MAGIC

if TYPE_CHECKING:
    import drgn

_MOST_NAMES = 1 << 18
_MOST_TYPES = 1 << 17
_LONGEST = 128
_WORD = re.compile(rb"[A-Za-z_]\w*\Z")
_SHORT = re.compile(rb"(?<![\w])[A-Za-z_]\w{0,2}(?=\0)")
"""Names of up to three characters stand in the DWARF itself: an offset would be no shorter."""
_MAX_VLEN = 0xFFFF
_KIND_FLAG = 1 << 31


def btf_of_dwarf(path: Path, kernel: Btf | None) -> bytes | None:
    """BTF over that of `kernel`, or whole where there is none; None where the file has no types."""
    import drgn  # takes a third of a second to import

    try:
        names, functions = _names(path)
        program = drgn.Program()
        module = program.extra_module(path.name, create=True)
        module.try_file(str(path), force=True)
        if module.debug_file_status != drgn.ModuleFileStatus.HAVE:
            return None
    except (OSError, ELFError, ConstructError, ValueError, KeyError, AssertionError):
        return None
    except Exception:  # drgn raises bare Exception for what it has no class for
        return None
    writer = _Writer(kernel)
    for found in _types(program, names):
        writer.add(found)
    for name in functions:
        try:
            writer.add_function(name, program.function(name).type_)
        except LookupError:
            continue
    return writer.blob() if len(writer) else None


def _names(path: Path) -> tuple[list[str], list[str]]:
    """Words that may be types' names, and names of functions, of an ELF file with DWARF."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        texts = elf.get_section_by_name(".debug_str")
        info = elf.get_section_by_name(".debug_info")
        symbols = elf.get_section_by_name(".symtab")
        words = set(texts.data().split(b"\0")) if texts is not None else set()
        words |= set(_SHORT.findall(info.data())) if info is not None else set()
        functions = [] if symbols is None else list(_functions(symbols))
    good = (w.decode() for w in words if len(w) < _LONGEST and _WORD.match(w))
    return sorted(good)[:_MOST_NAMES], functions[:_MOST_NAMES]


def _functions(symbols: Any) -> Iterator[str]:
    for symbol in symbols.iter_symbols():
        if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_shndx"] != "SHN_UNDEF":
            yield symbol.name


def _types(program: drgn.Program, names: list[str]) -> Iterator[drgn.Type]:
    """Every struct, union and typedef that is called so."""
    for name in names:
        for full in (f"struct {name}", f"union {name}", name):
            try:
                found = program.type(full)
            except (LookupError, SyntaxError):
                continue
            if full != name or found.kind.name == "TYPEDEF":
                yield found


class _Writer:
    """Types by number, in the words of BTF."""

    def __init__(self, kernel: Btf | None) -> None:
        self._kernel = kernel
        self._first, text = (1, 1) if kernel is None else kernel.base
        self._text_first = text if kernel is not None else 0
        self._strings, self._text = {"": 0}, bytearray(b"\0")
        self._types: list[bytes] = []
        self._known: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._types)

    def blob(self) -> bytes:
        """Header, types, strings."""
        types = b"".join(self._types)
        sizes = (0, len(types), len(types), len(self._text))
        return struct.pack("<HBBIIIII", MAGIC, 1, 0, 24, *sizes) + types + bytes(self._text)

    def add(self, found: drgn.Type) -> None:
        """A type, and those that it is made of."""
        if len(self._types) < _MOST_TYPES:
            self._number(found)

    def add_function(self, name: str, prototype: drgn.Type) -> None:
        """A function of the module's own."""
        if len(self._types) < _MOST_TYPES:
            self._put(self._new(), name, BtfKind.FUNC, 0, self._number(prototype))

    def _new(self) -> int:
        self._types.append(b"")
        return self._first + len(self._types) - 1

    def _put(
        self,
        number: int,
        name: str,
        kind: int,
        vlen: int,
        value: int,
        rest: bytes = b"",
        flag: int = 0,
    ) -> int:
        words = struct.pack("<III", self._string(name), flag | kind << 24 | vlen, value)
        self._types[number - self._first] = words + rest
        return number

    def _string(self, text: str) -> int:
        if text not in self._strings:
            self._strings[text] = len(self._text)
            self._text += text.encode("utf-8", "replace") + b"\0"
        at = self._strings[text]
        return at + self._text_first if at else 0

    def _number(self, found: drgn.Type) -> int:
        """The number of a type, which is written if nobody has it."""
        return int(getattr(self, f"_{found.kind.name.lower()}")(found))

    def _void(self, found: drgn.Type) -> int:
        return 0

    def _scalar(self, found: drgn.Type, encoding: int) -> int:
        key = ("int", found.name, found.size, encoding)
        if key not in self._known:
            bits = struct.pack("<I", encoding << 24 | 8 * found.size)
            self._known[key] = self._put(self._new(), found.name, BtfKind.INT, 0, found.size, bits)
        return self._known[key]

    def _int(self, found: drgn.Type) -> int:
        return self._scalar(found, int(found.is_signed) | 2 * (found.name.endswith("char")))

    def _bool(self, found: drgn.Type) -> int:
        return self._scalar(found, 4)

    def _float(self, found: drgn.Type) -> int:
        key = ("float", found.size)
        if key not in self._known:
            self._known[key] = self._put(self._new(), found.name, BtfKind.FLOAT, 0, found.size)
        return self._known[key]

    def _pointer(self, found: drgn.Type) -> int:
        key = ("pointer", self._number(found.type))
        if key not in self._known:
            self._known[key] = self._put(self._new(), "", BtfKind.PTR, 0, key[1])
        return self._known[key]

    def _array(self, found: drgn.Type) -> int:
        key = ("array", self._number(found.type), found.length or 0)
        if key not in self._known:
            index = ("index",)
            if index not in self._known:
                bits = struct.pack("<I", 32)
                self._known[index] = self._put(
                    self._new(), "__ARRAY_SIZE_TYPE__", BtfKind.INT, 0, 4, bits
                )
            entry = struct.pack("<III", key[1], self._known[index], key[2])
            self._known[key] = self._put(self._new(), "", BtfKind.ARRAY, 0, 0, entry)
        return self._known[key]

    def _typedef(self, found: drgn.Type) -> int:
        key = ("typedef", found.name, found.type.kind.name)
        if key not in self._known and (kernels := self._kernels_typedef(found)) is not None:
            self._known[key] = kernels
        if key not in self._known:
            number = self._known[key] = self._new()
            self._put(number, found.name, BtfKind.TYPEDEF, 0, self._number(found.type))
        return self._known[key]

    def _function(self, found: drgn.Type) -> int:
        types = [self._number(p.type) for p in found.parameters][:_MAX_VLEN]
        result = self._number(found.type)
        key = ("function", result, *types)
        if key not in self._known:
            entries = b"".join(struct.pack("<II", 0, t) for t in types)
            self._known[key] = self._put(
                self._new(), "", BtfKind.FUNC_PROTO, len(types), result, entries
            )
        return self._known[key]

    def _enum(self, found: drgn.Type) -> int:
        name, values = found.tag or "", found.enumerators or ()
        key = ("enum", name, len(values))
        if name and key in self._known:
            return self._known[key]
        number = self._known[key] = self._new()
        size = 4 if found.type is None else found.type.size
        if size > 4 or any(not -(1 << 31) <= e.value < 1 << 32 for e in values):
            kind = BtfKind.ENUM64
            rows = [
                struct.pack("<IQ", self._string(e.name), e.value & (1 << 64) - 1)
                for e in values[:_MAX_VLEN]
            ]
        else:
            kind = BtfKind.ENUM
            rows = [
                struct.pack("<II", self._string(e.name), e.value & 0xFFFFFFFF)
                for e in values[:_MAX_VLEN]
            ]
        return self._put(number, name, kind, len(rows), size, b"".join(rows))

    def _struct(self, found: drgn.Type) -> int:
        return self._compound(found, BtfKind.STRUCT)

    _class = _struct

    def _union(self, found: drgn.Type) -> int:
        return self._compound(found, BtfKind.UNION)

    def _compound(self, found: drgn.Type, kind: BtfKind) -> int:
        name, size = found.tag or "", found.size
        key = (kind, name, size)
        if name and key in self._known:
            return self._known[key]
        kernels = self._kernels(found, kind, name)
        if kernels is not None:
            self._known[key] = kernels
            return kernels
        number = self._new()
        if name:
            self._known[key] = number
        if found.members is None or size is None:
            flag = _KIND_FLAG if kind is BtfKind.UNION else 0
            return self._put(number, name, BtfKind.FWD, 0, 0, flag=flag)
        members = found.members[:_MAX_VLEN]
        flag = _KIND_FLAG if any(m.bit_field_size for m in members) else 0
        rows = []
        for member in members:
            bits = (member.bit_field_size or 0) << 24 if flag else 0
            where = bits | (member.bit_offset & (0xFFFFFF if flag else 0xFFFFFFFF))
            rows.append(
                struct.pack(
                    "<III", self._string(member.name or ""), self._number(member.type), where
                )
            )
        return self._put(number, name, kind, len(rows), size, b"".join(rows), flag)

    def _kernels_typedef(self, found: drgn.Type) -> int | None:
        """The kernel's typedef of that name, if what it stands for is as large."""
        if self._kernel is None:
            return None
        from crashext.hosts.drgn_layouts import without_typedefs  # imports drgn, as a caller has

        inner = without_typedefs(found.type)
        size = 8 if inner.kind.name == "POINTER" else getattr(inner, "size", 0) or 0
        for number in self._kernel.named(BtfKind.TYPEDEF).get(found.name, []):
            if not self._kernel.module(number) and self._kernel.size(number) in (size, 0):
                return number
        return None

    def _kernels(self, found: drgn.Type, kind: BtfKind, name: str) -> int | None:
        """The kernel's own type of that name with the same members in the same places."""
        if self._kernel is None or not name:
            return None
        for number in self._kernel.named(kind).get(name, []):
            if self._kernel.module(number):
                continue
            if found.members is None:
                return number
            theirs = [(m.name, m.bit_offset) for m in self._kernel.members(number)]
            ours = [(m.name or "", m.bit_offset) for m in found.members]
            if self._kernel.size(number) == found.size and theirs == ours:
                return number
        return None
