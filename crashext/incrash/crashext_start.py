"""What `epython leakscan.py` does: runs the command, or adds it to crash where it is unknown."""

from typing import List

import crash

import crashext_bridge
import crashext_commands
import crashext_output


def start(program: str, arguments: List[str]) -> None:
    """Run `program`; without arguments, and while crash does not know it, add it instead."""
    crashext_output.prepare()
    if not arguments and program not in crash.get_epython_cmds():
        add(program)
    else:
        crashext_bridge.run(program, arguments)


def add(program: str) -> None:
    """Add both commands and say so."""
    if crashext_commands.register():
        crashext_output.tell(
            f"leakscan and objsim are commands now: try '{program} -h' or 'help {program}'"
        )
    else:
        path = f"{crashext_commands.HERE}/{program}.py"
        crashext_output.tell(
            f"{program} cannot become a command here: type 'epython {path} ARGUMENTS' instead"
        )
