"""crash's `set scroll`, which PyKdump switches off when it is loaded: as the user had it before.

What it was is nowhere to be read afterwards; what made it so is: a terminal, crash's own command
line, and the `set` lines of its start-up files, all of which crash obeyed before it ran the others.
"""

import os
import re
from typing import Iterable, List

import crash

import crashext_commands
import crashext_poke

_SET = re.compile(r"\s*set\s+(scroll|silent)\s+(on|off|\d+)\s*$")
_OPTIONS = ("-s", "--no_scroll")
_FLAGS = 40  # of struct program_context: five char pointers come first (crash's defs.h)
_SCROLL = 0x800


def restore() -> None:
    """Switch scrolling on again, unless it was off."""
    if not (os.isatty(0) and os.isatty(1)) or not wanted(_command_line(), _lines()):
        return
    # In a start-up file, crash passes `set scroll on` over as done already: so the flag itself,
    # and back again where it was not the flag.
    variable = crashext_commands.address_in_crash("pc")
    if not variable or _state() != "off":
        return
    try:
        flags = crashext_poke.read_pointer(variable) + _FLAGS
        before = crashext_poke.read_pointer(flags)
        if before & _SCROLL:
            return
        crashext_poke.write_pointer(flags, before | _SCROLL)
        if _state() != "on":
            crashext_poke.write_pointer(flags, before)
    except OSError:
        pass


def wanted(words: List[str], lines: Iterable[str]) -> bool:
    """Whether scrolling was on, after crash's command line and these lines."""
    on = not any(word in _OPTIONS for word in words)
    for line in lines:
        found = _SET.match(line)
        if found and found.group(1) == "scroll":
            on = found.group(2) not in ("off", "0")
        elif found and found.group(2) not in ("off", "0"):
            on = False  # crash that is silent does not scroll
    return on


def _state() -> str:
    """What `set scroll` says: on or off."""
    try:
        words = str(crash.exec_crash_command("set scroll", 1)).split()
    except crash.error:
        return ""
    return words[1] if len(words) > 1 and words[0] == "scroll:" else ""


def _command_line() -> List[str]:
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return file.read().decode("utf-8", "replace").split("\0")[1:]
    except OSError:
        return []


def _lines() -> List[str]:
    """Of ~/.crashrc, then ./.crashrc, as crash reads them."""
    lines: List[str] = []
    for folder in (os.environ.get("HOME", "."), "."):
        try:
            with open(os.path.join(folder, ".crashrc"), errors="replace") as file:
                lines += file
        except OSError:
            continue
    return lines
