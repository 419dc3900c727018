"""A dump with no debug file beside it: symbols from its own kallsyms, types from whoever knows.

Types are asked of what `prefer` was given; without that it knows none.
"""

from __future__ import annotations

from functools import cached_property

import drgn

from crashext.hosts.base import HostError, Layout, Module
from crashext.hosts.drgn import DrgnHost
from crashext.hosts.kallsyms import kernel_symbols
from crashext.hosts.modulelist import ModuleSymbol, module_list, module_symbols

_RELEASE = 2 * 65  # offset of release in struct new_utsname, whose members are char[65]
_STRAY = 5000  # one function in so many may be in BTF and not in kallsyms
_GLOBAL = drgn.SymbolBinding.GLOBAL


class BareHost(DrgnHost):
    """`Host` over a `drgn.Program` that has memory and a VMCOREINFO note, and nothing else.

    Raises `HostError`, which names no cure, where the dump's own symbols are not to be had.
    """

    has_debug_info = False

    def __init__(self, program: drgn.Program, source: str) -> None:
        text = program["VMCOREINFO"].string_().decode("ascii", "replace")
        vmcoreinfo = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        symbols = kernel_symbols(program, vmcoreinfo)
        _register(program, "crashext_kernel", symbols, 0)
        self._addresses: dict[str, int] = {}
        for symbol in symbols:
            # Of several static symbols of one name the first in memory, as good as any.
            if symbol.binding == _GLOBAL:
                self._addresses[symbol.name] = symbol.address
            self._addresses.setdefault(symbol.name, symbol.address)
        super().__init__(program, source)

    def _require_matching_debug_info(self) -> None:
        """The release string must be where the dump's own symbols say."""
        where = self.address_of("init_uts_ns")
        told = self._info.vmcoreinfo.get("OFFSET(uts_namespace.name)")  # 5.9 (ca4a9241cc5e)
        for offset in (0, 4) if told is None else (int(told),):  # a kref before it until 5.10
            try:
                data = self._program.read((where or 0) + offset + _RELEASE, 65)
            except drgn.FaultError:
                continue
            if data.split(b"\0")[0].decode("ascii", "replace") == self._info.release:
                return
        raise HostError("its own symbols (kallsyms) are damaged: init_uts_ns is none")

    def require(self, functions: set[str]) -> None:
        """All `functions` but a stray few must be among the symbols; raises `HostError`.

        Kallsyms packs names, so that damage to one byte of a table is in many of them.
        """
        # kfuncs with hidden arguments have a second name in BTF; compilers add suffixes.
        missing = {name.removesuffix("_impl") for name in functions - self._addresses.keys()}
        missing -= self._addresses.keys()
        if missing:
            missing -= {name.partition(".")[0] for name in self._addresses}
        if len(missing) * _STRAY > len(functions):
            raise HostError(
                f"its own symbols (kallsyms) are damaged: {len(missing):,} of "
                f"{len(functions):,} functions are not among them"
            )

    def address_of(self, name: str) -> int | None:
        return self._addresses.get(name)

    @cached_property
    def _modules(self) -> tuple[Module, ...]:
        return tuple(module for _, module in self._module_list)

    @cached_property
    def _module_list(self) -> list[tuple[int, Module]]:
        return sorted(module_list(self), key=lambda found: found[1].ranges)

    def _load_module_symbols(self) -> None:
        self._module_symbols_loaded = True
        found = [
            _drgn_symbol(s) for at, m in self._module_list for s in module_symbols(self, at, m)
        ]
        _register(self._program, "crashext_modules", found, -1)

    def debug_layout(self, type_name: str) -> Layout | None:
        return None

    def debug_enumerator(self, name: str) -> int | None:
        return None


def _register(program: drgn.Program, name: str, symbols: list[drgn.Symbol], index: int) -> None:
    """Let drgn look symbols up; a program that stays open between commands has them already."""
    if name not in program.registered_symbol_finders():
        program.register_symbol_finder(name, drgn.SymbolIndex(symbols), enable_index=index)


def _drgn_symbol(found: ModuleSymbol) -> drgn.Symbol:
    binding = _GLOBAL if found.is_global else drgn.SymbolBinding.LOCAL
    symbol = found.symbol
    kind = drgn.SymbolKind.UNKNOWN
    return drgn.Symbol(symbol.name, symbol.address, symbol.size, binding, kind)
