"""Whether a crash can load a PyKdump: asked of the dynamic linker, and of crash itself with a dump.

It writes nothing outside a temporary folder, and runs nothing of PyKdump's but inside crash.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from crashext import __version__

_STARTS_IN = 600  # seconds; crash reads a kernel's debug info, of a large dump for a minute
_OBEYS = "crashext: crash obeys"
_UNDEFINED = re.compile(r"undefined symbol: (\S+)\s+\((\S+)\)")
_MISSING = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)
_REFUSED = re.compile(r"ERROR: ld\.so: object '.*' from LD_PRELOAD cannot be preloaded \((.*)\)")


def is_program(crash: Path) -> bool:
    """False for a script around crash: of that the dynamic linker says nothing."""
    with crash.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def linkers_complaint(crash: Path, pykdump: Path) -> str | None:
    """Why `crash` cannot load `pykdump`; None where it can, or where the linker cannot tell.

    The linker binds every symbol, as crash's `extend` would, and runs nothing (see ldd -r).
    """
    if not is_program(crash):
        return None
    bound = subprocess.run(
        [crash],
        env={
            **os.environ,
            "LD_TRACE_LOADED_OBJECTS": "1",
            "LD_WARN": "yes",
            "LD_BIND_NOW": "yes",
            "LD_PRELOAD": str(pykdump),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    ).stdout
    if (refused := _REFUSED.search(bound)) is not None:
        return refused[1]
    if (missing := _MISSING.search(bound)) is not None:
        return f"{missing[1]} is not there"
    symbols = [name for name, where in _UNDEFINED.findall(bound) if Path(where) == pykdump]
    if not symbols:
        return None
    more = f" and {len(symbols) - 1:,} more" if len(symbols) > 1 else ""
    return f"undefined symbol {symbols[0]}{more}: it was built for another crash"


class Trial(NamedTuple):
    """What came of one."""

    ran: bool
    opened: bool
    """crash came as far as to obey what is typed."""
    why: str = ""
    """Of one that did not run, the line that tells most."""


def trial(crash: Path, lines: str, vmlinux: Path, vmcore: Path) -> Trial:
    """Whether `lines`, in ~/.crashrc, give crash our commands."""
    with tempfile.TemporaryDirectory(prefix="crashext-setup-") as folder:
        home = Path(folder)
        (home / ".crashrc").write_text(lines, errors="surrogateescape")
        (home / "typed").write_text(f"!echo {_OBEYS}\nleakscan --version\nquit\n")
        # By links: crash takes FILE@N for memory at address N.
        files = [home / "vmlinux", home / "vmcore"]
        for link, file in zip(files, (vmlinux, vmcore), strict=True):
            link.symlink_to(file.absolute())
        try:
            ran = subprocess.run(
                [crash, "-s", "-i", home / "typed", *files],
                cwd=home,
                env={**os.environ, "HOME": str(home)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_STARTS_IN,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Trial(False, False, f"it was still starting after {_STARTS_IN} s")
    said = [line.strip() for line in ran.stdout.splitlines() if line.strip()]
    opened = _OBEYS in said
    if f"crashext {__version__}" in ran.stdout:
        return Trial(True, opened)
    said = [line for line in said if line != _OBEYS]
    telling = [line for line in said if line.startswith(("extend:", "crash:", "crashext:"))]
    nothing = f"it ended with status {ran.returncode} and said nothing"
    return Trial(False, opened, (telling or said[-1:] or [nothing])[0])
