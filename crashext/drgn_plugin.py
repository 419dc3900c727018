"""`%leakscan` and `%objsim` inside drgn: the same commands over the program that is open.

drgn imports this file by the entry point group `drgn.plugins`, at every start, so the engine is
only imported when a command is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drgn import Program
from drgn.commands import custom_command, parse_shell_command

if TYPE_CHECKING:
    from crashext.hosts.base import Host


def _run(program: Program, name: str, arguments: Sequence[str]) -> None:
    from crashext.commands import entry
    from crashext.commands.place import Place
    from crashext.commands.telling import tell
    from crashext.resident.interrupts import Interrupts

    command = {"leakscan": entry.leakscan, "objsim": entry.objsim}[name]
    try:
        # Half a module, or a lock half taken, would be there for all that drgn does after it.
        with Interrupts().command():
            command(arguments, Place("drgn", lambda: _host(program)))
    except SystemExit:
        return  # argparse has said what is wrong, or helped
    except KeyboardInterrupt:
        tell(name, "interrupted before anything was known")


def _host(program: Program) -> Host:
    from crashext.commands.opening import open_program
    from crashext.hosts.base import HostError

    source = program.core_dump_path
    try:
        return open_program(program, Path(str(source or "/proc/kcore")))
    except LookupError as error:
        raise HostError(str(error)) from error


@custom_command(
    name="leakscan",
    description="say whether memory is leaked, where, and by whom",
    usage="**leakscan** [*OPTIONS*] [*CACHE*...]",
    long_description="See **leakscan -h**.",
    parse=parse_shell_command,
)
def _leakscan(prog: Program, name: str, args: Sequence[str], **kwargs: Any) -> None:
    _run(prog, "leakscan", args)


@custom_command(
    name="objsim",
    description="compare slab objects, or find every object like one",
    usage="**objsim** [*OPTIONS*] *ADDR*...",
    long_description="See **objsim -h**.",
    parse=parse_shell_command,
)
def _objsim(prog: Program, name: str, args: Sequence[str], **kwargs: Any) -> None:
    _run(prog, "objsim", args)
