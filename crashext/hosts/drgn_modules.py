"""Symbols of modules, by address: as the kernel's own list and kallsyms have them.

drgn's own reader gives up on all modules where the notes or the symbols of one are not in the dump,
and to tell drgn of every symbol takes ten times as long as to look up those that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from crashext.hosts.base import Host, Module
from crashext.hosts.modulesymbols import ModuleSymbol, ModuleSymbols, module_symbols


class LoadedSymbols:
    """Of the modules in which an address was asked about."""

    def __init__(self, functions: Callable[[str], Collection[str]]) -> None:
        """`functions` gives the names of a module's functions that its types have."""
        self._functions = functions
        self._known: dict[str, ModuleSymbols | None] = {}

    def at(
        self, host: Host, module: str, address: int, modules: Sequence[tuple[int, Module]]
    ) -> list[ModuleSymbol]:
        """Symbols of a module that cover an address; `modules` are all of them, with the address
        of the struct module of each."""
        if module not in self._known:
            found = ((at, known) for at, known in modules if known.name == module)
            at, known = next(found, (0, None))
            self._known[module] = None
            if known is not None:
                found_by = partial(self._functions, module)
                self._known[module] = module_symbols(host, at, known, found_by)
        symbols = self._known[module]
        return [] if symbols is None else symbols.at(address)

    def named(self, name: str) -> int | None:
        """Where the symbol of that name is."""
        known = (s for s in self._known.values() if s is not None)
        found = next(filter(None, (symbols.named(name) for symbols in known)), None)
        return None if found is None else found.symbol.address

    def damaged(self) -> list[tuple[str, str]]:
        """(module, what is wrong) of those whose symbols are not to be trusted."""
        return [(m, s.damage) for m, s in self._known.items() if s is not None and s.damage]


def names_something(name: str, size: int) -> bool:
    """Labels that the compiler made up (.LC0), and arm64's marks of data ($d), do not; tables of
    kallsyms have no size, and other things lie behind the last of them (4.18: strings).
    """
    label = name.startswith((".L", "$"))
    return not label and (size > 0 or not name.startswith("kallsyms_"))
