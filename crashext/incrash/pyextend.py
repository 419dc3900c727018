"""What `extend` means once set-up was done: Python files go to epython, all else to the builtin."""

import os
import sys
from typing import List

sys.path.insert(0, os.path.dirname(os.path.realpath(sys.argv[0])))
import crash

import crashext_commands
import crashext_engine
import crashext_output
import crashext_start


def main(arguments: List[str]) -> None:
    """`extend ARGUMENTS`."""
    crashext_output.prepare()
    if arguments and arguments[0].endswith(".py"):
        python_file(arguments[0], arguments[1:])
    elif unloads_pykdump(arguments):
        crashext_engine.forget()
        crashext_commands.give_back_extend()
        crashext_output.tell(
            "extend: PyKdump cannot unload itself from within: type the same line again"
        )
    else:
        builtin(arguments)


def python_file(name: str, arguments: List[str]) -> None:
    """Ours are found from any directory; everything else as epython finds it."""
    program = os.path.basename(name)[:-3]
    if program in crashext_commands.COMMANDS and not os.path.exists(name):
        if not arguments:
            crashext_start.add(program)
            return
        name = os.path.join(crashext_commands.HERE, program + ".py")
    crash.exec_epython_command(name, *arguments)


def unloads_pykdump(arguments: List[str]) -> bool:
    """Whether this is `extend -u`, of everything or of PyKdump."""
    if "-u" not in arguments:
        return False
    names = [a for a in arguments if not a.startswith("-")]
    return not names or any("pykdump" in os.path.basename(a) for a in names)


def builtin(arguments: List[str]) -> None:
    """crash's own extend; its error lines come in the text, so nothing else may print them."""
    line = " ".join(["extend"] + [f'"{a}"' if " " in a else a for a in arguments])
    try:
        text = crash.exec_crash_command(line, 1)
    except crash.error as error:
        text = str(error)
    crashext_output.write(text)


main(sys.argv[1:])
