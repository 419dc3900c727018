"""`python -m crashext leakscan …`, `python -m crashext objsim …`."""

from __future__ import annotations

import sys

from .cli import leakscan, objsim

_COMMANDS = {"leakscan": leakscan, "objsim": objsim}


def main() -> int:
    """Dispatch on the first argument."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in _COMMANDS:
        print(f"crashext: say which command: {' or '.join(_COMMANDS)}", file=sys.stderr)
        return 2
    return _COMMANDS[name](sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
