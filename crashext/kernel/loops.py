"""The file of the compiled loops: whether it is there, and of this version.

One that was compiled from older C files, as in a clone that was updated and not installed again,
is not used. Without it all is slower and nothing else, so it is said where somebody asks for it.
"""

from __future__ import annotations

import ctypes
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

VERSION = 3
"""LOOPS_VERSION of compiled.h; of files that do not tell theirs it is 1."""
_NEWEST = "crashext_set_last"
"""A function that the oldest of those have not."""
_LIBRARY = "_compiled"
_OFF = "CRASHEXT_NUMPY"
"""Set in the environment: do without."""


def build_name() -> str:
    """What the library's file is called beside this one."""
    return _LIBRARY + EXTENSION_SUFFIXES[0]


def installed() -> ctypes.CDLL | str:
    """That of this package, or why there is none."""
    if os.environ.get(_OFF):
        return f"${_OFF} forbids them"
    return opened(Path(__file__).with_name(build_name()))


def opened(path: Path) -> ctypes.CDLL | str:
    """That of a file, or why it is of no use."""
    if not path.exists():
        return "the package was installed without a C compiler"
    try:
        found = ctypes.CDLL(str(path))
        said = found.crashext_version() if hasattr(found, "crashext_version") else 1
    except OSError:
        said = 0
    if said != VERSION or not hasattr(found, _NEWEST):
        return "they are of another version or machine: install the package again"
    return found


def state() -> str:
    """In a line: whether they are used, and why they are not."""
    found = installed()
    if isinstance(found, str):
        return f"compiled loops: not used, as {found}; all else is the same, and slower"
    return "compiled loops: used"
