"""Layouts and enumerators from BTF, in the words of a host: instead of a debugger's, where there is
one. It knows the format through `btf` only.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import replace
from functools import cached_property, partial

from crashext.hosts.absent import DamagedTypes, Members, a_bit_apart, require_absent
from crashext.hosts.base import DebugTypesHost, Host, Layout, Member
from crashext.kernel.btf import Btf
from crashext.kernel.btf_asked import (
    elsewhere,
    is_everywhere,
    miscounted,
    misplaced,
    no_word,
    out_of_row,
)
from crashext.kernel.btf_memory import module_functions, read_btf, read_kernel_btf, read_names
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
        """Raises `DamagedTypes` where ``struct x`` is missing because its name is damaged."""
        word, _, rest = name.rpartition(" ")
        kind = BtfKind.UNION if word == "union" else BtfKind.STRUCT
        require_absent(rest, self._btf.named(kind))
        self._require_no_place(rest, self._btf.places_of(kind))
        if is_everywhere(name):
            raise DamagedTypes(f"there is no {name}, which every kernel until 7.2 has")

    def require_no_member(self, type_name: str, name: str) -> None:
        """The same for a member of a type that is there."""
        number = self._btf.find(type_name)
        if number is not None:
            require_absent(name, self._btf.layout_of(number, type_name).members)
            self._require_no_place(name, self._btf.member_places(number))
            if is_everywhere(type_name, name):
                raise DamagedTypes(f"{type_name} has no {name}, as every kernel until 7.2")

    def require_no_enumerator(self, name: str) -> None:
        """The same for an enumerator."""
        if name in self._texts:
            self._require_no_place(name, self._btf.enumerator_places())
            return
        other = a_bit_apart(name, self._texts)
        if self.enumerator(other) is not None:
            require_absent(name, {other})

    def _require_no_place(self, name: str, places: Container[int]) -> None:
        other = elsewhere(self._btf, name, places)
        if other:
            raise DamagedTypes(f"nothing is called {name}; {other} is, one bit away, in its place")

    def require_fitting(self, type_name: str) -> None:
        """Raises `DamagedTypes` where a type does not lie as compilers lay one out."""
        number = self._btf.find(type_name)
        member = "" if number is None else misplaced(self._btf, number)
        if member:
            raise DamagedTypes(f"{member} of {type_name} is where no compiler puts it")
        layout = self.layout(type_name)
        short = "" if layout is None else no_word(layout)
        if short:
            raise DamagedTypes(f"{short} of {type_name} is no word, as in every kernel until 7.2")

    def require_in_row(self, name: str) -> None:
        """Raises `DamagedTypes` where an enumerator is not what its neighbours, or arrays, say."""
        values, nth = self._btf.enumerator_row(name)
        if not values:
            return
        if out_of_row(values, nth):
            raise DamagedTypes(f"{name} is {values[nth]}, among enumerators that count past it")
        other = miscounted(self._btf, name, values[nth])
        if other:
            raise DamagedTypes(f"{name} is {values[nth]}, and {other} has not so many elements")

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
        if ours is not None and str(ours) != text:  # which may be longer than int() takes
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
    What is damaged there is answered from debug files, unless it is `alone`, without any: then that
    is an error.
    """

    def __init__(self, host: Host, alone: bool = False) -> None:
        self._host, self._alone = host, alone
        self._all: BtfLayouts | None = None
        self._asked = False
        self._enumerators: dict[str, int | None] = {}

    @property
    def known(self) -> bool:
        """Whether there are any: then a name that is not among them is no type of the kernel."""
        return self._kernel is not None

    def layout(self, type_name: str) -> Layout | None:
        """Layout of e.g. ``struct page``; None where there is no such type."""
        kernel = self._kernel
        if kernel is None:
            return None
        types = kernel
        found = kernel.layout(type_name)
        if found is None and self._of_modules(type_name):
            types = self._everything(kernel)
            found = types.layout(type_name)
        try:
            if found is None:
                kernel.require_no_type(type_name)
                return None
            types.require_fitting(type_name)
        except DamagedTypes as damage:
            return self._debug_layout(type_name, damage)
        return replace(
            found, members=Members(found.members, partial(self._member, types, type_name))
        )

    def _member(self, types: BtfLayouts, type_name: str, name: str) -> Member | None:
        """One that its type seems to lack."""
        try:
            types.require_no_member(type_name, name)
        except DamagedTypes as damage:
            layout = self._debug_layout(type_name, damage)
            return None if layout is None else layout.members.get(name)
        return None

    def _debug_layout(self, type_name: str, damage: DamagedTypes) -> Layout | None:
        """What debug files say in BTF's stead."""
        if self._alone or not isinstance(self._host, DebugTypesHost):
            raise damage
        return self._host.debug_layout(type_name)

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
        if name not in self._enumerators:  # a millisecond, and asked of each process again
            self._enumerators[name] = self._enumerator(name)
        return self._enumerators[name]

    def _enumerator(self, name: str) -> int | None:
        kernel = self._kernel
        if kernel is None:
            return None
        found = kernel.enumerator(name)
        try:
            if found is None:
                kernel.require_no_enumerator(name)
            else:
                kernel.require_in_row(name)
        except DamagedTypes:
            if self._alone or not isinstance(self._host, DebugTypesHost):
                raise
            return self._host.debug_enumerator(name)
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

    def module_functions(self, module: str) -> set[str]:
        """Names of a module's functions; none where the dump has no types of it."""
        return set() if self._kernel is None else module_functions(self._host, module)

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
