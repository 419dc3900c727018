"""The commands `leakscan` and `objsim`: parsed first, told what is wrong, and only then begun.

What does the work takes half a second to import: it is not, for -h or a mistake.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from crashext.commands.arguments import BAD_INPUT, Parser, leakscan_parser, objsim_parser
from crashext.commands.files import check_files
from crashext.commands.mistakes import mistake
from crashext.commands.options import Options, Refusal, leakscan_options, objsim_options
from crashext.commands.place import SHELL, Place
from crashext.commands.telling import tell


def leakscan(arguments: Sequence[str] | None = None, place: Place = SHELL) -> int:
    """Console script `leakscan`. Returns the exit status: 0 answered, 2 bad input."""
    return _command(leakscan_parser(place), leakscan_options, arguments, place)


def objsim(arguments: Sequence[str] | None = None, place: Place = SHELL) -> int:
    """Console script `objsim`. Returns the exit status: 0 answered, 2 bad input."""
    return _command(objsim_parser(place), objsim_options, arguments, place)


def _command(
    parser: Parser,
    meant: Callable[[argparse.Namespace, Place], Options],
    arguments: Sequence[str] | None,
    place: Place,
) -> int:
    try:
        options = meant(parser.parse_args(arguments), place)
        check_files(options)
    except Refusal as why:
        tell(parser.prog, str(why))
        return BAD_INPUT
    wrong = mistake(options, place)
    if wrong:
        tell(parser.prog, wrong)
        return BAD_INPUT
    from crashext.commands.running import run  # imports all that does the work

    return run(parser.prog, options, place)
