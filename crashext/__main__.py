"""`python -m crashext leakscan …`, `python -m crashext objsim …`.

crash's side starts the engine as `python -m crashext --bridge FD leakscan …`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crashext.hosts.base import Host

COMMANDS = ("leakscan", "objsim")
OLDEST = (3, 11)


def main() -> int:
    """Dispatch on the first argument."""
    arguments = sys.argv[1:]
    if sys.version_info < OLDEST:  # (crash's side may find any Python)
        version = ".".join(map(str, sys.version_info[:2]))
        print(f"crashext: this is Python {version}, 3.11 or later is needed", file=sys.stderr)
        return 3
    bridge = -1
    if len(arguments) > 2 and arguments[0] == "--bridge":
        bridge, arguments = int(arguments[1]), arguments[2:]
    if not arguments or arguments[0] not in COMMANDS:
        print(f"crashext: say which command: {' or '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _run(arguments[0], arguments[1:], bridge)


def leakscan() -> int:
    """The script of this name."""
    return _run("leakscan", sys.argv[1:])


def objsim() -> int:
    """The script of this name."""
    return _run("objsim", sys.argv[1:])


def _run(command: str, arguments: list[str], bridge: int = -1) -> int:
    """Ctrl-C may come while Python still loads the rest, which takes most of a second."""
    try:
        # Only now, as these need a Python that is new enough.
        from crashext.commands import entry
        from crashext.commands.place import SHELL, Place

        place = SHELL if bridge < 0 else Place("crash", lambda: _crash(bridge))
        return (entry.leakscan if command == "leakscan" else entry.objsim)(arguments, place)
    except KeyboardInterrupt:
        print(f"{command}: interrupted before anything was known", file=sys.stderr)
        return 130


def _crash(bridge: int) -> Host:
    from crashext.hosts.crash import connect

    return connect(bridge)


if __name__ == "__main__":
    sys.exit(main())
