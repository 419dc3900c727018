"""The kernel's symbols out of the dump itself: its kallsyms, which need no debug info.

They are names and addresses; what an ELF symbol table knows besides (sizes, which of several
symbols at one address is the object) is made up for here. kernel/kallsyms.c writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import drgn
import numpy as np
from _drgn import _linux_helper_load_builtin_kallsyms
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

from crashext.hosts.base import HostError
from crashext.hosts.kallsyms_search import find_tables

_PAGE = 4096
_MAX_SYMBOLS = 1 << 22
_ENOUGH = 2  # symbols that must be where VMCOREINFO says
_GLOBAL = drgn.SymbolBinding.GLOBAL
_SYMBOL = re.compile(r"SYMBOL\((\w+)\)")
_NAMES = re.compile(r"(?:[A-Za-z_.$][\w.$]*+\n)++", re.ASCII)
# struct lock_class_key is empty without lockdep: its symbol sits where the next variable begins.
_LOCK_KEY = re.compile(r"__key(\.\d+)?$")
# What linker scripts and macros put at an object's address without being one.
_MARKER = re.compile(
    r"__\w*(start|stop|begin|end)(_|$)|__sched_class_(high|low)est$|__(init|per_cpu|ksymtab)_"
    r"|_?_?[se](text|data|inittext|rodata|bss)$|__(smp_locks|retpoline_sites)$|_end$|jiffies$"
)
_KSYMTAB = 24  # bytes: the largest struct kernel_symbol; strings without a symbol follow the last


def kernel_symbols(program: drgn.Program, vmcoreinfo: Mapping[str, str]) -> list[drgn.Symbol]:
    """Every symbol of the kernel image, each as long as it can be: up to the next.

    Of those at one address only one has a size, the one that is the object. Raises `HostError`,
    without naming a cure, where they are not found or cannot be right.
    """
    try:
        found = _index(program, vmcoreinfo)
    except HostError:
        raise
    except Exception as error:  # drgn raises bare Exception for damaged tables
        raise HostError("its own symbols (kallsyms) cannot be read") from error
    symbols = found(program, None, None, False)  # all: any name, any address
    if not 0 < len(symbols) <= _MAX_SYMBOLS:
        raise HostError("its own symbols (kallsyms) are damaged")
    _require_agreement({s.name: s.address for s in symbols}, vmcoreinfo)
    return list(_sized(symbols))


def _index(program: drgn.Program, vmcoreinfo: Mapping[str, str]) -> drgn.SymbolIndex:
    if "SYMBOL(kallsyms_names)" in vmcoreinfo:  # 6.0 (f09bddbd8661)
        return load_vmlinux_kallsyms(program)
    stext = int(vmcoreinfo.get("SYMBOL(_stext)", "0"), 16)
    tables = find_tables(lambda address, size: _read(program, address, size), stext)
    if tables is None:
        raise HostError("its own symbols (kallsyms) are not found")
    # drgn's reader of these tables has no public name that takes addresses.
    return _linux_helper_load_builtin_kallsyms(
        program,
        tables.names,
        tables.token_table,
        tables.token_index,
        tables.num_syms,
        tables.offsets,
        tables.relative_base,
        0,
        stext,
    )


def _read(program: drgn.Program, address: int, size: int) -> bytes:
    """Memory, with zeros for what the dump lacks."""
    try:
        return bytes(program.read(address, size))
    except drgn.FaultError:
        if size <= _PAGE:
            return bytes(size)
    half = size // 2
    return _read(program, address, half) + _read(program, address + half, size - half)


def _require_agreement(addresses: Mapping[str, int], vmcoreinfo: Mapping[str, str]) -> None:
    """What VMCOREINFO says of symbols must be true of these, and all must be names."""
    if "init_uts_ns" not in addresses and "_stext" in addresses:
        raise HostError("its own symbols are functions only (no CONFIG_KALLSYMS_ALL)")
    low, high = addresses.get("_stext", 0), addresses.get("_end", 0)
    agree = 0
    for key, text in vmcoreinfo.items():
        match = _SYMBOL.fullmatch(key)
        address = int(text, 16) if match and re.fullmatch("[0-9a-f]{1,16}", text) else 0
        # Some are no symbol's address but a variable's value: mem_section, a pointer.
        if match is None or not low <= address < high:
            continue
        if addresses.get(match[1], address) != address:
            raise HostError(
                f"its own symbols (kallsyms) are damaged: {match[1]} is not where VMCOREINFO says"
            )
        agree += match[1] in addresses
    if agree < _ENOUGH or not low < high:
        raise HostError("its own symbols (kallsyms) are damaged: VMCOREINFO knows others")
    if _NAMES.fullmatch("".join(f"{name}\n" for name in addresses)) is None:
        raise HostError("its own symbols (kallsyms) are damaged: some are no names")


def _worth(symbol: drgn.Symbol) -> tuple[bool, bool, bool, str]:
    """Sorts the object itself before what shares its address."""
    return (
        _LOCK_KEY.match(symbol.name) is not None,
        _MARKER.match(symbol.name) is not None,
        symbol.binding != _GLOBAL,
        symbol.name,
    )


def _sized(symbols: Sequence[drgn.Symbol]) -> Iterator[drgn.Symbol]:
    """The symbols, those at one address put right: drgn gives the room there to any of them."""
    addresses = np.array([s.address for s in symbols], np.uint64)
    order = np.argsort(addresses, kind="stable")
    edges = [*np.flatnonzero(np.diff(addresses[order], prepend=np.uint64(0))).tolist(), len(order)]
    rows = order.tolist()
    for begin, end in pairwise([0, *edges] if edges[0] else edges):
        here = [symbols[row] for row in rows[begin:end]]
        size = max(symbol.size for symbol in here)
        if end - begin == 1 and not here[0].name.startswith("__ksymtab_"):
            yield here[0]
            continue
        for nth, symbol in enumerate(sorted(here, key=_worth)):
            limit = _KSYMTAB if symbol.name.startswith("__ksymtab_") else size
            room = 0 if nth else min(size, limit)
            yield drgn.Symbol(symbol.name, symbol.address, room, symbol.binding, symbol.kind)
