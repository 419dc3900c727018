"""`python -m crashext leakscan …`, `python -m crashext objsim …`.

crash's side starts the engine as `python -m crashext --bridge FD leakscan …`.
"""

from __future__ import annotations

import sys

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
    # Only now, as these need a Python that is new enough.
    from . import cli

    entry = cli.leakscan if arguments[0] == "leakscan" else cli.objsim
    if bridge < 0:
        return entry(arguments[1:])
    from .hosts.base import HostError
    from .hosts.crash import connect
    from .report.safe import safe

    try:
        host = connect(bridge)
    except HostError as error:
        print(f"{arguments[0]}: {safe(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{arguments[0]}: interrupted before anything was known", file=sys.stderr)
        return 130
    return entry(arguments[1:], host)


if __name__ == "__main__":
    sys.exit(main())
