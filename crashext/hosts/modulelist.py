"""The kernel's list of modules, read without a debugger: where they are.

Sources: include/linux/module.h, from 3.10 to 7.2: struct module_layout from 4.5 (7523e4dc5057),
areas by purpose from 6.4 (ac3b43283923).
"""

from __future__ import annotations

from collections.abc import Iterator

from crashext.hosts.base import Host, Layout, Member, Module, ReadFault

_MAX_MODULES = 1 << 12
_MOST_AREA = 512 << 20
"""Bytes of one area of a module; more is a damaged size."""
_NAME = 56  # MODULE_NAME_LEN on 64-bit machines
_UNFORMED = "MODULE_STATE_UNFORMED"


def module_list(host: Host) -> Iterator[tuple[int, Module]]:
    """(address of struct module, module) along the list `modules`; a broken list ends there.

    Raises `UnknownLayout` where types are known and modules are not: what their variables hold
    would look leaked.
    """
    head, layout = host.address_of("modules"), host.layout("struct module")
    if head is None or layout is None:
        return
    unformed = host.enumerator(_UNFORMED)
    try:
        at = _number(host, head, 8)
        seen = {head}
        for _ in range(_MAX_MODULES):
            if at in seen:
                return
            seen.add(at)
            module = at - layout["list"].offset
            row = host.read(module, layout.size)
            at = _in(row, layout["list"])
            name = _string(row, layout["name"].offset)
            ranges = tuple(sorted(filter(_possible, _areas(host, row, layout))))
            if ranges and (unformed is None or _in(row, layout["state"]) != unformed):
                yield module, Module(name, ranges)
    except ReadFault:
        return


def _possible(area: tuple[int, int]) -> bool:
    start, end = area
    return start >> 63 == 1 and end - start <= _MOST_AREA and end < 1 << 64


def _areas(host: Host, row: bytes, layout: Layout) -> Iterator[tuple[int, int]]:
    if "mem" in layout:
        one = host.layout("struct module_memory")
        first, end = layout["mem"].offset, layout["mem"].offset + layout["mem"].size
        offsets = [] if one is None else list(range(first, end, one.size))
    else:
        one = host.layout("struct module_layout")
        offsets = [layout[m].offset for m in ("core_layout", "init_layout") if m in layout]
    if not offsets:
        for part in ("core", "init"):
            base, size = _in(row, layout[f"module_{part}"]), _in(row, layout[f"{part}_size"])
            if base and size:
                yield base, base + size
    if one is None:
        return
    for offset in offsets:
        base = _in(row[offset:], one["base"])
        size = _in(row[offset:], one["size"])
        if base and size:
            yield base, base + size


def _in(row: bytes, member: Member) -> int:
    size = min(member.size, 8)
    return int.from_bytes(row[member.offset : member.offset + size], "little")


def _number(host: Host, address: int, size: int) -> int:
    return int.from_bytes(host.read(address, size), "little")


def _string(row: bytes, offset: int) -> str:
    return row[offset : offset + _NAME].split(b"\0", 1)[0].decode("ascii", "backslashreplace")
