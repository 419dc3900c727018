"""Layouts and enumerators from BTF, in the words of a host: instead of a debugger's, where there is
one. It knows the format through `btf` only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from crashext.hosts.base import Host, Layout, Member
from crashext.kernel.btf import Btf, BtfKind
from crashext.kernel.btf_memory import read_btf, read_kernel_btf

_MAX_NESTING = 32  # of anonymous structs and unions
_FACT = re.compile(r"(SIZE|OFFSET)\((\w+)(?:\.(\w+))?\)")


class BtfLayouts:
    """What a debugger would answer, out of one `Btf`."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._enumerators: dict[str, int | None] = {}

    def functions(self) -> set[str]:
        """Names of all functions."""
        return set(self._btf.named(BtfKind.FUNC))

    def layout(self, type_name: str) -> Layout | None:
        """Layout of e.g. ``struct page``; None where there is no such type."""
        number = self._btf.find(type_name)
        if number is None:
            return None
        members: dict[str, Member] = {}
        self._flatten(number, 0, members, 0)
        return Layout(type_name, self._btf.size(number), members)

    def _flatten(self, number: int, base: int, members: dict[str, Member], depth: int) -> None:
        """Collect members with offsets from the outermost struct, through anonymous ones."""
        for member in self._btf.members(number):
            bits = base + member.bit_offset
            if member.name:
                members.setdefault(
                    member.name,
                    Member(
                        bits // 8,
                        self._btf.size(member.type),
                        bits % 8 if member.bit_size else 0,
                        member.bit_size,
                    ),
                )
                continue
            inner = self._btf.strip(member.type)
            if self._btf.kind[inner] in (BtfKind.STRUCT, BtfKind.UNION) and depth < _MAX_NESTING:
                self._flatten(inner, bits, members, depth + 1)

    def enumerator(self, name: str) -> int | None:
        """Value of an enumerator; None where no enum has it."""
        if name not in self._enumerators:  # a look through all names takes a millisecond
            self._enumerators[name] = self._btf.enumerator(name)
        return self._enumerators[name]


def disagreement(types: BtfLayouts, vmcoreinfo: Mapping[str, str]) -> str:
    """The first size or offset that VMCOREINFO gives otherwise; "" where they agree.

    The note is a second witness of the same structures: what both tell must be equal.
    """
    for key, text in vmcoreinfo.items():
        fact = _FACT.fullmatch(key)
        if fact is None or not text.isdecimal():
            continue
        layout = types.layout(fact[2])
        if layout is None or (fact[3] and fact[3] not in layout):
            continue  # the note keeps some names that the kernel has given up
        ours = layout[fact[3]].offset if fact[3] else layout.size
        if ours != int(text):
            return f"holds damaged BTF: {key} is {ours} there, {text} in VMCOREINFO"
    return ""


class CarriedTypes:
    """The types that a dump carries in its own memory, for a host that has no better source.

    What the kernel's own BTF knows is answered from that; the modules' is read for other names.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._all: BtfLayouts | None = None

    @property
    def known(self) -> bool:
        """Whether there are any: then a name that is not among them is no type of the kernel."""
        return self._kernel is not None

    def layout(self, type_name: str) -> Layout | None:
        """Layout of e.g. ``struct page``; None where there is no such type."""
        if self._kernel is None:
            return None
        return self._kernel.layout(type_name) or self._everything(self._kernel).layout(type_name)

    def enumerator(self, name: str) -> int | None:
        """Value of an enumerator of the kernel; None where no enum of its has it."""
        return None if self._kernel is None else self._kernel.enumerator(name)

    @property
    def problem(self) -> str:
        """Why there are none, in words that follow "the dump" or "it"; empty where there are."""
        if self._kernel is not None:
            return ""
        return self._disagreement or self._read[1] or "holds no BTF"

    def functions(self) -> set[str]:
        """Names of the kernel's functions: BTF has them beside kallsyms, in plain text."""
        return set() if self._kernel is None else self._kernel.functions()

    @cached_property
    def _kernel(self) -> BtfLayouts | None:
        return None if self._disagreement else self._read[0]

    @cached_property
    def _read(self) -> tuple[BtfLayouts | None, str]:
        btf, why = read_kernel_btf(self._host)
        why = why and f"holds damaged BTF: {why}"
        return (None if btf is None else BtfLayouts(btf)), why

    @cached_property
    def _disagreement(self) -> str:
        types = self._read[0]
        return "" if types is None else disagreement(types, self._host.info().vmcoreinfo)

    def _everything(self, kernel: BtfLayouts) -> BtfLayouts:
        if self._all is None:
            self._all = kernel  # reading the modules' asks for layouts itself
            btf = read_btf(self._host)
            self._all = kernel if btf is None else BtfLayouts(btf)
        return self._all
