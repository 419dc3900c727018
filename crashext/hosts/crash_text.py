"""What crash's own `mod` and `sym` print, taken apart."""

from __future__ import annotations

import re

from crashext.hosts.base import Module

# ffffffffc050f0c0  leaklab  ffffffffc050a000  36864  (not loaded)  [CONFIG_KALLSYMS]
_MODULE = re.compile(r"^[0-9a-f]{8,16}\s+(\S+)\s+([0-9a-f]{8,16})\s+(\d+)\s", re.MULTILINE)
# 31c40 (d) runqueues; 200 (a) i is a number that assembler code has a name for
_PERCPU = re.compile(r"^([0-9a-f]{1,6}) \([^aA]\) (\S+)$", re.MULTILINE)
# ffffffff811c2f3e (T) alloc_pid+30 /build/linux/kernel/pid.c: 177
_SOURCE = re.compile(r"\s(\S+\.\w+): (\d{1,7})\s*$")
_LOCK_KEY = re.compile(r"__key(\.\d+)?$")  # struct lock_class_key, empty without lockdep


def modules(mod: str) -> tuple[Module, ...]:
    """The modules that ``mod`` lists."""
    return tuple(
        Module(name, ((int(base, 16), int(base, 16) + int(size)),))
        for name, base, size in _MODULE.findall(mod)
    )


def percpu_symbols(symbols: str) -> list[tuple[int, str]]:
    """(offset, name) of the per-CPU variables in ``sym -l``."""
    return [(int(offset, 16), name) for offset, name in _PERCPU.findall(symbols)]


def is_lock_key(name: str) -> bool:
    """Whether it is a lock's class key, which takes no room where lockdep is off."""
    return _LOCK_KEY.match(name) is not None


def beside(symbols: str, start: int) -> str | None:
    """Another symbol of ``sym -l`` at the address of a lock's class key."""
    names = re.findall(rf"^{start:x} \(.\) (\S+)", symbols, re.MULTILINE)
    return min((name for name in names if not is_lock_key(name)), default=None)


def source_line(symbol: str) -> str:
    """``file:line`` as ``sym ADDRESS`` gives it; "" where it does not."""
    found = _SOURCE.search(symbol)
    return f"{found[1]}:{found[2]}" if found else ""
