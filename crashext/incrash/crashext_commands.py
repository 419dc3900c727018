"""Teaches crash the commands `leakscan` and `objsim`, and `extend` to take Python files."""

import os
from typing import List

import crash

import crashext_help
import crashext_poke

HERE = os.path.dirname(os.path.realpath(crashext_poke.__file__))
COMMANDS = ("leakscan", "objsim")
_RUNNING = ("/proc/kcore", "/dev/mem", "/dev/crash")

_kept: List[bytes] = []  # strings that crash points at


def register() -> bool:
    """Make both commands known. Returns False where PyKdump cannot find their files later."""
    if not _reachable():
        return False
    known = crash.get_epython_cmds()
    if set(COMMANDS) <= set(known):
        return True
    said = crashext_help.texts(_live())
    for name in COMMANDS:
        if name not in known:
            crash.register_epython_prog(name, *said[name])
    return True


def _live() -> bool:
    """Whether crash looks at a running kernel."""
    try:
        said = str(crash.exec_crash_command("sys", 1))
    except crash.error:
        return False
    lines = [line.split() for line in said.splitlines()]
    files = [words[1:] for words in lines if words[:1] == ["DUMPFILE:"]]
    return not any(words and not words[0].startswith(_RUNNING) for words in files)


def take_over_extend() -> bool:
    """Make `extend FILE.py` work: alias the builtin to `pyextend`. Returns whether it did."""
    if not _reachable():
        return False
    if "pyextend" not in crash.get_epython_cmds():
        crash.register_epython_prog(
            "pyextend", "extend that takes Python files too", "[FILE...]", "  See help extend."
        )
    return _alias_extend("pyextend")


def give_back_extend() -> bool:
    """Undo `take_over_extend`. Returns whether it did."""
    return _alias_extend('""')


def _alias_extend(meaning: str) -> bool:
    """`alias extend MEANING`, which crash refuses as long as it sees a command of that name."""
    entry = _builtin("extend")
    if not entry:
        return False
    name = crashext_poke.read_pointer(entry)
    try:
        crashext_poke.write_pointer(entry, name + 1)  # for the moment it is called "xtend"
        try:
            crash.exec_crash_command("alias extend " + meaning, 1)
        except crash.error:
            pass  # it prints nothing, which PyKdump takes for an error
    finally:
        crashext_poke.write_pointer(entry, name)
    return True


def _builtin(wanted: str) -> int:
    """Address of the entry (name, func, help, flags) of a builtin in linux_command_table."""
    at = address_in_crash("linux_command_table")
    for _ in range(256) if at else ():
        name = crashext_poke.read_pointer(at)
        if not name:
            break
        if crashext_poke.text(name) == wanted.encode():
            return int(at)
        at += 32
    return 0


def address_in_crash(variable: str) -> int:
    """Where crash has one of its global variables; 0 if that is not known."""
    path = "/proc/self/exe"
    found = crashext_poke.address_of(path, variable)
    return int(found or crashext_poke.address_of(os.path.realpath(path), variable))


def _reachable() -> bool:
    """Whether PyKdump will find our files by name: PYKDUMPPATH, extended if need be."""
    path = crashext_poke.loaded("pykdump64.so") or crashext_poke.loaded("pykdump.so")
    variable = crashext_poke.address_of(path, "extrapath") if path else 0
    if not variable:
        return HERE in os.environ.get("PYKDUMPPATH", "").split(":")
    try:
        now = crashext_poke.text(crashext_poke.read_pointer(variable))
        if HERE.encode() in now.split(b":"):
            return True
        kept = (now + b":" if now else b"") + HERE.encode() + b"\0"
        _kept.append(kept)
        crashext_poke.write_pointer(variable, crashext_poke.content_address(kept))
    except OSError:
        return False
    return True
