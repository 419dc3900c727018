"""Layouts of structs out of debug information that drgn has loaded."""

from __future__ import annotations

import drgn

from crashext.hosts.base import Layout, Member


def layout_of(program: drgn.Program, type_name: str) -> Layout | None:
    """Layout of e.g. ``struct page``; None where there is no such struct, union or typedef."""
    try:
        found = program.type(type_name)
        while found.kind == drgn.TypeKind.TYPEDEF:
            found = found.type
        size = found.size
    except (LookupError, SyntaxError):
        return None
    if size is None or not hasattr(found, "members") or found.members is None:
        return None
    members: dict[str, Member] = {}
    _flatten(found, 0, members)
    return Layout(type_name, int(size), members)


def _flatten(kind: drgn.Type, base: int, members: dict[str, Member]) -> None:
    """Collect members with offsets from the outermost struct, through anonymous ones."""
    for member in kind.members or ():
        offset = base + member.bit_offset // 8
        if member.name is None:
            _flatten(member.type, offset, members)
            continue
        try:
            size = drgn.sizeof(member.type)
        except TypeError:  # a flexible array
            size = 0
        members.setdefault(
            member.name,
            Member(
                offset=offset,
                size=int(size),
                bit_offset=member.bit_offset % 8,
                bit_size=int(member.bit_field_size or 0),
            ),
        )
