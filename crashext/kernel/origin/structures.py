"""Where structures that own memory keep what a reader of code asks for."""

from __future__ import annotations

from crashext.hosts.base import Host

_MEMPOOL = ("struct mempool_s", "struct mempool")  # mempool_t is either, by the kernel's age


def pool_data(host: Host) -> int | None:
    """Where a mempool keeps its cache."""
    return _offset(host, _MEMPOOL, "pool_data")


def pool_arrays(host: Host) -> int | None:
    """How far behind the address of its objects' array a mempool keeps its cache."""
    array, data = _offset(host, _MEMPOOL, "elements"), pool_data(host)
    return None if array is None or data is None or data <= array else data - array


def before_managed(host: Host) -> int:
    """Bytes of a struct devres before memory that is freed with its device (devm_kmalloc()); 0
    where they are not known. 40 of 6.1, 56 of 7.2; 128 on arm64, which aligns it for DMA."""
    return _offset(host, ("struct devres",), "data") or 0


def _offset(host: Host, names: tuple[str, ...], member: str) -> int | None:
    for name in names:
        layout = host.layout(name)
        found = None if layout is None else layout.first_of(member)
        if found is not None:
            return found.offset
    return None
