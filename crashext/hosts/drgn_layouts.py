"""Layouts of structs out of debug information that drgn has loaded."""

from __future__ import annotations

import drgn

from crashext.hosts.base import Layout, Member

_MOST_TYPEDEFS = 64
"""One after the other: a debug file from elsewhere may have a typedef that leads to itself."""


def without_typedefs(kind: drgn.Type) -> drgn.Type:
    """What a typedef stands for in the end; a typedef still where there is no end."""
    for _ in range(_MOST_TYPEDEFS):
        if kind.kind != drgn.TypeKind.TYPEDEF:
            break
        kind = kind.type
    return kind


def layout_of(program: drgn.Program, type_name: str) -> Layout | None:
    """Layout of e.g. ``struct page``; None where there is no such struct, union or typedef."""
    try:
        found = without_typedefs(program.type(type_name))
        size = getattr(found, "size", None)
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
