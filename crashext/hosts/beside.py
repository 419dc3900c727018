"""The kernel's debug file where a user puts it: beside the dump, or where distributions do.

Only its build ID says that it is the one: the names are those of any kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from crashext.hosts.base import HostError
from crashext.hosts.dumpfile import build_id
from crashext.hosts.nodebuginfo import NoDebugInfo

_INSTALLED = Path("/usr/lib/debug/boot")
_NAMES = ("vmlinux", "vmlinux.debug", "vmlinux-{}", "vmlinux-{}.debug")


def load_beside(core: Path, missing: NoDebugInfo) -> Path | None:
    """Give the opened program its debug file; which that is, None where there is none."""
    for path in _candidates(core.parent, missing.release):
        try:
            if missing.build_id and build_id(path) == missing.build_id:
                missing.program.load_debug_info([str(path)], main=True)
                return path
        except HostError:
            continue  # no ELF file, or not to be read
        except Exception:  # drgn raises bare Exception for what it has no class for
            continue  # the right kernel's, without debug info
    return None


def _candidates(folder: Path, release: str) -> Iterator[Path]:
    if "/" in release:
        return
    for place in (folder, _INSTALLED):
        for name in _NAMES:
            path = place / name.format(release)
            if path.is_file():
                yield path
