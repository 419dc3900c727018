"""Layouts and enumerators from BTF, in the words of a host: instead of a debugger's, where there is
one. It knows the format through `btf` only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

from crashext.hosts.absent import Members, a_bit_apart, require_absent
from crashext.hosts.base import Host, Layout
from crashext.kernel.btf import Btf
from crashext.kernel.btf_memory import read_btf, read_kernel_btf, read_names
from crashext.kernel.btf_types import BtfKind

_FACT = re.compile(r"(SIZE|OFFSET)\((\w+)(?:\.(\w+))?\)")
_NUMBER = re.compile(r"NUMBER\((\w+)\)")
_PERCPU = ".data..percpu"


class BtfLayouts:
    """What a debugger would answer, out of one `Btf`."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._enumerators: dict[str, int | None] = {}

    def require_no_type(self, name: str) -> None:
        """Raises `HostError` where ``struct x`` is missing because its name is damaged."""
        word, _, rest = name.rpartition(" ")
        kind = BtfKind.UNION if word == "union" else BtfKind.STRUCT
        require_absent(rest, self._btf.named(kind))

    def require_no_enumerator(self, name: str) -> None:
        """The same for an enumerator."""
        if name not in self._texts:
            other = a_bit_apart(name, self._texts)
            if self.enumerator(other) is not None:
                require_absent(name, {other})

    @cached_property
    def _texts(self) -> frozenset[str]:
        return self._btf.texts()

    def functions(self) -> set[str]:
        """Names of all functions."""
        return self._btf.function_names()

    def percpu(self) -> dict[str, int]:
        """Per-CPU variables of the image: how far from the first each is."""
        return self._btf.section(_PERCPU)

    def layout(self, type_name: str) -> Layout | None:
        """Layout of e.g. ``struct page``; None where there is no such type."""
        number = self._btf.find(type_name)
        if number is None:
            return None
        return self._btf.layout_of(number, type_name)

    def enumerator(self, name: str) -> int | None:
        """Value of an enumerator; None where no enum has it."""
        if name not in self._enumerators:  # a look through all names takes a millisecond
            self._enumerators[name] = self._btf.enumerator(name)
        return self._enumerators[name]


def disagreement(types: BtfLayouts, vmcoreinfo: Mapping[str, str]) -> str:
    """The first size, offset or number that VMCOREINFO gives otherwise; "" where they agree.

    The note is a second witness of the same structures: what both tell must be equal.
    """
    for key, text in vmcoreinfo.items():
        ours = _said_of(types, key) if text.isdecimal() else None
        if ours is not None and ours != int(text):
            return f"holds damaged BTF: {key} is {ours} there, {text} in VMCOREINFO"
    return ""


def _said_of(types: BtfLayouts, key: str) -> int | None:
    """What BTF says of a line of the note; None where nothing: the note has numbers that are no
    enumerator's, and keeps some names that the kernel has given up.
    """
    number = _NUMBER.fullmatch(key)
    if number is not None:
        return types.enumerator(number[1])
    fact = _FACT.fullmatch(key)
    layout = None if fact is None else types.layout(fact[2])
    if fact is None or layout is None:
        return None
    if not fact[3]:
        return layout.size
    return layout[fact[3]].offset if fact[3] in layout else None


class CarriedTypes:
    """The types that a dump carries in its own memory, for a host that has no better source.

    What the kernel's own BTF knows is answered from that; the modules' is read for other names.
    Where it is `alone`, with no debug file behind it, what it lacks may not be there damaged.
    """

    def __init__(self, host: Host, alone: bool = False) -> None:
        self._host, self._alone = host, alone
        self._all: BtfLayouts | None = None
        self._asked = False

    @property
    def known(self) -> bool:
        """Whether there are any: then a name that is not among them is no type of the kernel."""
        return self._kernel is not None

    def layout(self, type_name: str) -> Layout | None:
        """Layout of e.g. ``struct page``; None where there is no such type."""
        kernel = self._kernel
        if kernel is None:
            return None
        found = kernel.layout(type_name)
        if found is None and self._of_modules(type_name):
            found = self._everything(kernel).layout(type_name)
        if not self._alone:
            return found
        if found is None:
            kernel.require_no_type(type_name)
            return None
        return replace(found, members=Members(found.members))

    def _of_modules(self, type_name: str) -> bool:
        """Whether a module may have it. Reading the modules' types asks for layouts itself."""
        if self._asked:
            return False
        self._asked = True
        try:
            return b"\0" + type_name.rpartition(" ")[2].encode() + b"\0" in self._names
        finally:
            self._asked = False

    @cached_property
    def _names(self) -> bytes:
        """Kept: a run asks for a dozen types that nobody has, and to read the modules' is long."""
        return read_names(self._host)

    def enumerator(self, name: str) -> int | None:
        """Value of an enumerator of the kernel; None where no enum of its has it."""
        found = None if self._kernel is None else self._kernel.enumerator(name)
        if found is None and self._alone and self._kernel is not None:
            self._kernel.require_no_enumerator(name)
        return found

    @property
    def problem(self) -> str:
        """Why there are none, in words that follow "the dump" or "it"; empty where there are."""
        if self._kernel is not None:
            return ""
        return self._disagreement or self._read[1] or "holds no BTF"

    def functions(self) -> set[str]:
        """Names of the kernel's functions: BTF has them beside kallsyms, in plain text."""
        return set() if self._kernel is None else self._kernel.functions()

    def percpu(self) -> dict[str, int]:
        """Per-CPU variables of the image: how far from the first each is."""
        return {} if self._kernel is None else self._kernel.percpu()

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
