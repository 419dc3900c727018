"""drgn itself on a lab dump, the independent oracle of these tests."""

from __future__ import annotations

from functools import cache

import drgn

from tests.conftest import lab_dump


@cache
def drgn_program(name: str) -> drgn.Program:
    """A lab dump opened by drgn alone, the module's debug info included where it is loaded."""
    dump = lab_dump(name)
    program = drgn.Program()
    program.set_core_dump(dump.vmcore)
    program.load_debug_info([dump.vmlinux], main=True)
    if dump.module.exists():
        program.load_debug_info([dump.module])
    return program
