"""Where a kernel keeps its BTF and that of its modules: in its own memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from crashext.hosts.base import Host, ReadFault
from crashext.kernel.access import string, u32, u64
from crashext.kernel.btf import Btf
from crashext.kernel.btf_check import defect
from crashext.kernel.btf_unit import parse, parse_kernel

_MAX_KERNEL = 64 << 20  # a distribution's kernel has 4 to 6 MB
_MAX_MODULES = 4096
_MAX_MODULE = 16 << 20
_MAX_TOTAL = 96 << 20


def read_btf(host: Host) -> Btf | None:
    """The BTF of the kernel (4.18, CONFIG_DEBUG_INFO_BTF) and of its loaded modules (5.11,
    36e68442d1af); None where this kernel carries none, or it is not whole in the dump.
    """
    blobs = read_blobs(host)
    try:
        return None if blobs is None else Btf(*blobs)
    except ValueError:
        return None


def read_blobs(host: Host) -> tuple[bytes, tuple[tuple[str, bytes], ...]] | None:
    """The data that `read_btf` makes types of: the kernel's, and each module's by its name."""
    kernel, _ = _kernel_btf(host)
    if kernel is None:
        return None
    base = Btf(kernel).base
    modules = ((name, data, parse(name, data)) for name, data in _module_btf(host))
    whole = ((name, data) for name, data, unit in modules if unit and not defect(unit, base))
    return kernel, tuple(whole)


def read_kernel_btf(host: Host) -> tuple[Btf | None, str]:
    """As `read_btf`, without the modules: for that no layout must be known. Where it is damaged,
    what is wrong with it instead.
    """
    kernel, why = _kernel_btf(host)
    return (None, why) if kernel is None else (Btf(kernel), "")


def _kernel_btf(host: Host) -> tuple[bytes | None, str]:
    """(data, ""), or (None, what is wrong): "" where there is none."""
    start, stop = host.address_of("__start_BTF"), host.address_of("__stop_BTF")
    if start is None or stop is None or not 0 < stop - start <= _MAX_KERNEL:
        return None, ""
    try:
        data = host.read(start, stop - start)
    except ReadFault:
        return None, "part of it is not in the dump"
    why = _kernel_defect(data)
    return (None, why) if why else (data, "")


@lru_cache(maxsize=1)
def _kernel_defect(data: bytes) -> str:
    unit = parse_kernel(data)
    return "it does not begin as BTF" if unit is None else defect(unit)


def _module_btf(host: Host) -> Iterator[tuple[str, bytes]]:
    """(module, BTF data) along the list `btf_modules` of kernel/bpf/btf.c."""
    head = host.address_of("btf_modules")
    link, btf = host.layout("struct btf_module"), host.layout("struct btf")
    if head is None or link is None or btf is None:
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
