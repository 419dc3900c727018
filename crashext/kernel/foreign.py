"""Modules that are not of the kernel's own tree, by the taint that each of them brought."""

from __future__ import annotations

from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import string, u64
from crashext.kernel.lists import entries

_MOST = 4096
_TAINTS = ((0, "proprietary"), (12, "from outside the kernel's tree"), (13, "not signed"))
"""TAINT_PROPRIETARY_MODULE, TAINT_OOT_MODULE (3.2), TAINT_UNSIGNED_MODULE (3.15)."""


def foreign_modules(host: Host) -> dict[str, str]:
    """Name -> why it is none of the kernel's own; others are left out."""
    layout, head = host.layout("struct module"), host.address_of("modules")
    if layout is None or head is None or any(m not in layout for m in ("list", "name", "taints")):
        return {}
    found = {}
    for module in entries(host, head, layout["list"].offset, _MOST):
        try:
            name = string(host, module + layout["name"].offset, layout["name"].size)
            taints = u64(host, module + layout["taints"].offset)
        except ReadFault:
            continue
        why = next((text for bit, text in _TAINTS if taints >> bit & 1), "")
        if why:
            found[name] = why
    return found
