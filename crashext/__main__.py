"""`python -m crashext leakscan …`, `python -m crashext objsim …`.

crash's side starts the engine as `python -m crashext --bridge FD`.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial

COMMANDS = ("leakscan", "objsim")
OLDEST = (3, 11)


def main() -> int:
    """Dispatch on the first argument."""
    arguments = sys.argv[1:]
    if sys.version_info < OLDEST:  # (crash's side may find any Python)
        version = ".".join(map(str, sys.version_info[:2]))
        print(f"crashext: this is Python {version}, 3.11 or later is needed", file=sys.stderr)
        return 3
    if len(arguments) == 2 and arguments[0] == "--bridge":
        from crashext.resident.engine import serve

        return serve(int(arguments[1]))
    if not arguments or arguments[0] not in COMMANDS:
        print(f"crashext: say which command: {' or '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _run(arguments[0], arguments[1:])


def leakscan() -> int:
    """The script of this name."""
    return _run("leakscan", sys.argv[1:], script=sys.argv[0])


def objsim() -> int:
    """The script of this name."""
    return _run("objsim", sys.argv[1:], script=sys.argv[0])


def _run(command: str, arguments: list[str], script: str = "") -> int:
    """Ctrl-C may come while Python still loads the rest, which takes most of a second."""
    try:
        # Only now, as these need a Python that is new enough.
        from crashext.commands import entry
        from crashext.commands.place import Place
        from crashext.commands.process import be_thrifty, open_what_was_closed
        from crashext.resident.interrupts import Interrupts

        open_what_was_closed()
        be_thrifty()
        place = Place(start=partial(_started, script=script))
        with Interrupts().command(last=True):
            return (entry.leakscan if command == "leakscan" else entry.objsim)(arguments, place)
    except KeyboardInterrupt:
        print(f"{command}: interrupted before anything was known", file=sys.stderr)
        return 130


def _started(command: str, script: str) -> tuple[str, ...]:
    """The words that start `command` as this run was started: by its script, or by Python's -m."""
    if not script:
        return (_shortest(sys.executable), "-m", "crashext", command)
    return (_shortest(os.path.join(os.path.dirname(script), command)),)


def _shortest(path: str) -> str:
    """The file's bare name where the shell would find the same file by it."""
    name = os.path.basename(path)
    found = shutil.which(name)
    same = found is not None and os.path.abspath(found) == os.path.abspath(path)
    return name if same else path


if __name__ == "__main__":
    sys.exit(main())
