"""A source that drgn has open, for whose kernel no debug file was given or found by build ID."""

from __future__ import annotations

import re

import drgn

from crashext.hosts.base import HostError
from crashext.hosts.debugpackage import missing_debug_info


class NoDebugInfo(HostError):
    """Says for which kernel, and where it is to be had."""

    def __init__(self, program: drgn.Program) -> None:
        text = program["VMCOREINFO"].string_().decode("ascii", "replace")
        fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        release, build_id = fields.get("OSRELEASE", "?"), fields.get("BUILD-ID", "")  # 5.9
        if not re.fullmatch(r"([0-9a-f]{2}){4,64}", build_id):
            build_id = ""
        super().__init__(missing_debug_info(release, build_id))
        self.release = release
        self.kernel = f"kernel {release}" + (f" (build ID {build_id})" if build_id else "")
        self.build_id = build_id
        """In hex; "" where the source does not say."""
        self.program = program
        """The source, opened: its memory can be read all the same."""


def require_debug_info(program: drgn.Program) -> None:
    """Raises `NoDebugInfo` where a dump was opened without any; lets the running kernel be."""
    try:
        program["init_uts_ns"]
    except LookupError as error:
        if not program.flags & drgn.ProgramFlags.IS_LIVE:
            raise NoDebugInfo(program) from error
