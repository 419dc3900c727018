"""Where a kernel keeps the BTF of its modules: along a list, in its own memory. It needs no numpy.

Source: kernel/bpf/btf.c (`btf_modules`, 5.11, 36e68442d1af).
"""

from __future__ import annotations

from collections.abc import Iterator

from crashext.hosts.faults import ReadFault
from crashext.kernel.scalars import NamedMemory, string, u32, u64

_MAX_MODULES = 4096
_MAX_MODULE = 16 << 20
_MAX_TOTAL = 96 << 20


def module_btf(host: NamedMemory) -> Iterator[tuple[str, bytes]]:
    """(module, BTF data) of those whose data the dump holds."""
    head = host.address_of("btf_modules")
    if head is None:
        return
    link, btf = host.layout("struct btf_module"), host.layout("struct btf")
    if link is None or btf is None:
        return
    if any(m not in link for m in ("list", "btf")) or any(
        m not in btf for m in ("data", "data_size", "name")
    ):
        return
    total = 0
    try:
        at = u64(host, head)
        for _ in range(_MAX_MODULES):
            if at == head:
                return
            entry = at - link["list"].offset
            at = u64(host, at)
            blob = u64(host, entry + link["btf"].offset)
            size = u32(host, blob + btf["data_size"].offset)
            total += size
            if not 0 < size <= _MAX_MODULE or total > _MAX_TOTAL:
                continue
            name = string(host, blob + btf["name"].offset, btf["name"].size)
            try:
                yield name, host.read(u64(host, blob + btf["data"].offset), size)
            except ReadFault:
                continue  # this module's types are not in the dump
    except ReadFault:
        return  # the list is broken here: the modules before it count
