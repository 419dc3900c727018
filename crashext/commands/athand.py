"""A dump that lies where one expects it, with the vmlinux of its build ID: to try crash on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from crashext.hosts.base import HostError
from crashext.hosts.signature import LENGTH, no_dump

_CRASHES = Path("/var/crash")  # where kdump's services put them, a folder each
_NAMES = ("vmcore*", "dump.*")
_MOST = 8  # files that are opened


def dump_at_hand() -> tuple[Path, Path] | None:
    """(vmlinux, dump), of the current directory or else the newest crash; None where none is."""
    for number, core in enumerate(_dumps()):
        kernel = _kernel_of(core) if number < _MOST else None
        if kernel is not None:
            return kernel, core
    return None


def _dumps() -> Iterator[Path]:
    for folder in (Path.cwd(), *_newest_first(_CRASHES.glob("*/"))):
        found = (path for name in _NAMES for path in folder.glob(name))
        yield from _newest_first(path for path in found if _is_dump(path))


def _newest_first(paths: Iterator[Path]) -> list[Path]:
    dated = []
    for path in paths:
        try:
            dated.append((path.stat().st_mtime_ns, path))
        except OSError:
            continue
    return [path for _, path in sorted(dated, reverse=True)]


def _is_dump(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return not no_dump(path, file.read(LENGTH))
    except OSError:
        return False


def _kernel_of(core: Path) -> Path | None:
    from crashext.hosts.beside import load_beside
    from crashext.hosts.drgn import open_core
    from crashext.hosts.nodebuginfo import NoDebugInfo

    try:
        return open_core(core, []).debug_file
    except NoDebugInfo as missing:
        return load_beside(core, missing)
    except HostError:
        return None
