"""Types of debug files that may come from anywhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import drgn

from crashext.hosts.drgn_layouts import without_typedefs


def test_a_typedef_stands_for_what_is_behind_the_last_one() -> None:
    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    size = program.int_type("unsigned long", 8, False)
    twice = program.typedef_type("gfp", program.typedef_type("bits", size))
    assert without_typedefs(twice).type_name() == "unsigned long"
    assert without_typedefs(size).type_name() == "unsigned long"


def test_a_typedef_of_itself_has_an_end() -> None:
    loop: Any = SimpleNamespace(kind=drgn.TypeKind.TYPEDEF)
    loop.type = loop
    assert without_typedefs(loop) is loop
