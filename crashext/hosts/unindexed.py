"""A dump with its vmlinux beside it, and types from whoever knows: drgn does not index those.

The index of all types takes a third of a second of CPU and 130 MB. Names, sizes of functions and
lines of source need none of it, and modules are found in the kernel's own list.
"""

from __future__ import annotations

import logging
from pathlib import Path

import drgn

from crashext.hosts.base import Layout, ReadFault, Types
from crashext.hosts.drgn import DrgnHost
from crashext.hosts.dumpfile import examined


class UnindexedHost(DrgnHost):
    """`Host` over a `drgn.Program` that is asked for no type; `prefer` says who is."""

    def _require_matching_debug_info(self) -> None:
        """drgn compared the build IDs."""

    def debug_layout(self, type_name: str) -> Layout | None:
        return None

    def debug_enumerator(self, name: str) -> int | None:
        return None


def open_unindexed(core: Path, vmlinux: Path, types: Types) -> UnindexedHost | None:
    """A dump with the debug file of its kernel, where that is enough; None where it takes more."""
    if examined(core).unsafe:
        return None
    logging.getLogger("drgn").setLevel(logging.CRITICAL)
    program = drgn.Program()
    try:
        program.set_core_dump(str(core))
        if not program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL:
            return None
        # The first name that they are asked for would cost the index.
        objects = program.enabled_object_finders()
        program.set_enabled_object_finders([name for name in objects if name != "dwarf"])
        program.set_enabled_type_finders([])
        kernel, _ = next(iter(program.loaded_modules()))
        kernel.try_file(str(vmlinux))
        if kernel.debug_file_status != drgn.ModuleFileStatus.HAVE:
            return None
        host = UnindexedHost(program, core.name, core, [vmlinux.parent])
        host.read(host.address_of("init_uts_ns") or 0, 1)
    except ReadFault:
        return None  # the kernel's own variables are missing
    except Exception:  # drgn raises bare Exception for what it has no class for
        return None
    host.prefer(types)
    return host
