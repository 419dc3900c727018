"""Symbols of modules, for drgn to find by address: as the kernel's own list and kallsyms have them.

drgn's own reader gives up on all modules where the notes or the symbols of one are not in the dump.
"""

from __future__ import annotations

import drgn

from crashext.hosts.base import Host, Module
from crashext.hosts.modulelist import ModuleSymbol, module_symbols

_FINDER = "crashext module"


def register_symbols(program: drgn.Program, host: Host, at: int, module: Module) -> None:
    """Of one module, whose struct module is `at`; symbols of debug files come first."""
    finder = f"{_FINDER} {module.name}"
    if finder not in program.registered_symbol_finders():
        found = [_drgn_symbol(s) for s in module_symbols(host, at, module)]
        program.register_symbol_finder(finder, drgn.SymbolIndex(found), enable_index=-1)


def _drgn_symbol(found: ModuleSymbol) -> drgn.Symbol:
    binding = drgn.SymbolBinding.GLOBAL if found.is_global else drgn.SymbolBinding.LOCAL
    symbol = found.symbol
    kind = drgn.SymbolKind.UNKNOWN
    return drgn.Symbol(symbol.name, symbol.address, symbol.size, binding, kind)


def names_something(symbol: drgn.Symbol) -> bool:
    """Labels that the compiler made up (.LC0), and arm64's marks of data ($d), do not; tables of
    kallsyms have no size, and other things lie behind the last of them (4.18: strings).
    """
    label = symbol.name.startswith((".L", "$"))
    return not label and (symbol.size > 0 or not symbol.name.startswith("kallsyms_"))
