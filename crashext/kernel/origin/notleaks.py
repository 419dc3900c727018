"""Objects whose address the kernel forgets on purpose: it calls kmemleak_not_leak() on them.

Sources: callers of kmemleak_not_leak() in 5.10 and 6.1 that leave an object nothing points at.
"""

from __future__ import annotations

from collections.abc import Iterable

_BY_SYMBOL = {
    # fs/proc/proc_sysctl.c, __register_sysctl_init(): a ctl_table_header registered at boot.
    "sysctl_table_root": "a sysctl table registered at boot for good (kmemleak_not_leak)",
    # kernel/sysctl.c, sysctl_init() until 6.4: of the tables that the kernel begins with.
    "sysctl_base_table": "a sysctl table registered at boot for good (kmemleak_not_leak)",
    "kernel_base_table": "a sysctl table registered at boot for good (kmemleak_not_leak)",
}


def explanation(symbols: Iterable[str]) -> str:
    """Why an object that holds pointers to these symbols is no leak; "" where nothing says so."""
    return next((_BY_SYMBOL[s] for s in symbols if s in _BY_SYMBOL), "")
