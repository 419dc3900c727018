"""A dump with no debug file beside it: symbols from its own kallsyms, types from whoever knows.

Types are asked of what `prefer` was given; without that it knows none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path

import drgn
import numpy as np

from crashext.hosts.base import HostError, ReadFault, Symbol
from crashext.hosts.kallsyms import read_kallsyms
from crashext.hosts.kallsyms_check import DAMAGED, require_percpu
from crashext.hosts.kallsyms_named import Named, is_better_placed, named_in
from crashext.hosts.percpu import percpu_table
from crashext.hosts.symboltable import Symbols, SymbolTable
from crashext.hosts.unindexed import UnindexedHost

_RELEASE = 2 * 65  # offset of release in struct new_utsname, whose members are char[65]
_X86_64 = "x86_64"
_PAGE = 4096
_AT_ONCE = 1 << 22  # bytes of text
_MAY_HAVE_NO_USE = {"totalcma_pages"}  # without CONFIG_CMA
_CURE = "give the kernel's vmlinux with -s"


class BareHost(UnindexedHost):
    """`Host` over a `drgn.Program` that has memory and a VMCOREINFO note, and nothing else.

    Raises `HostError`, which names no cure, where the dump's own symbols are not to be had.
    """

    has_debug_info = False

    def __init__(self, program: drgn.Program, source: str, core: Path | None = None) -> None:
        text = program["VMCOREINFO"].string_().decode("ascii", "replace")
        vmcoreinfo = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        self._missing, self._asked, self._placed = set[str](), set[str](), set[str]()
        self._doubts = list[str]()
        self._genuine: Callable[[], Collection[str]] | None = None
        self._kallsyms = read_kallsyms(_reader(program), vmcoreinfo)
        super().__init__(program, source, core)

    def _require_matching_debug_info(self) -> None:
        """The release string must be where the dump's own symbols say."""
        where = self.address_of("init_uts_ns")
        told = self._info.vmcoreinfo.get("OFFSET(uts_namespace.name)")  # 5.11 (ca4a9241cc5e)
        read = _reader(self._program)
        for offset in (0, 4) if told is None else (int(told),):  # a kref before it until 5.10
            try:
                data = read((where or 0) + offset + _RELEASE, 65)
            except ReadFault:
                continue
            if data.split(b"\0")[0].decode("ascii", "replace") == self._info.release:
                return
        raise HostError(f"{DAMAGED}: init_uts_ns is none")

    def require(self, functions: set[str], percpu: Mapping[str, int]) -> None:
        """All `functions` must be among the symbols, and per-CPU variables where they are said to
        be; raises `HostError`.

        So they are in every kernel seen: pahole takes them from the same symbol table.
        """
        known = self._kallsyms.by_name
        if not self.functions_only:
            require_percpu(percpu, known)
        # kfuncs with hidden arguments have a second name in BTF; compilers add suffixes.
        missing = {name.removesuffix("_impl") for name in functions if name not in known}
        missing = {name for name in missing if name not in known}
        if missing:
            missing -= {name.partition(".")[0] for name in known if "." in name}
        if missing:
            raise HostError(
                f"{DAMAGED}: {len(missing):,} of {len(functions):,} functions are not among them"
            )

    def require_whole(self, functions: Callable[[], Collection[str]]) -> None:
        """From now on a variable that is missing must not be there with a damaged name; raises
        `HostError`. `functions` gives names that BTF has, too.
        """
        self._genuine = functions
        for name in sorted(self._missing):
            self._require_absent(name)

    def _require_absent(self, name: str) -> None:
        if self._genuine is None or self.functions_only:
            return
        other = self._kallsyms.a_bit_apart(name, self._genuine)
        if other:
            raise HostError(
                f"{DAMAGED}: {other} is there, one bit from {name}, and not that: {_CURE}"
            )

    def require_places(self) -> None:
        """Each variable that was asked for is where code names it; raises `HostError`."""
        if self.functions_only:
            return
        for name in sorted(self._asked - self._placed):
            self._require_place(name)
            self._placed.add(name)

    def _require_place(self, name: str) -> None:
        """Nothing but code says where a variable is that is not exported."""
        address = self._kallsyms.by_name[name]
        first, last = (
            self._kallsyms.by_name.get(f"__per_cpu_{end}", 0) for end in ("start", "end")
        )
        elsewhere = first <= address < last or f"SYMBOL({name})" in self._info.vmcoreinfo
        if elsewhere or name in _MAY_HAVE_NO_USE:
            return
        if self._kallsyms.needs_witness(name) and self._named is not None:
            if address in self._named and self._kallsyms.is_alone(name):
                return
            right = self._named.elsewhere(self._kallsyms.addresses, address)
            if right is None:
                return
            where = f"no code names {name} at {address:#x}, but what is at {right:#x}, "
            where += "one bit from there"
            if is_better_placed(right, address):
                raise HostError(f"{DAMAGED}: {where}: {_CURE}")
            self._doubts.append(
                f"{where}: if its own symbols (kallsyms) are damaged, the answer is wrong; to be "
                f"sure, {_CURE}"
            )

    def doubts(self) -> list[str]:
        return [*self._doubts, *super().doubts()]

    @cached_property
    def _named(self) -> Named | None:
        """None where another architecture's code names nothing whole, and where the dump lacks
        some of the text.
        """
        first, last, end = (self._kallsyms.by_name.get(n, 0) for n in ("_text", "_etext", "_end"))
        if self._info.arch != _X86_64 or not 0 < first < last < end <= first + (1 << 31):
            return None
        found = []
        for start in range(first - first % _PAGE, last, _AT_ONCE):
            # One page more: an instruction may lie across the edge.
            pages = np.arange(start, min(start + _AT_ONCE + _PAGE, last), _PAGE, dtype=np.uint64)
            data, ok = self.read_many(pages, _PAGE)
            if not ok.all():
                return None
            found.append(named_in(data.reshape(-1), start, last, end))
        return Named(last, end, np.unique(np.concatenate(found)))

    @property
    def functions_only(self) -> bool:
        """Whether no variable has a name but those few that VMCOREINFO has."""
        return self._kallsyms.functions_only

    def address_of(self, name: str) -> int | None:
        if self.functions_only and name == "init_uts_ns":
            return int(self._info.vmcoreinfo.get(f"SYMBOL({name})", "0"), 16)
        found = self._kallsyms.by_name.get(name)
        if found is None and name not in self._missing:
            self._require_absent(name)
            self._missing.add(name)
        if found is not None:
            self._asked.add(name)
        return found

    def symbol_at(self, address: int) -> Symbol | None:
        return self._kallsyms.at(address) or super().symbol_at(address)

    @cached_property
    def _kernel_symbols(self) -> SymbolTable:
        none = np.zeros(0, np.uint64)
        return SymbolTable(Symbols(none, none, ()))  # `symbol_at` has asked kallsyms

    @cached_property
    def _percpu_symbols(self) -> list[Symbol]:
        end = self.address_of("__per_cpu_end") or 0
        return percpu_table(self._kallsyms.below(end), end)


def _reader(program: drgn.Program) -> Callable[[int, int], bytes]:
    def read(address: int, size: int) -> bytes:
        try:
            return bytes(program.read(address, size))
        except (drgn.FaultError, ValueError, OverflowError) as error:
            raise ReadFault(address) from error

    return read
